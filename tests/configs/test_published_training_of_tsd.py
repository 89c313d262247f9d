"""How TSD's leaves and its baseline on OpenImages are trained and tested: every published value."""

import math

import pytest
from detectron2.config import LazyConfig, instantiate

from htd.layers import InclusiveBoxes
from tests.configs.leaves import config_of
from tests.configs.tsd_tables import BACKBONES, DEFORMABLE, ONE_X, SCHEDULES, SYSTEMS, UNPUBLISHED

leaves = pytest.mark.parametrize("leaf", SYSTEMS)


@leaves
def test_schedule(leaf):
    cfg = config_of(f"configs/{leaf}.py")
    name = next((name for name in SCHEDULES if f"_{name}" in leaf), "1x")
    images, batch, rate, (epochs, *drops), (warmup, factor) = SCHEDULES.get(name, ONE_X)
    an_epoch = math.ceil(images / batch)
    assert cfg.train.max_iter == epochs * an_epoch
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == batch
    assert cfg.optimizer.lr == rate == pytest.approx(0.00125 * batch)
    assert (cfg.optimizer.momentum, cfg.train.clip_grad_norm, cfg.train.amp.enabled) == (0.9, 35, False)

    multiplier = instantiate(cfg.lr_multiplier)
    found = [multiplier(step / cfg.train.max_iter) for step in (0, warmup / 2, warmup)]
    assert found == pytest.approx([factor, (1 + factor) / 2, 1.0], abs=1e-4)
    for number, drop in enumerate(drops):
        before, after = (multiplier((drop * an_epoch + d) / cfg.train.max_iter) for d in (-2, 2))
        assert (before, after) == pytest.approx((0.1**number, 0.1 ** (number + 1)))


@leaves
def test_backbone_and_first_weights(leaf):
    cfg = config_of(f"configs/{leaf}.py")
    body = cfg.model.backbone.bottom_up
    name = next(name for name in BACKBONES if f"_{name}_" in leaf)
    *sizes, weights = BACKBONES[name]
    assert [body.get(key) for key in ("depth", "groups", "width_per_group")] == sizes
    assert list(body.deform_stages) == (DEFORMABLE if "_dcn" in leaf else [])
    assert (body.norm, body.freeze_at) == ("FixedBN", 2)
    assert cfg.train.init_checkpoint == f"imagenet://{weights}"
    assert not body.get("modulated", False)


@leaves
def test_images(leaf):
    data = config_of(f"configs/{leaf}.py").dataloader
    open_images, many = "openimages" in leaf, "_ms" in leaf
    longest = 1024 if open_images else 1333
    expected = ([400, 1400], 1600, "range") if many else ([800], longest, "choice")
    resize, flip = (instantiate(a) for a in data.train.mapper.augmentations)
    assert ([*dict.fromkeys(resize.short_edge_length)], resize.max_size, resize.sample_style) == expected
    assert type(flip).__name__ == "RandomFlip" and flip.prob == 0.5
    (resize,) = (instantiate(a) for a in data.test.mapper.augmentations)
    assert ([*dict.fromkeys(resize.short_edge_length)], resize.max_size) == ([800], longest)
    # Boxes are given in the convention of the model.
    legacy = SYSTEMS[leaf].legacy
    name = data.train.mapper.augmentations[0]._target_.__name__
    assert name == "ResizeCV2"
    assert isinstance(instantiate(data.train.mapper).convention, InclusiveBoxes) == legacy
    assert data.train.dataset.filter_empty and data.train.mapper.image_format == "RGB"
    if open_images:
        assert data.train.dataset.inclusive_ends and not data.train.aspect_ratio_grouping
        assert data.train.sample_order._target_.__name__ == "ClassAwareOrder"
        assert data.evaluator.rule._target_.__name__ == "PublishedRule"
    else:
        assert data.train.aspect_ratio_grouping and data.train.dataset.min_image_side == 32


@leaves
def test_views(leaf):
    views = config_of(f"configs/{leaf}.py").get("test_time_augmentation")
    assert bool(views) == ("_ms" in leaf)
    if views:
        found = [
            (view.augmentations[0].max_size, view.augmentations[0].short_edge_length, view.mirrored)
            for view in views.views
        ]
        assert found == [(2000, side, mirrored) for side in (1400, 1200, 800, 600) for mirrored in (0, 1)]
        assert (views.proposal_nms.iou_threshold, views.max_proposals) == (0.7, 1000)


@pytest.mark.parametrize("leaf", UNPUBLISHED)
def test_other_systems_with_tsds_heads_differ_in_the_heads_alone(leaf):
    plain, ours = (LazyConfig.load(f"configs/{name}.py") for name in (UNPUBLISHED[leaf], leaf))
    stages = ours.model.roi_heads.stages
    with_tsd = [k for k, stage in enumerate(stages) if "constraints" in stage]
    assert with_tsd == ([0, 1, 2] if "htc" in leaf else [0])
    for k in with_tsd:
        assert [rule.margin for rule in stages[k].pop("constraints")] == [0.3, 0.3]
        stages[k] = plain.model.roi_heads.stages[k]
    assert ours == plain


def test_open_images_differs_from_coco_in_values_alone():
    plain, ours = (
        LazyConfig.load(f"configs/tsd/tsd_faster_r50_fpn_{n}.py").model for n in ("1x", "openimages")
    )
    heads, labels = ours.roi_heads, ours.proposal_generator.anchor_labeler
    assert (heads.num_classes, heads.selection.score_threshold, labels.low_quality_iou) == (500, 0.01, 0.5)
    heads.num_classes, heads.selection.score_threshold, labels.low_quality_iou = 80, 0.0, 0.3
    assert ours == plain
