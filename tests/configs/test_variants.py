"""What a leaf changes in another one, and that it changes nothing else.

Every value of the leaves that are compared with is pinned by a saved config under tests/golden/configs
(tests/engine/config/test_renamed.py). What names tell of the training is left out (test_recipes.py).
"""

import re
from itertools import count
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.configs.leaves import LEAVES, config_of

RECIPE = (
    *("model.backbone.bottom_up", "train", "lr_multiplier", "optimizer.lr", "test_time_augmentation"),
    *("dataloader.train.total_batch_size", "dataloader.train.mapper.augm", "dataloader.test.mapper.augm"),
)
MASKS = {"dataset.masks": "True", "mapper.mask_format": "bitmask", "mask_branch": "MaskBranch(checkpoint"}
SALT = {
    "head.towers": "SALTTowers(operator=SALTOperator(channels=${..towers.channels}, coarse=True, norm=GN, "
    "num_levels=5), residual=True",
    "predictors.channels": "${..towers.towers.channels}",
}


def coarse_loss(weighting, least, weight):
    """The loss of coarse boxes, weighted like the boxes of the end."""
    return (
        f"LossTerm(loss=CoarseBoxLoss(eps=1e-07, target=AssignedBox(), weighting={weighting}()), "
        f"name=loss_box_reg_init, normalizer=CoarseWeightSum(least={least}, weighting={weighting}()), "
        f"weight={weight})"
    )


# Leaf, the one it is compared with, and what differs: end of the key -> beginning of the text.
VARIANTS = {
    "htd/htd_mask_r50_fpn_1x": ("htd/htd_r50_fpn_1x", MASKS),
    "baselines/mask_rcnn_r50_fpn_1x": (
        "baselines/faster_rcnn_r50_fpn_1x",
        {**MASKS, "stages.0.sampler.matcher": "ReassigningMatcher(iou=0.5)"},
    ),
    "baselines/cascade_rcnn_r50_fpn_1x": (
        "baselines/cascade_mask_rcnn_r50_fpn_1x",
        {"dataset.masks": "none", "mapper.mask_format": "none", "mask_branch": "NoMasks()"},
    ),
    "htc/htc_without_semantic_r50_fpn_1x": ("htc/htc_box_r50_fpn_1x", MASKS),
    "htc/htc_r50_fpn_1x_instance_maps": (
        "htc/htc_r50_fpn_1x",
        {
            "train.dataset.name": "coco_2017_train_instance_maps",
            "train.dataset.semantic_root": "coco/instancemaps/train2017",
            "semantic.background": "True",
            "semantic.num_semantic_classes": "${...num_classes}",
        },
    ),
    "tsd/tsd_faster_r50_fpn_1x_continuous": (
        "tsd/tsd_faster_r50_fpn_1x",
        {
            "mapper.convention": "none",
            "model.box_convention": "none",
            "anchor_generator": "DefaultAnchorGenerator(aspect_ratios=[0.5, 1, 2], offset=0,",
            "proposal_rule.min_box_size": "0",
            "stages.0.head.features": "SingleLevelPooler(aligned=True, output_size=7, sampling_ratio=0)",
            "classification.pooler.regions": "AlignedRegions()",
            "regression.pooler.regions": "AlignedRegions()",
        },
    ),
    "tsd/tsd_htd_r50_fpn_1x": (
        "htd/htd_r50_fpn_1x",
        {"stages.0.head": "TSDHead(", "stages.0.losses": "TSDLosses("},
    ),
    "tood/tood_r50_fpn_anchor_based_1x": (
        "tood/tood_r50_fpn_1x",
        {
            "decoder.decoder": "DeltaDecoder(transform=ClampedBox2BoxTransform(scale_clamp=4.13517, "
            "weights=[10, 10, 5, 5]))",
            "predictors.box_rule": "Scaled()",
        },
    ),
    "tood/tood_retinanet_r50_fpn_1x": (
        "baselines/retinanet_r50_fpn_1x",
        {
            "criterion.assigner": "TaskAlignedAssigner(alpha=1, beta=6, topk=13)",
            "terms.0.loss": "QualityFocalLoss(beta=2, quality=AssignedMetric())",
            "terms.0.normalizer": "WeightSum(least=1, weighting=AssignedMetric())",
            "terms.1.loss": "GIoULoss(weighting=AssignedMetric())",
            "terms.1.normalizer": "WeightSum(least=1, weighting=AssignedMetric())",
            "terms.1.weight": "2",
        },
    ),
    "tood/tood_fcos_r50_fpn_1x": (
        "baselines/fcos_r50_fpn_1x",
        {
            "head.towers": "InteractiveTowers(attention_dim=32, channels=256, num_deformable=0, "
            "num_groups=32, num_layers=6, offset_groups=4)",
            "head.predictors": "AlignedPredictors(box_rule=ExpOfScaled(largest=12),",
            "model.decoder": "SampledBoxDecoder(decoder=DistanceDecoder(in_cells=False), repair=True)",
            "criterion.terms": "[LossTerm(loss=FocalLoss(alpha=0.25, gamma=2)",
            "pre_nms.ranking": "None",
        },
    ),
    "baselines/gfl_r50_fpn_1x": (
        "salt/salt_gfl_r50_fpn_1x",
        {
            "head.towers": "TwinTowers(channels=256, deformable_last=False, num_convs=4, num_groups=32)",
            "predictors.channels": "${..towers.channels}",
            "criterion.terms": "[LossTerm(loss=QualityFocalLoss(beta=2, quality=PredictedIoU())",
        },
    ),
    "salt/salt_r50_fpn_1x": (
        "salt/salt_gfl_r50_fpn_1x",
        {
            "towers.towers.num_convs": "3",
            "head.predictors": "QualityPredictors(box_dim=68, box_rule=Scaled(), "
            "channels=${..towers.towers.channels}, extra_classes=0, hidden=64, "
            "num_classes=${...num_classes}, num_levels=5, prior_probability=0.01, topk=4)",
        },
    ),
    "salt/salt_atss_r50_fpn_1x": (
        "baselines/atss_r50_fpn_1x",
        {**SALT, "terms.3": coarse_loss("Centerness", "1", "1")},
    ),
    "salt/salt_fcos_r50_fpn_1x": (
        "baselines/fcos_r50_fpn_1x",
        {**SALT, "terms.3": coarse_loss("Centerness", "1e-06", "0.5")},
    ),
    "salt/salt_retinanet_r50_fpn_1x": (
        "baselines/retinanet_r50_fpn_1x",
        {**SALT, "terms.2": coarse_loss("AssignedMetric", "1", "0.5")},
    ),
    "salt/salt_tood_r50_fpn_1x": (
        "tood/tood_r50_fpn_1x",
        {
            "head.towers": SALT["head.towers"].replace("residual=True", "residual=False"),
            "predictors.channels": "${..towers.towers.channels}",
            "predictors.num_layers": "${..towers.towers.num_layers}",
            "initial.terms.2": coarse_loss("Centerness", "1", "1"),
            "aligned.terms.2": coarse_loss("AssignedMetric", "1", "1"),
        },
    ),
    "baselines/faster_rcnn_r50_fpn_openimages": (
        "tsd/tsd_faster_r50_fpn_openimages",
        {"stages.0.head": "SharedFCHead(", "stages.0.losses": "BoxLosses(loss_weight=1, "},
    ),
}
# What some names say besides the training.
ADDED = {
    r"htd_\w+_2x": {"nms": "SoftNMS(iou_threshold=0.5, method=linear, min_score=0.05)"},
    r"tood_\w+_dcnv2": {"towers.num_deformable": "2"},
    r"salt_\w+_dcnx": {"towers.towers.deformable_last": "True", "backbone.norm": "GN"},
}


