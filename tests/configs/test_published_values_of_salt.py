"""SALT-Net's leaves, models and trainings: every published value; and what SALT changes in its hosts."""

import math

import pytest
from detectron2.config import LazyConfig, instantiate
from torch import nn

from tests import recorded
from tests.configs.dense_tables import SCHEDULES, described
from tests.configs.leaves import LEAVES, config_of, full_size
from tests.configs.salt_tables import BACKBONES, DEFORMABLE, MANIFESTS, PLUG_INS, SALT, TRAINED_AT
from tests.configs.schedules import assert_schedule
from tests.configs.test_published_values_of_dense import measured, model_of, phases_of

leaves = pytest.mark.parametrize("leaf", MANIFESTS)
plug_ins = pytest.mark.parametrize("leaf", PLUG_INS)
all_leaves = pytest.mark.parametrize("leaf", [*MANIFESTS, *PLUG_INS])
# An output of the published classifiers more than there are classes: 3 x 3 x 256 weights and a bias.
EXTRA_CLASS = 9 * 256 + 1
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked", "integral.project")


def config(leaf):
    return config_of(f"configs/{leaf}.py")


def fresh(leaf):
    """A config that may be changed."""
    return LazyConfig.load(f"configs/{leaf}.py")


def backbone_of(leaf):
    return next(name for name in BACKBONES if f"_{name}_" in leaf)


def deformable_part(leaf):
    return next((part for part in DEFORMABLE if part in leaf), None)


def test_every_leaf_of_the_folder_is_in_a_table():
    known = {f"configs/{leaf}.py" for leaf in (*MANIFESTS, *PLUG_INS)}
    assert known == {leaf for leaf in LEAVES if leaf.startswith("configs/salt/")}


@leaves
def test_values_of_the_system(leaf):
    cfg, model = full_size(f"configs/{leaf}.py")
    assert measured(model, cfg)._asdict() == SALT._asdict()


@leaves
def test_number_of_parameters(leaf):
    """Those of the published file, but for the class more."""
    entries = recorded.manifest("salt", MANIFESTS[leaf])["entries"]
    published = sum(math.prod(shape) for key, shape in entries.items() if not key.endswith(NO_PARAMETERS))
    assert sum(p.numel() for p in model_of(leaf).parameters()) == published - EXTRA_CLASS


@leaves
def test_head(leaf):
    head = model_of(leaf).head
    predictors = head.predictors
    assert predictors.num_anchors == 1 and predictors.centerness is None and predictors.topk == 4
    assert (predictors.cls_score.out_channels, predictors.extra_classes) == (80, 0)
    assert [tuple(predictors.quality[k].weight.shape) for k in (0, 2)] == [(64, 20, 1, 1), (1, 64, 1, 1)]
    for tower in (head.towers.towers.classification, head.towers.towers.regression):
        deformable = [getattr(conv, "offset", None) for conv in tower]
        assert [conv is not None for conv in deformable] == [False, False, "_dcnx_" in leaf]
        # Two thirds are offsets, one third masks; one group for all channels.
        assert all(conv.out_channels == 27 for conv in deformable if conv is not None)
        assert all(tuple(conv.weight.shape) == (256, 256, 3, 3) and conv.bias is None for conv in tower)
    norms = [m for m in head.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 6 + 4 and {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-5)}
    cfg = config(leaf).model
    assert cfg.head.predictors.prior_probability == 0.01
    assert model_of(leaf).postprocessing.num_classes == model_of(leaf).num_classes == 80


@all_leaves
def test_operator(leaf):
    towers = model_of(leaf).head.towers
    operator, residual = towers.operator, leaf in MANIFESTS or PLUG_INS[leaf][1]
    assert towers.residual == residual and towers.coarse and towers.num_levels == 5
    for name in ("coarse_conv", "vector_conv", "regression", "classification"):
        layer = getattr(operator, name)
        assert tuple(layer.weight.shape) == (256, 256, 3, 3) and layer.norm.num_groups == 32
        assert (layer.bias is None) == (name in ("regression", "classification"))
    shapes = [tuple(x.weight.shape) for x in (operator.distances, operator.factors, operator.vectors)]
    assert shapes == [(4, 256, 3, 3), (14, 256, 3, 3), (18, 256, 3, 3)]


