"""What the leaves of published models have in common and where they differ: every value, leaf by leaf."""

import math
from typing import NamedTuple

import pytest
from detectron2.config import LazyConfig, instantiate

from tests.configs.dense_tables import SYSTEMS as DENSE
from tests.configs.leaves import LEAVES, full_size

COCO_IMAGES, BATCH = 117266, 16


class System(NamedTuple):
    """Values that are not the same in all systems, those of Cascade R-CNN if nothing is said.

    Attributes:
        box_outputs: outputs of each stage's box regression: 4, or 4 for each of 80 classes.
        mask_heads: number of mask heads.
        flow: transforms between mask heads.
        semantic_labels: labels of the semantic branch, 0 without one.
        rpn_beta, roi_beta: where smooth L1 turns linear; 0 is L1.
        border: pixels that anchors may reach out of the image; -1 for any.
        proposals: of an image in training.
        claims: whether objects claim the RoIs that fit them best.
        masks_on_refined: whether masks are learnt on RoIs sampled anew after refinement.
        score_threshold: least score of a detection.
        stds: of the deltas, of each stage.
    """

    box_outputs: tuple = (4, 4, 4)
    mask_heads: int = 0
    flow: int = 0
    semantic_labels: int = 0
    rpn_beta: float = 1 / 9
    roi_beta: float = 1.0
    border: int = 0
    proposals: int = 2000
    claims: bool = False
    masks_on_refined: bool = False
    score_threshold: float = 0.05
    stds: tuple = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


CASCADE = System()
CASCADE_MASK = System(mask_heads=3)
FASTER = System(
    box_outputs=(320,), rpn_beta=0.0, roi_beta=0.0, border=-1, proposals=1000, stds=CASCADE.stds[:1]
)
MASK = FASTER._replace(mask_heads=1, claims=True)
HTC_BOX = System(claims=True, score_threshold=0.001)
HTC_MASKS = HTC_BOX._replace(mask_heads=3, flow=2, masks_on_refined=True)
HTC = HTC_MASKS._replace(semantic_labels=183)

SYSTEMS = {
    "baselines/faster_rcnn_r50_fpn_1x": FASTER,
    "baselines/mask_rcnn_r50_fpn_1x": MASK,
    "baselines/cascade_rcnn_r50_fpn_1x": CASCADE,
    "baselines/cascade_rcnn_r50_fpn_20e": CASCADE,
    "baselines/cascade_mask_rcnn_r50_fpn_1x": CASCADE_MASK,
    "baselines/cascade_mask_rcnn_r50_fpn_20e": CASCADE_MASK,
    "htc/htc_box_r50_fpn_1x": HTC_BOX,
    "htc/htc_without_semantic_r50_fpn_1x": HTC_MASKS,
    "htc/htc_r50_fpn_1x_instance_maps": HTC._replace(semantic_labels=81),
    "htc/htc_r50_fpn_1x": HTC,
    "htc/htc_r50_fpn_20e": HTC,
    "htc/htc_r101_fpn_20e": HTC,
    "htc/htc_x101_32x4d_fpn_20e": HTC,
    "htc/htc_x101_64x4d_fpn_20e": HTC,
    "htc/htc_x101_64x4d_fpn_dcn_20e_ms": HTC,
}
# Epochs, and those after which the rate falls to a tenth.
SCHEDULES = {"1x": (12, 8, 11), "20e": (20, 16, 19)}
# Depth, groups, width of a group, stages with deformable convolutions, first weights.
RESNET50 = (50, 1, 64, [], "imagenet://torchvision/resnet50")
BACKBONES = {
    "htc/htc_r101_fpn_20e": (101, 1, 64, [], "imagenet://torchvision/resnet101"),
    "htc/htc_x101_32x4d_fpn_20e": (101, 32, 4, [], "imagenet://mmdet/resnext101_32x4d"),
    "htc/htc_x101_64x4d_fpn_20e": (101, 64, 4, [], "imagenet://mmdet/resnext101_64x4d"),
    "htc/htc_x101_64x4d_fpn_dcn_20e_ms": (
        *(101, 64, 4, ["res3", "res4", "res5"]),
        "imagenet://mmdet/resnext101_64x4d",
    ),
}
ONE_SCALE, MANY_SCALES = ([800], 1333, "choice"), ([400, 1400], 1600, "range")
SCALES = {"htc/htc_x101_64x4d_fpn_dcn_20e_ms": MANY_SCALES}

