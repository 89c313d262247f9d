"""How the dense detectors' leaves are trained and tested: every published value."""

import copy
import math

import pytest
from detectron2.config import instantiate

from tests.configs.dense_tables import (
    BACKBONES,
    BATCH,
    COCO_IMAGES,
    DEFORMABLE,
    SCHEDULES,
    SWITCH,
    SWITCH_EPOCHS,
    SYSTEMS,
    UNPUBLISHED,
)
from tests.configs.leaves import config_of, full_size
from tests.configs.schedules import assert_schedule

ALL = [*SYSTEMS, *UNPUBLISHED]
leaves = pytest.mark.parametrize("leaf", ALL)


def config(leaf):
    return config_of(f"configs/{leaf}.py")


def length(leaf):
    return SCHEDULES["2x" if "_2x" in leaf else "1x"]


@leaves
def test_schedule(leaf):
    assert_schedule(config(leaf), *length(leaf))


@leaves
def test_optimizer(leaf):
    cfg = config(leaf)
    assert cfg.optimizer._target_.__name__ == "SGD"
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.01, 0.9, 1e-4)
    assert cfg.train.clip_grad_norm is None and not cfg.train.amp.enabled


@pytest.mark.parametrize("leaf", ["tood/tood_r50_fpn_1x", "baselines/retinanet_r50_fpn_1x"])
def test_everything_trained_decays(leaf):
    cfg, model = full_size(f"configs/{leaf}.py")
    cfg = copy.deepcopy(cfg)
    cfg.optimizer._set_flag("allow_objects", True)
    cfg.optimizer.params.model = model
    (group,) = instantiate(cfg.optimizer).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.01, 1e-4)
    assert len(group["params"]) == sum(p.requires_grad for p in model.parameters())


@leaves
def test_switch_of_phases(leaf):
    criterion = full_size(f"configs/{leaf}.py")[1].criterion
    if leaf.startswith("tood/") and leaf in SYSTEMS:
        assert (criterion.switch_iter, criterion.switch_epochs) == (SWITCH, None)
        assert math.ceil(COCO_IMAGES / BATCH) * SWITCH_EPOCHS == SWITCH
    else:
        assert not hasattr(criterion, "switch_iter")


@leaves
def test_backbone_and_first_weights(leaf):
    cfg = config(leaf)
    body = cfg.model.backbone.bottom_up
    name = next(name for name in BACKBONES if f"_{name}_" in leaf)
    *sizes, weights = BACKBONES[name]
    assert [body.depth, body.groups, body.width_per_group] == sizes
    assert cfg.train.init_checkpoint == f"imagenet://{weights}"
    deformable = "_dcnv2" in leaf
    assert list(body.deform_stages) == (DEFORMABLE[name] if deformable else [])
    assert (body.modulated, body.offset_groups) == (deformable, 1)
    assert (body.norm, body.freeze_at) == ("FixedBN", 2)
    assert list(body.out_features) == ["res3", "res4", "res5"]


@leaves
def test_images(leaf):
    data = config(leaf).dataloader
    train = ([480, 800], 1333, "range") if "_ms" in leaf else ([800], 1333, "choice")
    for part, expected in ((data.train, train), (data.test, ([800], 1333, "choice"))):
        resize = instantiate(part.mapper.augmentations[0])
        lengths = [*dict.fromkeys(resize.short_edge_length)]
        assert (lengths, resize.max_size, resize.sample_style) == expected
    flip = instantiate(data.train.mapper.augmentations[1])
    assert type(flip).__name__ == "RandomFlip" and flip.prob == 0.5
    assert [len(part.mapper.augmentations) for part in (data.train, data.test)] == [2, 1]
    assert data.train.mapper.image_format == "RGB" and data.train.aspect_ratio_grouping
    assert data.train.dataset.filter_empty and data.train.dataset.min_image_side == 32
    assert not data.train.mapper.get("mask_format")
    assert (data.train.dataset.name, data.test.dataset.name) == ("coco_2017_train", "coco_2017_val")
    assert config(leaf).get("test_time_augmentation") is None


def test_deformable_convolutions_replace_all_of_their_stages():
    for leaf in (leaf for leaf in SYSTEMS if "_dcnv2" in leaf):
        body = full_size(f"configs/{leaf}.py")[1].backbone.bottom_up
        for stage in ("res2", "res3", "res4", "res5"):
            blocks = list(getattr(body, stage))
            offsets = [getattr(block, "conv2_offset", None) for block in blocks]
            wanted = stage in config(leaf).model.backbone.bottom_up.deform_stages
            assert [offset is not None for offset in offsets] == [wanted] * len(blocks)
            # Two thirds are offsets, one third masks; one group for all channels.
            assert all(offset.out_channels == 27 and offset.groups == 1 for offset in offsets if offset)
            assert all(block.conv2.groups == (64 if "x101" in leaf else 1) for block in blocks)