def text_of(node):
    """Return a node of a config as text; a part as its class and arguments."""
    if isinstance(node, dict):
        arguments = ", ".join(f"{key}={text_of(node[key])}" for key in sorted(node) if key != "_target_")
        return f"{getattr(node.get('_target_'), '__name__', '')}({arguments})"
    if isinstance(node, list):
        return f"[{', '.join(map(text_of, node))}]"
    return getattr(node, "__name__", None) or (f"{node:.6g}" if isinstance(node, float) else str(node))


def differences(ours, base, key=""):
    """Yield the keys below which two nodes differ, with the text of ours: parts of one class by argument."""
    if key.startswith(RECIPE) or ours == base:
        return
    if isinstance(ours, dict) and isinstance(base, dict) and ours.get("_target_") == base.get("_target_"):
        names = {**ours, **base}
        pairs = [(name, ours.get(name, "none"), base.get(name, "none")) for name in names]
    elif isinstance(ours, list) and isinstance(base, list) and len(ours) >= len(base):
        pairs = zip(count(), ours, base + ["none"] * len(ours))
    else:
        yield key, text_of(ours)
        return
    for name, ours_below, base_below in pairs:
        yield from differences(ours_below, base_below, f"{key}.{name}".lstrip("."))


def content_of(leaf):
    return OmegaConf.to_container(config_of(f"configs/{leaf}.py"))


def assert_differences(leaf, base, expected):
    found = dict(differences(content_of(leaf), content_of(base)))
    for end, text in expected.items():
        (key,) = (key for key in found if f".{key}".endswith(f".{end}"))
        assert found.pop(key).startswith(text), key
    assert found == {}


@pytest.mark.parametrize("leaf", VARIANTS)
def test_variant_differs_from_its_base_as_it_says(leaf):
    assert_differences(leaf, *VARIANTS[leaf])


def plain_leaf(leaf):
    """Return the leaf of the same model with R-50 and the shortest training."""
    shortest = "20e" if "tsd_cascade" in leaf else "1x"
    return re.sub(r"_(r50|r101|r152|x101_\w+4d|r2_101|senet154)_fpn.*", f"_r50_fpn_{shortest}", leaf)


PINNED = {file.stem for file in Path("tests/golden/configs").iterdir()}
NAMES = [leaf.removeprefix("configs/").removesuffix(".py") for leaf in LEAVES if "/demo/" not in leaf]


@pytest.mark.parametrize("leaf", [n for n in NAMES if n not in VARIANTS and Path(n).stem not in PINNED])
def test_leaf_differs_from_the_plain_one_as_its_name_says(leaf):
    base = plain_leaf(leaf)
    added = [parts for name, parts in ADDED.items() if re.search(name, leaf)]
    assert base != leaf and len(added) <= 1
    assert_differences(leaf, base, added[0] if added else {})