leaves = pytest.mark.parametrize("leaf", SYSTEMS)


def model_of(leaf):
    return full_size(f"configs/{leaf}.py")[1]


def config_of(leaf):
    return full_size(f"configs/{leaf}.py")[0]


def measured(model):
    """Return the values of a model as a System."""
    rpn, heads = model.proposal_generator, model.roi_heads
    (roi_beta,) = {stage.smooth_l1_beta for stage in heads.stages}
    (claims,) = {type(stage.sampler.matcher).__name__ == "ReassigningMatcher" for stage in heads.stages}
    stds = [tuple(round(1 / w, 9) for w in stage.box_transform.weights) for stage in heads.stages]
    masks = heads.mask_branch
    return System(
        box_outputs=tuple(stage.head.bbox_pred.out_features for stage in heads.stages),
        mask_heads=masks.num_heads,
        flow=len(masks.flow.transforms) if hasattr(getattr(masks, "flow", None), "transforms") else 0,
        semantic_labels=heads.context.semantic.num_labels if "semantic" in heads.context else 0,
        rpn_beta=rpn.smooth_l1_beta,
        roi_beta=roi_beta,
        border=rpn.anchor_labeler.allowed_border,
        proposals=rpn.proposal_rule.post_nms_topk[0],
        claims=claims,
        masks_on_refined=masks.num_heads > 0 and masks.roi_rule.needs_refined,
        score_threshold=heads.selection.score_threshold,
        stds=tuple(stds),
    )


def test_every_leaf_of_these_folders_is_in_the_table():
    folders = ("configs/baselines/", "configs/htc/")
    expected = {x for x in LEAVES if x.startswith(folders) and "openimages" not in x}
    assert {f"configs/{leaf}.py" for leaf in SYSTEMS} == expected - {f"configs/{leaf}.py" for leaf in DENSE}


@leaves
def test_values_of_the_system(leaf):
    assert measured(model_of(leaf))._asdict() == SYSTEMS[leaf]._asdict()


@leaves
def test_stages_rise_in_iou_and_fall_in_weight(leaf):
    model = model_of(leaf)
    stages, masks = model.roi_heads.stages, model.roi_heads.mask_branch
    found = [(s.sampler.matcher.thresholds[1], s.loss_weight) for s in stages]
    expected = [(0.5, 1.0), (0.6, 0.5), (0.7, 0.25)][: len(stages)]
    assert found == expected
    assert getattr(masks, "loss_weights", [])[:] == [w for _, w in expected][: masks.num_heads]
    for stage in stages:
        assert (stage.sampler.batch_size_per_image, stage.sampler.positive_fraction) == (512, 0.25)
        assert [layer.out_features for layer in stage.head.fcs] == [1024, 1024]
        assert stage.head.cls_score.out_features == stage.sampler.num_classes + 1 == 81


@leaves
def test_values_that_all_systems_share(leaf):
    model = model_of(leaf)
    rpn, heads = model.proposal_generator, model.roi_heads
    labels = rpn.anchor_labeler
    assert (labels.positive_iou, labels.negative_iou, labels.low_quality_iou) == (0.7, 0.3, 0.3)
    assert rpn.proposal_rule.pre_nms_topk == (2000, 1000)
    assert (rpn.proposal_rule.post_nms_topk[1], rpn.proposal_rule.nms_thresh) == (1000, 0.7)
    assert (rpn.batch_size_per_image, rpn.positive_fraction) == (256, 0.5)
    assert (heads.selection.nms.iou_threshold, heads.selection.max_detections) == (0.5, 100)
    assert type(heads.fusion).__name__ == "MeanLogits"
    if heads.mask_branch.num_heads:
        assert heads.mask_branch.threshold == 0.5
        shapes = [(len(h.convs), tuple(h.predictor.weight.shape)) for h in heads.mask_branch.heads]
        assert shapes == [(4, (80, 256, 1, 1))] * len(shapes)


