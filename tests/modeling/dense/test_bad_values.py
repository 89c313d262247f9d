"""Values that no part of a dense detector can work with are refused when it is built, by their keys."""

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf

from htd.errors import UserError
from htd.modeling.dense import DistanceDecoder, DistributionDecoder
from htd.modeling.tood import SampledBoxDecoder
from tests.configs.reduced import reduced_model

RETINANET, FCOS, ATSS, GFL = (
    f"configs/baselines/{name}_r50_fpn_1x.py" for name in ("retinanet", "fcos", "atss", "gfl")
)
TOOD = "configs/tood/tood_r50_fpn_1x.py"
WHOLE = "give a whole number of at least"


def with_value(leaf, key, value):
    """The model of a config with another value."""
    config = copy.deepcopy(reduced_model(leaf))
    OmegaConf.update(config, key, value, merge=False)
    return config


def refusal(config):
    with pytest.raises(UserError) as error:
        instantiate(config)
    assert "None" not in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("value", [0, -3, 1.5, True, None])
@pytest.mark.parametrize(
    ("leaf", "key", "name"),
    [
        (ATSS, "supervision.assigner.topk", "topk of an ATSSAssigner"),
        (TOOD, "supervision.initial.assigner.topk", "topk of an ATSSAssigner"),
        (TOOD, "supervision.aligned.assigner.topk", "topk of a TaskAlignedAssigner"),
        (FCOS, "supervision.pad_divisor", "pad_divisor of a Supervision"),
    ],
)
def test_counts_of_the_supervision(leaf, key, name, value):
    part, _, last = key.rpartition(".")
    written = "null" if value is None else value
    config = with_value(leaf, key, value)
    with pytest.raises(UserError) as error:
        instantiate(OmegaConf.select(config, part))
    assert str(error.value) == f"{name} (model.supervision) is {written}: {WHOLE} 1"


@pytest.mark.parametrize(
    ("leaf", "key", "value", "least"),
    [
        (TOOD, "head.towers.num_layers", 0, 1),
        (TOOD, "head.towers.num_layers", 2.5, 1),
        (TOOD, "head.towers.num_deformable", -1, 0),
        (TOOD, "head.towers.num_deformable", None, 0),
        (ATSS, "head.predictors.num_anchors", 0, 1),
        (ATSS, "head.predictors.num_levels", -1, 0),
        (ATSS, "head.predictors.box_dim", 4.5, 1),
        (ATSS, "postprocessing.max_detections", 1.5, 1),
    ],
)
def test_counts_of_the_head(leaf, key, value, least):
    written = "null" if value is None else value
    assert refusal(with_value(leaf, key, value)) == f"model.{key} is {written}: {WHOLE} {least}"


@pytest.mark.parametrize("value", [0, 1.5, None])
def test_candidates_of_a_level(value):
    message = refusal(with_value(ATSS, "postprocessing.selection.topk", value))
    assert message.startswith("topk of a selection of dense candidates (model.postprocessing) is ")


def test_more_deformable_layers_than_there_are():
    message = refusal(with_value(TOOD, "head.towers.num_deformable", 7))
    assert message.startswith("model.head.towers.num_deformable is 7, but there are 6 interactive layers")


def test_all_layers_may_be_deformable():
    towers = instantiate(with_value(TOOD, "head.towers.num_deformable", 6).head.towers)
    assert sum(hasattr(layer, "offset") for layer in towers.interactive) == 6


@pytest.mark.parametrize("leaf, part", [(ATSS, "supervision"), (TOOD, "supervision.aligned")])
@pytest.mark.parametrize("value", [[], None])
def test_nothing_to_train_on(leaf, part, value):
    message = refusal(with_value(leaf, f"{part}.terms", value))
    assert message.startswith("the terms of a Supervision (model.supervision) are empty")


