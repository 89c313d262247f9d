"""Parts of a dense detector that do not fit together are refused when it is built, by their keys."""

import copy

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from torch import nn

from htd.errors import UserError
from tests.configs.reduced import reduced_model

RETINANET, FCOS, ATSS, GFL = (
    f"configs/baselines/{name}_r50_fpn_1x.py" for name in ("retinanet", "fcos", "atss", "gfl")
)
TOOD = "configs/tood/tood_r50_fpn_1x.py"


def changed(leaf, **values):
    """The model of a config with other values, by keys with two underscores for a point."""
    config = reduced_model(leaf)
    for key, value in values.items():
        *path, name = key.split("__")
        node = config
        for part in path:
            node = node[part]
        node[name] = value
    return config


def refusal(config):
    with pytest.raises(UserError) as error:
        instantiate(config)
    return str(error.value)


@pytest.mark.parametrize(
    ("names", "strides"),
    [
        (["p4", "p5", "p6"], "[16, 32, 64]"),
        (["p4", "p5", "p6", "p7"], "[16, 32, 64, 128]"),
        (["p4", "p3", "p5", "p6", "p7"], "[16, 8, 32, 64, 128]"),
    ],
)
def test_strides_of_maps_and_anchors(names, strides):
    """Detectron2's generator makes anchors for the shorter of the two lists, and checks neither."""
    message = refusal(changed(ATSS, head_in_features=names))
    assert f"model.head_in_features {', '.join(names)} have the strides {strides}" in message
    assert "model.anchor_generator.strides are [8, 16, 32, 64, 128]" in message


def test_strides_of_fewer_anchors_than_maps():
    config = changed(ATSS, anchor_generator__strides=[8, 16], anchor_generator__sizes=[[64], [128]])
    assert "model.anchor_generator.strides are [8, 16]:" in refusal(config)


@pytest.mark.parametrize("leaf", [RETINANET, TOOD])
def test_channels_of_the_towers(leaf):
    message = refusal(changed(leaf, head__towers__channels=24, head__predictors__channels=16))
    assert message == (
        "numbers of channels differ: the maps of model.backbone (out_channels) 16, "
        "model.head.towers.channels 24, model.head.predictors.channels 16; give them all the same"
    )


@pytest.mark.parametrize("leaf", [GFL, TOOD])
def test_channels_of_the_backbone(leaf):
    message = refusal(changed(leaf, backbone__out_channels=32))
    assert message.startswith("numbers of channels differ: the maps of model.backbone (out_channels) 32, ")


def test_channels_of_maps_of_the_network_itself():
    """Each of which has others."""
    config = reduced_model(ATSS)
    config.backbone = config.backbone.bottom_up
    config.head_in_features = ["res3", "res4"]
    config.anchor_generator.strides, config.anchor_generator.sizes = [8, 16], [[64], [128]]
    config.head.predictors.num_levels = 2
    assert "(out_channels) 64 or 128, model.head.towers.channels 16, " in refusal(config)


class Narrowing(nn.Module):
    """Towers that do not say what they take."""

    def __init__(self, towers):
        super().__init__()
        self.towers, self.first = towers, nn.Conv2d(32, 16, 1)

    def forward(self, x, level):
        return self.towers(self.first(x), level)


def test_towers_that_do_not_say_their_channels_may_take_any():
    config = changed(GFL, backbone__out_channels=32)
    config.head.towers = L(Narrowing)(towers=config.head.towers)
    config.head.predictors.channels = 16
    instantiate(config).eval()([{"image": torch.zeros(3, 128, 128)}])


def test_maps_that_are_not_there():
    message = refusal(changed(ATSS, head_in_features=["p2", "p3", "p4", "p5", "p6"]))
    assert message == "model.head_in_features names p2; the maps of model.backbone are p3, p4, p5, p6, p7"


@pytest.mark.parametrize("leaf", [ATSS, TOOD])
def test_anchors_a_cell(leaf):
    nine = reduced_model(RETINANET).anchor_generator
    message = refusal(changed(leaf, anchor_generator=nine))
    assert "model.anchor_generator makes [9] anchors a cell" in message
    assert "model.head.predictors predicts for 1:" in message and "T-Head" in message


def test_anchors_of_some_levels_only():
    config = reduced_model(ATSS)
    config.anchor_generator.sizes[2] = [256, 300]
    assert "makes [1, 2] anchors a cell" in refusal(config)


def test_fewer_anchors_than_predicted():
    config = changed(RETINANET, anchor_generator__aspect_ratios=[1.0])
    assert "makes [3] anchors a cell" in refusal(config)


@pytest.mark.parametrize("leaf", [FCOS, TOOD])
@pytest.mark.parametrize("levels", [3, 6])
def test_scalars_of_the_levels(leaf, levels):
    message = refusal(changed(leaf, head__predictors__num_levels=levels))
    assert message.startswith(f"model.head.predictors.num_levels is {levels}, but there are 5 levels: give 5")


@pytest.mark.parametrize("value", ["reg", "shared", ""])
def test_where_centerness_is_predicted_from(value):
    message = refusal(changed(ATSS, head__predictors__centerness_from=value))
    assert message.startswith(f"model.head.predictors.centerness_from is '{value}';")


@pytest.mark.parametrize("leaf", [FCOS, ATSS])
def test_a_loss_of_centerness_without_the_branch(leaf):
    message = refusal(changed(leaf, head__predictors__centerness_from=None))
    assert "model.supervision has a loss of centerness" in message
    assert "model.head.predictors.centerness_from" in message


def test_a_loss_of_centerness_in_one_of_two_phases():
    config = reduced_model(TOOD)
    config.supervision.aligned.terms.append(copy.deepcopy(reduced_model(ATSS).supervision.terms[2]))
    assert "model.supervision has a loss of centerness" in refusal(config)


class Maps(nn.Module):
    """A backbone that does not say what it gives."""

    size_divisibility = 0

    def forward(self, x):
        return {f"p{level}": x.new_zeros(1, 16, 128 // 2**level, 128 // 2**level) for level in range(3, 8)}


def test_other_parts_are_not_looked_into():
    """A stand-in for a backbone, for a head, or none."""
    config = changed(GFL, backbone=None)
    assert instantiate(config).backbone is None
    parts = {key: instantiate(value) for key, value in config.items() if key not in ("_target_", "backbone")}
    detector = type(instantiate(config))(backbone=Maps(), **parts).eval()
    detector([{"image": torch.zeros(3, 128, 128)}])
    type(detector)(backbone=Maps(), **parts | {"head": nn.Identity()})
