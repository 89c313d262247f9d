"""The overrides that the documentation gives for TOOD reach the parts that they name."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate

from htd.engine.config import load_config
from htd.modeling.dense import BestClass, LocationTopK, PairTopK
from tests.modeling.tood.reference import ANCHOR_BASED, R50


def documented_selection():
    """Return the overrides for weights of TOOD's authors, as the documentation writes them."""
    text = Path("docs/tood.md").read_text()
    (lines,) = re.findall(r"or at the end of any command line\n\n((?: {4}.*\n)+)", text)
    return shlex.split(lines.replace("\\\n", " "))


def built(leaf, overrides):
    """Return the detector of a config with overrides, without its backbone and without values."""
    config = load_config(f"configs/{leaf}.py", overrides).model
    config.backbone = None
    with torch.device("meta"):
        return instantiate(config)


def values(model):
    """Return what the overrides below may change."""
    post = model.postprocessing
    return {
        "phases": (model.criterion.switch_iter, model.criterion.switch_epochs),
        "classes": (model.num_classes, len(model.head.predictors.cls_score.weight)),
        "repair": model.decoder.repair,
        "clip": post.clip,
        "min_box_size": post.min_box_size,
        "pre_nms": (type(post.pre_nms), post.pre_nms.score_threshold, post.pre_nms.topk),
    }


DEFAULT = {
    "phases": (29320, None),
    "classes": (80, 80),
    "repair": True,
    "clip": False,
    "min_box_size": 0.0,
    "pre_nms": (PairTopK, 0.05, 1000),
}
AUTHORS = {
    "repair": False,
    "clip": True,
    "min_box_size": -torch.inf,
    "pre_nms": (LocationTopK, 0.05, 1000),
}


@pytest.mark.parametrize("leaf", [R50, ANCHOR_BASED])
@pytest.mark.parametrize(
    "overrides, changed",
    [
        ([], {}),
        (["model.criterion.switch_iter=0"], {"phases": (0, None)}),
        (
            ["model.criterion.switch_iter=null", "model.criterion.switch_epochs=4"],
            {"phases": (None, 4)},
        ),
        (["model.num_classes=3"], {"classes": (3, 3)}),
        (["model.decoder.repair=False"], {"repair": False}),
        (["model.postprocessing.clip=True"], {"clip": True}),
        (["model.postprocessing.min_box_size=null"], {"min_box_size": -torch.inf}),
        (documented_selection(), AUTHORS),
    ],
)
def test_an_override_changes_its_value_alone(leaf, overrides, changed):
    assert values(built(leaf, overrides)) == DEFAULT | changed


def test_aligned_from_the_start_needs_no_iteration():
    assert built(R50, ["model.criterion.switch_iter=0"]).criterion.aligned_now


def test_selection_of_the_authors_ranks_by_the_class():
    assert isinstance(built(R50, documented_selection()).postprocessing.pre_nms.ranking, BestClass)
