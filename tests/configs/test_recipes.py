"""How every leaf but the demos is trained and tested, as its name says: backbone, schedule, batch, images."""

import copy
import math

import pytest
from detectron2.config import instantiate

from tests.configs.leaves import LEAVES, config_of, full_size

# What a body is built of, and its first weights.
BACKBONES = {
    "r50": ({"depth": 50, "groups": 1, "width_per_group": 64}, "torchvision/resnet50"),
    "r101": ({"depth": 101, "groups": 1, "width_per_group": 64}, "torchvision/resnet101"),
    "r152": ({"depth": 152, "groups": 1, "width_per_group": 64}, "torchvision/resnet152"),
    "x101_32x4d": ({"depth": 101, "groups": 32, "width_per_group": 4}, "mmdet/resnext101_32x4d"),
    "x101_64x4d": ({"depth": 101, "groups": 64, "width_per_group": 4}, "mmdet/resnext101_64x4d"),
    "r2_101": ({"depth": 101, "base_width": 26, "splits": 4}, "mmdet/res2net101_v1d_26w_4s"),
    "senet154": ({}, "timm/senet154"),
}
# Short sides, longest side, and how a short side is drawn, in training at many scales.
MANY_SCALES = {
    "htd": ([400, 1400], 1600, "range"),
    "htc": ([400, 1400], 1600, "range"),
    "tsd": ([400, 1400], 1600, "range"),
    "tood": ([480, 800], 1333, "range"),
    "salt": ([480, 960], 1333, "range"),
}
COCO_IMAGES, OPEN_IMAGES = 117266, 1743042
published = pytest.mark.parametrize("leaf", [leaf for leaf in LEAVES if "/demo/" not in leaf])


def system_of(leaf):
    """Return the folder of a leaf, of baselines that of the system they are compared with."""
    folder = leaf.split("/")[1]
    if folder == "baselines":
        dense = ("retinanet", "fcos", "atss", "gfl")
        return "tood" if any(name in leaf for name in dense) else "tsd" if "openimages" in leaf else "htc"
    return folder


def recipe_of(leaf):
    """Return images, batch, rate, clipped norm, (epochs, and those after which the rate drops), warm-up."""
    system = system_of(leaf)
    if "openimages" in leaf:
        return OPEN_IMAGES, 64, 0.08, 35, (12, 8, 11), (26000, 1 / 64)
    if system == "tsd" and "tsd_ht" not in leaf:
        epochs = (21, 17, 20) if "_20e" in leaf else (34, 24, 33) if leaf.endswith("_ms.py") else (14, 9, 12)
        return COCO_IMAGES, 32, 0.04, 35, epochs, (3600, 1 / 32)
    epochs = (20, 16, 19) if "_20e" in leaf else (24, 16, 22) if "_2x" in leaf else (12, 8, 11)
    batch = 12 if system == "htd" and "_2x" in leaf else 16
    rate = 0.01 if system in ("tood", "salt") else 0.00125 * batch
    return COCO_IMAGES, batch, rate, None, epochs, (500, 0.001)


@published
def test_schedule(leaf):
    cfg = config_of(leaf)
    images, batch, rate, clip, (epochs, *drops), (warmup, factor) = recipe_of(leaf)
    epoch = math.ceil(images / batch)
    assert cfg.train.max_iter == epochs * epoch
    assert cfg.dataloader.train.total_batch_size == cfg.train.reference_batch_size == batch
    assert (cfg.train.clip_grad_norm, cfg.train.amp.enabled) == (clip, False)
    multiplier = instantiate(cfg.lr_multiplier)
    start = [multiplier(step / cfg.train.max_iter) for step in (0, warmup / 2, warmup)]
    assert start == pytest.approx([factor, (1 + factor) / 2, 1.0], abs=1e-4)
    for number, drop in enumerate(drops):
        before, after = (multiplier((drop * epoch + d) / cfg.train.max_iter) for d in (-2, 2))
        assert (before, after) == pytest.approx((0.1**number, 0.1 ** (number + 1)))
    optimizer = cfg.optimizer
    assert optimizer._target_.__name__ == "SGD"
    assert optimizer.lr == pytest.approx(rate, abs=1e-12)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert optimizer.params.weight_decay_norm is None and optimizer.params.weight_decay_bias is None


