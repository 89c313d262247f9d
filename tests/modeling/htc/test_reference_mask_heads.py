"""HTC's three mask heads and the flow of information between them against the reference arrays."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.layers import FeatureTable
from htd.modeling.cascade import IndependentHeads, LevelRule, RoIContext
from tests.modeling.htc.reference import FEATURES, PROBABILITIES, with_weights
from tests.modeling.reference import model_config
from tests.recorded import random_input, tensors

NAME, SEED = "mask_heads", 102
CLASSES = range(0, 80, 8)


class Given(nn.Module):
    """A pooler that gives every RoI the same features (C, S, S), or each its own (P, C, S, S)."""

    def __init__(self, features: torch.Tensor):
        super().__init__()
        self.features = features

    def forward(self, context, rois):
        return self.features


@pytest.fixture(scope="module")
def case():
    return tensors("htc", NAME)


@pytest.fixture(scope="module")
def branch(device):
    config = model_config("htc/htc_without_semantic_r50_fpn_1x")
    return with_weights(instantiate(config.roi_heads.mask_branch), NAME, device)


@pytest.fixture(scope="module")
def x(device):
    return random_input("mask_heads.roi_feats", (2, 256, 14, 14), SEED).to(device)


@torch.no_grad()
def run(branch, flow, x):
    """Features and logits of each head."""
    features = flow.every([head.extract for head in branch.heads], x)
    return features, [head.logits(f) for head, f in zip(branch.heads, features, strict=True)]


def test_features_and_logits(case, branch, x):
    features, logits = run(branch, branch.flow, x)
    for k, (f, y) in enumerate(zip(features, logits, strict=True)):
        FEATURES.check(f[:, ::8], case[f"feat_{k}"])
        FEATURES.check(f.mean(dim=(2, 3)), case[f"feat_mean_{k}"])
        FEATURES.check(y[:, ::8], case[f"logits_{k}"])
        FEATURES.check(y.mean(dim=(2, 3)), case[f"logits_mean_{k}"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_last_of_the_first_heads(case, branch, x, count):
    """What a stage learns from: the heads up to its own, all on the RoI features of its boxes."""
    with torch.no_grad():
        found = branch.flow.last([head.extract for head in branch.heads[:count]], x)
    FEATURES.check(found[:, ::8], case[f"feat_{count - 1}"])


def test_without_flow(case, branch, x):
    _, logits = run(branch, IndependentHeads(), x)
    for k, y in enumerate(logits):
        FEATURES.check(y[:, :80:16], case[f"logits_noflow_{k}"])


def test_mean_probability(case, branch, x, device, monkeypatch):
    """The masks given to detections, with each of the two RoIs detected as each of the classes."""
    each = len(CLASSES)
    monkeypatch.setattr(branch, "features", Given(x.repeat_interleave(each, dim=0)))
    found = Instances((64, 64))
    found.pred_boxes = Boxes(torch.tensor([[4.0, 4.0, 32.0, 32.0]], device=device).repeat(2 * each, 1))
    found.pred_classes = torch.tensor(CLASSES, device=device).repeat(2)
    table = FeatureTable([torch.zeros(1, 1, 1, 1, device=device)], [4])
    with torch.no_grad():
        branch.add_masks(RoIContext(table, [(64, 64)], LevelRule()), [found])
    PROBABILITIES.check(found.pred_masks[:, 0].unflatten(0, (2, each)), case["prob_avg"])
