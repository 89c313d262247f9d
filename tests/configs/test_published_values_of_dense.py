"""The models of the dense detectors' leaves: every published value, leaf by leaf."""

import math

import pytest
from detectron2.config import LazyConfig
from torch import nn

from tests.configs.dense_tables import (
    PARAMETERS,
    SYSTEMS,
    TOOD,
    UNPUBLISHED,
    Phase,
    System,
    described,
)
from tests.configs.leaves import LEAVES, config_of, full_size

TOOD_LEAVES = [leaf for leaf in SYSTEMS if leaf.startswith("tood/")]
leaves = pytest.mark.parametrize("leaf", SYSTEMS)
tood_leaves = pytest.mark.parametrize("leaf", TOOD_LEAVES)


def model_of(leaf):
    return full_size(f"configs/{leaf}.py")[1]


def phases_of(criterion):
    """The parts of a training, in order."""
    return [criterion.initial, criterion.aligned] if hasattr(criterion, "initial") else [criterion]


def measured(model, cfg):
    """Return the values of a model as a System."""
    towers, predictors = model.head.towers, model.head.predictors
    towers = getattr(towers, "towers", towers)  # without what an adapter adds
    layers = getattr(towers, "interactive", None) or towers.classification
    norms = {getattr(layer.norm, "num_groups", None) for layer in layers}
    priors, top = cfg.model.anchor_generator, model.backbone.top_block
    ratios = list(priors.aspect_ratios)
    return System(
        sizes=tuple(round(size / priors.strides[0], 5) for size in priors.sizes[0]),
        forms=tuple(ratios),
        offset=priors.offset,
        top=(top.in_feature, isinstance(top.between, nn.ReLU)),
        towers=(type(towers).__name__, len(layers), norms.pop() if len(norms) == 1 else norms),
        box_outputs=predictors.bbox_pred.out_channels // predictors.num_anchors,
        box_rule=described(predictors.box_rule),
        scales=len(predictors.scales),
        centerness=predictors.centerness_from,
        decoder=described(model.decoder),
        postprocessing=described(model.postprocessing),
        phases=tuple(
            Phase(
                described(phase.assigner),
                {t.name: (described(t.loss), described(t.normalizer), t.weight) for t in phase.terms},
            )
            for phase in phases_of(model.criterion)
        ),
    )


def test_every_leaf_of_the_folder_is_in_a_table():
    known = {f"configs/{leaf}.py" for leaf in [*SYSTEMS, *UNPUBLISHED] if leaf.startswith("tood/")}
    assert known == {leaf for leaf in LEAVES if leaf.startswith("configs/tood/")}


@leaves
def test_values_of_the_system(leaf):
    cfg, model = full_size(f"configs/{leaf}.py")
    assert measured(model, cfg)._asdict() == SYSTEMS[leaf]._asdict()


@leaves
def test_values_that_all_have(leaf):
    cfg, model = full_size(f"configs/{leaf}.py")
    assert model.head_in_features == ["p3", "p4", "p5", "p6", "p7"]
    generator, predictors = model.anchor_generator, model.head.predictors
    assert list(generator.strides) == [8, 16, 32, 64, 128]
    for sizes, stride in zip(cfg.model.anchor_generator.sizes, generator.strides, strict=True):
        wanted = [size * stride for size in SYSTEMS[leaf].sizes]
        assert list(sizes) == pytest.approx(wanted, rel=1e-5)
    per_cell = len(SYSTEMS[leaf].sizes) * len(SYSTEMS[leaf].forms)
    assert generator.num_anchors == [per_cell] * 5 and predictors.num_anchors == per_cell
    assert predictors.cls_score.out_channels == 80 * per_cell and model.num_classes == 80
    assert cfg.model.head.predictors.prior_probability == 0.01
    assert all(phase.pad_divisor == 32 for phase in phases_of(model.criterion))
    assert list(cfg.model.pixel_mean) == [123.675, 116.28, 103.53]
    assert list(cfg.model.pixel_std) == [58.395, 57.12, 57.375]
    assert cfg.model.input_format == "RGB"


@leaves
def test_pyramid(leaf):
    backbone = model_of(leaf).backbone
    assert type(backbone).__name__ == "XavierFPN"
    bodies = [512, 1024, 2048]
    laterals = [getattr(backbone, f"fpn_lateral{k}") for k in (3, 4, 5)]
    outputs = [getattr(backbone, f"fpn_output{k}") for k in (3, 4, 5)]
    assert [tuple(conv.weight.shape) for conv in laterals] == [(256, c, 1, 1) for c in bodies]
    top = backbone.top_block
    source = 2048 if SYSTEMS[leaf].top[0] == "res5" else 256
    shapes = [tuple(conv.weight.shape) for conv in (*outputs, top.p6, top.p7)]
    assert shapes == [(256, channels, 3, 3) for channels in (256, 256, 256, source, 256)]
    for conv in (*laterals, *outputs, top.p6, top.p7):
        assert conv.bias is not None and conv.norm is None and conv.activation is None
    assert (top.p6.stride, top.p7.stride) == ((2, 2), (2, 2))