@pytest.mark.parametrize("value", [-1, -0.25, float("nan"), float("inf"), None])
def test_weights_that_train_backwards(value):
    written = "null" if value is None else value
    message = refusal(with_value(ATSS, "supervision.terms.1.weight", value))
    assert message.startswith(f"the weight of loss_box_reg (model.supervision) is {written}: give a number")


def test_a_loss_may_weigh_nothing():
    config = reduced_model(ATSS)
    config.supervision.terms[1].weight = 0
    assert instantiate(config).supervision.terms[1].weight == 0


@pytest.mark.parametrize("leaf", [ATSS, TOOD])
@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, float("nan"), None])
def test_prior_probabilities(leaf, value):
    written = "null" if value is None else value
    message = refusal(with_value(leaf, "head.predictors.prior_probability", value))
    assert message.startswith(f"model.head.predictors.prior_probability is {written}: give a number above 0")


@pytest.mark.parametrize("leaf", [FCOS, ATSS, TOOD])
def test_rules_that_scale_need_scalars(leaf):
    message = refusal(with_value(leaf, "head.predictors.num_levels", 0))
    assert message.startswith("model.head.predictors.num_levels is 0, but its box_rule multiplies")


@pytest.mark.parametrize(
    ("leaf", "box_dim", "wanted"),
    [
        (RETINANET, 5, "4"),
        (FCOS, 68, "4"),
        (ATSS, 8, "4"),
        (GFL, 4, "4 times at least 2 bins"),
        (GFL, 66, "4 times at least 2 bins"),
    ],
)
def test_numbers_that_a_decoder_reads(leaf, box_dim, wanted):
    message = refusal(with_value(leaf, "head.predictors.box_dim", box_dim))
    start = (
        f"model.decoder reads {wanted} numbers of a prior, model.head.predictors gives {box_dim}: set box_dim"
    )
    assert message.startswith(f"{start} of the predictors")


def test_decoders_of_another_head():
    sampled = L(SampledBoxDecoder)(decoder=L(DistanceDecoder)(in_cells=True))
    assert "reads 4 and 8 numbers of a prior, model.head.predictors gives 4:" in refusal(
        with_value(FCOS, "decoder", sampled)
    )
    plain = L(DistanceDecoder)(in_cells=True)
    assert "reads 4 numbers of a prior, model.head.predictors gives 12:" in refusal(
        with_value(TOOD, "decoder", plain)
    )
    bins = L(SampledBoxDecoder)(decoder=L(DistributionDecoder)())
    assert "reads 4 times at least 2 bins and 8 numbers" in refusal(with_value(TOOD, "decoder", bins))


def test_two_bins_are_enough():
    config = with_value(GFL, "head.predictors.box_dim", 8)
    config.supervision.terms.pop()
    instantiate(config).eval()([{"image": torch.zeros(3, 64, 64)}])


def test_functions_as_decoders_may_read_anything():
    assert SampledBoxDecoder(decoder=lambda regression, priors: regression[..., 1:5]).reads(13)


@pytest.mark.parametrize("name", ["pixel_mean", "pixel_std"])
@pytest.mark.parametrize(
    "value", [[1.0], [1.0, 2.0], [1.0] * 4, [], None, [1.0, None, 2.0], [float("nan")] * 3]
)
def test_one_number_a_channel(name, value):
    with pytest.raises(UserError, match=rf"^model.{name} is .*: give 3 numbers, one for each channel"):
        instantiate(with_value(ATSS, name, value))


@pytest.mark.parametrize("value", [[0, 1, 1], [57.0, -1.0, 57.0]])
def test_deviations_of_pixels(value):
    message = refusal(with_value(ATSS, "pixel_std", value))
    assert message.startswith(f"model.pixel_std is {value}: images are divided by it")


@pytest.mark.parametrize("value", [[], None])
def test_a_head_without_maps(value):
    assert refusal(with_value(TOOD, "head_in_features", value)).startswith("model.head_in_features is empty:")