@pytest.mark.parametrize("leaf", ["tsd/tsd_faster_r50_fpn_1x", "tood/tood_r50_fpn_1x"])
def test_everything_that_is_trained_decays(leaf):
    cfg, model = full_size(f"configs/{leaf}.py")
    cfg = copy.deepcopy(cfg)
    cfg.optimizer._set_flag("allow_objects", True)
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["weight_decay"]) == (cfg.optimizer.lr, 1e-4)
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())


@published
def test_backbone_and_first_weights(leaf):
    cfg, model = full_size(leaf)
    body, built = cfg.model.backbone.bottom_up, model.backbone.bottom_up
    name = next(name for name in BACKBONES if f"_{name}_" in leaf)
    sizes, weights = BACKBONES[name]
    assert {key: body[key] for key in sizes} == sizes
    assert cfg.train.init_checkpoint == f"imagenet://{weights}"
    first = "res4" if "_dcn_" in leaf and system_of(leaf) == "salt" else "res3"
    first = "res4" if name == "x101_64x4d" and "_dcnv2" in leaf else first
    stages = [f"res{k}" for k in range(int(first[3]), 6)] if "_dcn" in leaf else []
    assert list(body.deform_stages) == stages
    assert bool(body.get("modulated")) == ("_dcnv2" in leaf)
    # Every block of these stages, and no other: two thirds of modulated ones are offsets, one third masks.
    offsets = {key: p for key, p in built.named_parameters() if key.endswith("offset.weight")}
    assert {key.split(".")[0] for key in offsets} == set(stages)
    if "splits" not in sizes:
        assert len(offsets) == sum(len(getattr(built, stage)) for stage in stages)
    assert {p.shape[0] for p in offsets.values()} <= {27 if "_dcnv2" in leaf else 18}
    assert (body.norm, body.freeze_at) == ("FixedBN", 2)
    trained = {key.split(".")[0] for key, p in built.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}


@published
def test_images(leaf):
    cfg = config_of(leaf)
    data, longest = cfg.dataloader, 1024 if "openimages" in leaf else 1333
    train = MANY_SCALES[system_of(leaf)] if leaf.endswith("_ms.py") else ([800], longest, "choice")
    test = ([800], 1600 if "htd_x101" in leaf else longest, "choice")
    for part, expected in ((data.train, train), (data.test, test)):
        resize = instantiate(part.mapper.augmentations[0])
        lengths = [*dict.fromkeys(resize.short_edge_length)]
        assert (lengths, resize.max_size, resize.sample_style) == expected
    flip = instantiate(data.train.mapper.augmentations[1])
    assert type(flip).__name__ == "RandomFlip" and flip.prob == 0.5
    assert [len(part.mapper.augmentations) for part in (data.train, data.test)] == [2, 1]
    assert data.train.mapper.image_format == data.test.mapper.image_format == cfg.model.input_format == "RGB"
    assert list(cfg.model.pixel_mean) == [123.675, 116.28, 103.53]
    assert list(cfg.model.pixel_std) == [58.395, 57.12, 57.375]
    assert data.train.dataset.filter_empty and data.train.aspect_ratio_grouping == ("openimages" not in leaf)
    if "openimages" not in leaf:
        assert data.train.dataset.min_image_side == 32 and data.test.dataset.name == "coco_2017_val"


@published
def test_views_at_test_time(leaf):
    views = config_of(leaf).get("test_time_augmentation")
    assert bool(views) == ("tsd_" in leaf and leaf.endswith("_ms.py"))
    if views:
        found = [
            (view.augmentations[0].max_size, view.augmentations[0].short_edge_length, view.mirrored)
            for view in views.views
        ]
        assert found == [(2000, side, mirrored) for side in (1400, 1200, 800, 600) for mirrored in (0, 1)]
        assert (views.proposal_nms.iou_threshold, views.max_proposals) == (0.7, 1000)
