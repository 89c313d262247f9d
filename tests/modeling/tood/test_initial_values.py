"""Initial values of T-Head, as published, and what a head with them says."""

from types import SimpleNamespace

import pytest
import torch
from detectron2.config import instantiate

from htd.modeling.dense.predictors import prior_logit
from tests.modeling.dense.reference import model_config, random_maps
from tests.modeling.initial_values import assert_drawn_with
from tests.modeling.tood.reference import ANCHOR_BASED, DEFORMABLE, R50

LAYERS = 6
PRIOR = pytest.approx(prior_logit(0.01))
DRAWN = {
    **{f"towers.interactive.{i}": 0.01 for i in range(LAYERS)},
    **{
        f"towers.{task}.{layer}": std
        for task in ("classification", "regression")
        for layer, std in (("attention.0", 0.001), ("attention.2", 0.001), ("reduction", 0.01))
    },
    "predictors.bbox_pred": 0.01,
    "predictors.score_map.0": 0.01,
    "predictors.box_offsets.0": 0.001,
    "predictors.box_offsets.2": 0.001,
}
# Their biases give a score of 0.01.
RARE = ("predictors.cls_score", "predictors.score_map.2")
DEFORMED = ("towers.interactive.0", "towers.interactive.1")


def new_model(leaf):
    """A detector as a training begins it, without its backbone."""
    config = model_config(leaf)
    config.backbone = None
    torch.manual_seed(0)
    return instantiate(config).eval()


@pytest.fixture(scope="module")
def model():
    return new_model(R50)


@pytest.mark.parametrize("name", DRAWN)
def test_weights_and_biases(model, name):
    assert_drawn_with(model.head.get_submodule(name), DRAWN[name])


@pytest.mark.parametrize("name", RARE)
def test_layers_of_the_score(model, name):
    layer = model.head.get_submodule(name)
    assert_drawn_with(SimpleNamespace(weight=layer.weight, bias=None), 0.01)
    assert layer.bias.tolist() == [PRIOR] * len(layer.bias)


def test_norms_and_scales(model):
    rest = {
        name: parameter
        for name, parameter in model.head.named_parameters()
        if name.rpartition(".")[0] not in (*DRAWN, *RARE)
    }
    norms = [f"towers.interactive.{i}.norm" for i in range(LAYERS)]
    norms += [f"towers.{task}.reduction.norm" for task in ("classification", "regression")]
    scales = [f"predictors.scales.{i}" for i in range(5)]
    assert set(rest) == {*scales, *(f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias"))}
    for name, parameter in rest.items():
        assert (parameter == (0 if name.endswith("bias") else 1)).all()


@pytest.mark.parametrize("name", DEFORMED)
def test_deformable_layers_begin_with_half_of_an_ordinary_one(name):
    layer = new_model(DEFORMABLE).head.get_submodule(name)
    assert_drawn_with(layer, 0.01)
    x = torch.randn(1, 256, 5, 6, generator=torch.Generator().manual_seed(0))
    offset, mask = layer.split(layer.offset(x))
    assert offset.shape == (1, 4 * 18, 5, 6) and not offset.any()
    assert mask.shape == (1, 4 * 9, 5, 6) and (mask == 0.5).all()


@pytest.mark.parametrize("leaf", [R50, ANCHOR_BASED, DEFORMABLE])
@torch.no_grad()
def test_what_a_new_head_says(leaf):
    """Score 0.01, attention 0.5; boxes of a cell to each side of the point, or the anchors."""
    model, seen = new_model(leaf), []
    for task in (model.head.towers.classification, model.head.towers.regression):
        task.attention.register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = random_maps(0, 2, 64, 96, "cpu")
    found, priors = model.head(features), model.priors(features)
    assert len(seen) == 10
    assert torch.cat(seen).sigmoid().sub(0.5).abs().max() < 0.01
    assert found.logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.05)
    assert found.logits.sigmoid().sub(0.01).abs().max() < 0.01
    assert found.regression[..., -8:].abs().max() < 0.2  # offsets, in cells
    around = priors.centers.repeat(1, 2)
    cell = priors.prior_strides[:, None] * torch.tensor([-1, -1, 1, 1])
    wanted = priors.boxes if leaf == ANCHOR_BASED else around + cell
    before = model.decoder.decoder(found.regression[..., :-8], priors)
    assert ((before - wanted).abs() / priors.prior_strides[:, None]).median() < 0.5