@pytest.mark.parametrize("leaf", [leaf for leaf, system in SYSTEMS.items() if system.semantic_labels])
def test_the_semantic_branch(leaf):
    model = model_of(leaf)
    branch = model.roi_heads.context.semantic
    assert branch.in_features == ["p2", "p3", "p4", "p5", "p6"] and len(branch.convs) == 4
    assert (branch.fused_feature, branch.stride, branch.loss_weight) == ("p3", 8, 0.2)
    assert type(branch.loss_mean).__name__ == "MeanOverLabelled" and branch.ignore_value == 255
    box = [(s.head.features.poolers[1].settings, 7, 2) for s in model.roi_heads.stages]
    for settings, size, sub_bins in [*box, (model.roi_heads.mask_branch.features.poolers[1].settings, 14, 1)]:
        assert (settings["output_size"], settings["sub_bins"], settings["sampling_ratio"]) == (
            size,
            sub_bins,
            0,
        )


@leaves
def test_schedule(leaf):
    cfg = config_of(leaf)
    epochs, *drops = SCHEDULES["20e" if "_20e" in leaf else "1x"]
    an_epoch = math.ceil(COCO_IMAGES / BATCH)
    assert cfg.train.max_iter == epochs * an_epoch
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == BATCH
    optimizer = cfg.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.02, 0.9, 1e-4)
    assert optimizer.params.weight_decay_norm is None and optimizer.params.weight_decay_bias is None
    assert cfg.train.clip_grad_norm is None and not cfg.train.amp.enabled

    multiplier = instantiate(cfg.lr_multiplier)
    rate = [multiplier(step / cfg.train.max_iter) for step in (0, 250, 500)]
    assert rate == pytest.approx([0.001, 0.5005, 1.0], abs=1e-6)
    for number, drop in enumerate(drops):
        before, after = (multiplier((drop * an_epoch + d) / cfg.train.max_iter) for d in (-2, 2))
        assert (before, after) == pytest.approx((0.1**number, 0.1 ** (number + 1)))


@leaves
def test_backbone_and_first_weights(leaf):
    cfg = config_of(leaf)
    body = cfg.model.backbone.bottom_up
    found = (
        body.depth,
        body.groups,
        body.width_per_group,
        list(body.deform_stages),
        cfg.train.init_checkpoint,
    )
    assert found == BACKBONES.get(leaf, RESNET50)
    assert (body.norm, body.freeze_at) == ("FixedBN", 2)


@leaves
def test_scales_of_images(leaf):
    data = config_of(leaf).dataloader
    for part, expected in ((data.train, SCALES.get(leaf, ONE_SCALE)), (data.test, ONE_SCALE)):
        resize = instantiate(part.mapper.augmentations[0])
        lengths = [*dict.fromkeys(resize.short_edge_length)]
        assert (lengths, resize.max_size, resize.sample_style) == expected
    names = [a._target_.__name__ for a in data.train.mapper.augmentations]
    assert names == ["ResizeCV2", "RandomFlip"] and len(data.test.mapper.augmentations) == 1


def test_htd_with_masks_is_htd_with_one_mask_head_on_its_last_stage():
    plain, masks = (LazyConfig.load(f"configs/htd/htd_{name}r50_fpn_1x.py") for name in ("", "mask_"))
    added = masks.model.roi_heads.pop("mask_branch")
    assert len(added.heads) == 1 and added.loss_weights == [1.0]
    plain.model.roi_heads.pop("mask_branch")
    assert masks.model == plain.model
    assert (masks.train, masks.lr_multiplier, masks.optimizer) == (
        *(plain.train, plain.lr_multiplier),
        plain.optimizer,
    )