@pytest.mark.parametrize("leaf", [leaf for leaf in SYSTEMS if leaf not in TOOD_LEAVES])
def test_towers_of_the_baselines(leaf):
    head = model_of(leaf).head
    for tower in (head.towers.classification, head.towers.regression):
        for conv in tower:
            assert tuple(conv.weight.shape) == (256, 256, 3, 3)
            assert (conv.bias is None) == (conv.norm is not None) == bool(SYSTEMS[leaf].towers[2])
    assert not hasattr(head.predictors, "score_map")


@tood_leaves
def test_t_head(leaf):
    towers, predictors = model_of(leaf).head.towers, model_of(leaf).head.predictors
    deformable = [hasattr(layer, "offset") for layer in towers.interactive]
    assert deformable == ([True] * 2 + [False] * 4 if "_dcnv2" in leaf else [False] * 6)
    for layer in towers.interactive:
        assert tuple(layer.weight.shape) == (256, 256, 3, 3) and layer.bias is None
        if hasattr(layer, "offset"):
            # Four groups of nine taps, each with an offset and a mask.
            assert tuple(layer.offset.weight.shape) == (108, 256, 3, 3)
    for task in (towers.classification, towers.regression):
        convs = (task.attention[0], task.attention[2], task.reduction)
        shapes = [tuple(conv.weight.shape[:2]) for conv in convs]
        assert shapes == [(32, 1536), (6, 32), (256, 1536)]
        assert task.reduction.bias is None and task.reduction.norm.num_groups == 32
    for part, outputs in ((predictors.score_map, 1), (predictors.box_offsets, 8)):
        assert [tuple(part[k].weight.shape) for k in (0, 2)] == [(64, 1536, 1, 1), (outputs, 64, 3, 3)]
    norms = [m for m in model_of(leaf).head.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 8 and {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize("leaf", PARAMETERS)
def test_number_of_parameters(leaf):
    model = model_of(leaf)
    found = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model, model.head)]
    assert found == pytest.approx(PARAMETERS[leaf], abs=5e-4)


def test_what_is_trained():
    trained = [p.requires_grad for p in model_of("tood/tood_r50_fpn_1x").parameters()]
    assert (sum(trained), len(trained) - sum(trained)) == (191, 33)


@leaves
def test_stem_and_first_stage_are_frozen(leaf):
    frozen = {name for name, p in model_of(leaf).named_parameters() if not p.requires_grad}
    body = "backbone.bottom_up."
    expected = {
        name
        for name, _ in model_of(leaf).named_parameters()
        if name.startswith((f"{body}stem.", f"{body}res2."))
    }
    assert frozen == expected and len(frozen) > 30


def test_the_clamp_is_a_thousand_sixteenths():
    for leaf in ("baselines/atss_r50_fpn_1x", "baselines/retinanet_r50_fpn_1x"):
        clamp = model_of(leaf).decoder.transform.scale_clamp
        assert clamp == pytest.approx(math.log(1000 / 16), abs=1e-12)


def fresh(system):
    """A config that may be changed."""
    return LazyConfig.load(f"configs/{system}_r50_fpn_1x.py")


def test_retinanet_with_tood_differs_in_its_training_alone():
    plain, ours = fresh("baselines/retinanet"), fresh("tood/tood_retinanet")
    assert ours.model.criterion == config_of("configs/tood/tood_r50_fpn_1x.py").model.criterion.aligned
    ours.model.criterion = plain.model.criterion
    assert ours == plain


def test_fcos_with_t_head_differs_in_head_and_centerness_alone():
    plain, ours = fresh("baselines/fcos"), fresh("tood/tood_fcos")
    values = measured(model_of("tood/tood_fcos_r50_fpn_1x"), ours)
    assert values.towers == TOOD.towers and values.centerness is None
    assert values.decoder == "SampledBoxDecoder(decoder=DistanceDecoder(in_cells=False), repair=True)"
    ours.model.head, ours.model.decoder = plain.model.head, plain.model.decoder
    plain.model.criterion.terms.pop(2)
    plain.model.postprocessing.pre_nms.ranking = None
    assert ours == plain
