"""Building the parts of a config."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from htd.engine.config import build
from htd.engine.config.hints import fits, in_words
from htd.errors import UserError
from htd.layers import GroupNormOf


class Part:
    """Keeps its arguments."""

    def __init__(self, value=None, more=None) -> None:
        self.value, self.more = value, more


class Picky:
    """Fails in one of many ways."""

    def __init__(self, error=None, *, size: int = 1) -> None:
        if size < 1:
            raise ValueError(f"size is {size};\nit has to be at least 1")
        if error == "assert":
            assert size > 1
        if error == "key":
            {}["absent"]
        if error == "user":
            raise UserError("file x is not there")


def as_config(**nodes) -> DictConfig:
    return OmegaConf.create(nodes, flags={"allow_objects": True})


def kinds(built: object) -> object:
    """Return classes and values of what was built, member by member."""
    if isinstance(built, Part):
        return Part, kinds(built.value), kinds(built.more)
    if isinstance(built, (list, tuple, ListConfig)):
        return type(built), [kinds(member) for member in built]
    return type(built), str(built)


@pytest.mark.parametrize(
    "node",
    [
        L(Part)(value=[L(Part)(value=1), 2, [3]], more={"a": L(Part)(), "b": [1]}),
        L(Part)(value="${n}", more=L(torch.nn.Linear)(in_features=1, out_features=2)),
        L(Part)(value=None, more=ShapeSpec(channels=3)),
        {"_target_": f"{__name__}.Part", "value": (1, 2)},
        {"no": "call", "members": [L(Part)()]},
        [L(Part)(value=[1]), {"_target_": Part}],
        "text",
    ],
    ids=range(7),
)
def test_what_is_built_is_what_detectron2_builds(node):
    config = as_config(n=4, node=node)
    assert kinds(build(config.node, "node")) == kinds(instantiate(config.node))
    assert kinds(build([config.node], "node")) == kinds(instantiate([config.node]))


@pytest.mark.parametrize(
    "node, message",
    [
        (L(Picky)(size=0), " (Picky): size is 0; it has to be at least 1"),
        (L(Part)(value=L(Picky)(size=0)), ".value (Picky): size is 0; it has to be at least 1"),
        (L(Picky)(error="user"), "= file x is not there"),
        (L(Picky)(s=3), " (Picky): got an unexpected keyword argument 's'; its arguments are error, size"),
        (L(nn.Linear)(in_features=3), " (Linear): missing a required argument: 'out_features'; its"),
        (L(nn.Module)(x=3), " (Module): got an unexpected keyword argument 'x'; its arguments are none"),
        (L(Picky)(error="assert"), " (Picky): AssertionError: assert"),
        (L(Picky)(error="key"), " (Picky): KeyError: 'absent' (test_builder.py, line "),
        (L(nn.Conv2d)(in_channels=3, out_channels=2, kernel_size=1, groups=2), " (Conv2d): in_channels"),
        (L(nn.Linear)(in_features=-3, out_features=2), " (Linear): RuntimeError: "),
        (
            L(DefaultAnchorGenerator)(sizes=[[1]], aspect_ratios=[[1.0]], strides=[1], offset=7.0),
            " (DefaultAnchorGenerator): AssertionError: 7.0 (anchor_generator.py, line ",
        ),
        (L(GroupNormOf)(num_groups=None), ".num_groups is null; GroupNormOf takes a whole number there"),
        (L(GroupNormOf)(num_groups="x"), ".num_groups is x; GroupNormOf takes"),
        (L(Part)(value="${nothing}"), ": Interpolation key 'nothing' not found"),
        ({"_target_": "no.such"}, "._target_: no.such cannot be imported"),
        ({"_target_": "math.pi"}, "._target_: 3.14"),
    ],
)  # fmt: skip
def test_the_key_of_the_part_that_failed_is_named(node, message, caplog):
    config = as_config(model=L(Part)(value=1)).model
    config.parts = [L(Part)(), node]
    with pytest.raises(UserError) as error:
        build(config, "model")
    assert str(error.value).startswith(message[2:] if message[0] == "=" else f"model.parts.1{message}")
    assert "\n" not in str(error.value)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "hint, good, bad, words",
    [
        (int, [1, 0], [1.0, True, "1", None, [1]], "a whole number"),
        (float, [1, 1.5], [False, "1", None], "a number"),
        (bool, [True], [1, "true", None], "true or false"),
        (str | None, ["x", None], [1, ["x"]], "a text or null"),
        (Sequence[int], [[1], (1, 2), ListConfig([3]), []], [["a"], [None], "x"], "a list of whole numbers"),
        (tuple[int, int], [[1, 2]], [[1], [1, 2, 3], 1], "a list of whole numbers"),
        (int | Sequence[int], [1, [1]], ["x", [[1]]], "a whole number or a list of whole numbers"),
        (dict[str, int], [{}, DictConfig({})], [1, [], None], "dict"),
        (nn.Module, [nn.Identity(), {"_target_": "x.Y"}], [1, None, [], "x"], "Module"),
        (Literal["a", "b"], ["a"], ["c", None], "Literal"),
        (Any, [None, 1, "x"], [], "Any"),
    ],
)  # fmt: skip
def test_values_are_compared_with_type_hints(hint, good, bad, words):
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []
    assert in_words(hint) == words