@leaves
def test_pyramid(leaf):
    """Norms stand behind all of its eight convolutions, or behind none."""
    backbone = model_of(leaf).backbone
    convs = [getattr(backbone, f"fpn_{kind}{k}") for kind in ("lateral", "output") for k in (3, 4, 5)]
    convs += [backbone.top_block.p6, backbone.top_block.p7]
    for conv in convs:
        if "_dcnx_" in leaf:
            assert conv.bias is None and conv.norm.num_groups == 32
        else:
            assert conv.bias is not None and conv.norm is None
    assert model_of(leaf).head_in_features == ["p3", "p4", "p5", "p6", "p7"]
    assert all(phase.pad_divisor == 32 for phase in phases_of(model_of(leaf).criterion))


@leaves
def test_backbone_and_first_weights(leaf):
    body, name, part = config(leaf).model.backbone.bottom_up, backbone_of(leaf), deformable_part(leaf)
    sizes, weights = BACKBONES[name]
    assert {key: body[key] for key in sizes} == sizes
    assert config(leaf).train.init_checkpoint == f"imagenet://{weights}"
    stages, layers = DEFORMABLE[part] if part else ([], {})
    assert (list(body.deform_stages), body.modulated) == (stages, False)
    assert (body.norm, body.freeze_at) == ("FixedBN", 2)
    built = model_of(leaf).backbone.bottom_up
    assert sum(key.endswith("offset.weight") for key in built.state_dict()) == layers.get(name, 0)
    trained = {key.split(".")[0] for key, p in built.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}


@all_leaves
def test_schedule_and_optimizer(leaf):
    cfg = config(leaf)
    assert_schedule(cfg, *SCHEDULES["2x" if "_2x" in leaf else "1x"])
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.01, 0.9, 1e-4)
    assert cfg.train.clip_grad_norm is None and not cfg.train.amp.enabled


@all_leaves
def test_images(leaf):
    data = config(leaf).dataloader
    trained = TRAINED_AT["2x_ms" if leaf.endswith("_2x_ms") else "1x"]
    for part, expected in ((data.train, trained), (data.test, TRAINED_AT["1x"])):
        resize = instantiate(part.mapper.augmentations[0])
        lengths = [*dict.fromkeys(resize.short_edge_length)]
        assert (lengths, resize.max_size, resize.sample_style) == expected
    flip = instantiate(data.train.mapper.augmentations[1])
    assert type(flip).__name__ == "RandomFlip" and flip.prob == 0.5
    assert data.train.dataset.filter_empty and data.train.dataset.min_image_side == 32
    assert (data.train.dataset.name, data.test.dataset.name) == ("coco_2017_train", "coco_2017_val")
    assert data.train.mapper.image_format == config(leaf).model.input_format == "RGB"


@plug_ins
def test_a_plug_in_differs_from_its_host_in_the_operator_and_its_loss_alone(leaf):
    host, residual, losses = PLUG_INS[leaf]
    plain, ours = fresh(host), fresh(leaf)
    phases = phases_of(model_of(leaf).criterion)
    for phase, expected in zip(phases, losses, strict=True):
        term = phase.terms[-1]
        assert term.name == "loss_box_reg_init"
        assert (described(term.loss), described(term.normalizer), term.weight) == expected
    for phase in phases_of(ours.model.criterion):
        phase.terms.pop()
    assert ours.model.head.towers.residual == residual
    ours.model.head.towers = ours.model.head.towers.towers
    # They refer to the towers' channels, a level further in.
    ours.model.head.predictors, found = plain.model.head.predictors, ours.model.head.predictors
    assert set(found) == set(plain.model.head.predictors) and ours == plain
    predictors = [model_of(name).head.predictors.state_dict() for name in (leaf, host)]
    shapes = [{name: value.shape for name, value in each.items()} for each in predictors]
    assert shapes[0] == shapes[1]
