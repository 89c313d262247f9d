"""The models of TSD's leaves and of its baseline on OpenImages: every published value, leaf by leaf."""

import copy
import math

import pytest
from detectron2.config import instantiate

from htd.layers import InclusiveBoxes, RoundedRegions
from htd.modeling.cascade import legacy_paste
from tests.configs.leaves import LEAVES, config_of, full_size
from tests.configs.tsd_tables import STDS, SYSTEMS, UNPUBLISHED, System

leaves = pytest.mark.parametrize("leaf", SYSTEMS)


def model_of(leaf):
    return full_size(f"configs/{leaf}.py")[1]


def only(values):
    """The one value that all have."""
    first, *others = values
    assert all(other == first for other in others)
    return first


def measured(model):
    """Return the values of a model as a System."""
    rpn, heads = model.proposal_generator, model.roi_heads
    stages = list(heads.stages)
    pooler = only([type(stage.head.features).__name__ for stage in stages])
    marks = [
        isinstance(heads.convention, InclusiveBoxes),
        isinstance(rpn.box_convention, InclusiveBoxes),
        type(rpn.anchor_generator).__name__ == "RoundedAnchorGenerator",
        pooler == "LegacyRoIAlignPooler",
    ]
    towers = [stage.head.regression if hasattr(stage.head, "trunk") else stage.head for stage in stages]
    masks = heads.mask_branch
    if masks.num_heads:
        marks += [
            type(masks.targets).__name__ == "LegacyMaskTargets",
            masks.paste_masks is legacy_paste,
            type(masks.features).__name__ == "LegacyRoIAlignPooler",
        ]
    return System(
        ious=tuple(stage.sampler.matcher.thresholds[1] for stage in stages),
        box_outputs=only([tower.bbox_pred.out_features for tower in towers]),
        classes=only([heads.num_classes, *(stage.num_classes for stage in stages)]),
        masks=masks.num_heads,
        legacy=only(marks),
        tsd=only([hasattr(stage.head, "trunk") for stage in stages]),
        score_threshold=heads.selection.score_threshold,
        low_quality_iou=rpn.anchor_labeler.low_quality_iou,
    )


def test_every_leaf_of_the_folder_is_in_a_table():
    published = {f"configs/{leaf}.py" for leaf in [*SYSTEMS, *UNPUBLISHED] if leaf.startswith("tsd/")}
    assert published == {leaf for leaf in LEAVES if leaf.startswith("configs/tsd/")}


@leaves
def test_values_of_the_system(leaf):
    assert measured(model_of(leaf))._asdict() == SYSTEMS[leaf]._asdict()


@pytest.mark.parametrize("leaf", [leaf for leaf, system in SYSTEMS.items() if system.tsd])
def test_values_of_tsd(leaf):
    system = SYSTEMS[leaf]
    for stage in model_of(leaf).roi_heads.stages:
        head = stage.head
        assert (head.shift_factor, head.trunk.in_features, head.trunk.out_features) == (0.1, 12544, 256)
        assert [layer.out_features for layer in (head.classification.shift[0], head.regression.shift[0])] == [
            256,
            256,
        ]
        assert (head.classification.shift[2].out_features, head.regression.shift[2].out_features) == (98, 2)
        margins = [(type(rule).__name__, rule.margin) for rule in stage.constraints]
        assert margins == [("ClassificationMargin", 0.3), ("LocalizationMargin", 0.3)]
        for tower in (head.classification, head.regression, head.sibling):
            assert [layer.out_features for layer in tower.fcs] == [1024, 1024]
        for tower in (head.classification, head.sibling):
            assert tower.cls_score.out_features == system.classes + 1
        assert head.sibling.bbox_pred.out_features == system.box_outputs
        for tower in (head.classification, head.regression):
            settings = tower.pooler.settings
            assert (settings["output_size"], settings["samples"]) == (7, 4)
            assert isinstance(settings["regions"], RoundedRegions) == system.legacy


@leaves
def test_values_of_stages(leaf):
    stages = model_of(leaf).roi_heads.stages
    stds = [tuple(round(1 / w, 9) for w in stage.box_transform.weights) for stage in stages]
    assert stds == list(STDS[: len(stages)])
    for stage in stages:
        assert (stage.loss_weight, stage.smooth_l1_beta) == (1.0, 1.0)
        assert (stage.sampler.batch_size_per_image, stage.sampler.positive_fraction) == (512, 0.25)
        assert type(stage.sampler.matcher).__name__ == "ReassigningMatcher"
        clamp = stage.box_transform.scale_clamp
        assert clamp == pytest.approx(math.log(1000 / 16))
        rule = "SampledOrBestClass" if len(stages) > 1 else "BestForegroundClass"
        assert type(stage.refined_class).__name__ == rule


@leaves
def test_values_that_all_have(leaf):
    model = model_of(leaf)
    rpn, heads = model.proposal_generator, model.roi_heads
    labels = rpn.anchor_labeler
    assert (labels.positive_iou, labels.negative_iou, labels.allowed_border) == (0.7, 0.3, 0)
    assert tuple(rpn.proposal_rule.pre_nms_topk) == (2000, 1000)
    assert tuple(rpn.proposal_rule.post_nms_topk) == (2000, 1000)
    assert rpn.proposal_rule.nms_thresh == 0.7
    assert (rpn.batch_size_per_image, rpn.positive_fraction, rpn.smooth_l1_beta) == (256, 0.5, 1 / 9)
    assert (heads.selection.nms.iou_threshold, heads.selection.max_detections) == (0.5, 100)
    assert type(heads.fusion).__name__ == "MeanLogits"
    level = heads.level_rule
    assert (level.num_levels, level.finest_size, level.offset) == (4, 56.0, 1e-6)
    assert list(config_of(f"configs/{leaf}.py").model.pixel_mean) == [123.675, 116.28, 103.53]
    assert list(config_of(f"configs/{leaf}.py").model.pixel_std) == [58.395, 57.12, 57.375]


def test_everything_decays():
    cfg, model = full_size("configs/tsd/tsd_faster_r50_fpn_1x.py")
    cfg = copy.deepcopy(cfg)
    cfg.optimizer._set_flag("allow_objects", True)
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.04, 1e-4)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(group["params"]) == len(trained)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "backbone.bottom_up.res3.0.conv1.norm.weight" in names
    assert not any(name.startswith(("backbone.bottom_up.stem", "backbone.bottom_up.res2")) for name in names)


@pytest.mark.parametrize("leaf", [leaf for leaf, system in SYSTEMS.items() if system.masks])
def test_the_mask_branch(leaf):
    branch = model_of(leaf).roi_heads.mask_branch
    (head,) = branch.heads
    assert [conv.out_channels for conv in head.convs] == [256] * 4
    assert tuple(head.predictor.weight.shape) == (80, 256, 1, 1)
    assert (list(branch.loss_weights), branch.threshold) == ([1.0], 0.5)
    assert branch.features.settings == {"output_size": 14, "sampling_ratio": 2}


def test_legacy_pooling_of_boxes_takes_four_samples_a_bin():
    for leaf, system in SYSTEMS.items():
        for stage in model_of(leaf).roi_heads.stages if system.legacy else ():
            assert stage.head.features.settings == {"output_size": 7, "sampling_ratio": 2}
