"""T-Head against the reference arrays: decomposition, scores, boxes and their repair."""

import pytest
import torch

from tests.modeling.dense.reference import STRIDES
from tests.modeling.reference import EXACT, Tolerance
from tests.modeling.tood.reference import ANCHOR_BASED, DEFORMABLE, R50, Forward, head
from tests.recorded import random_input, tensors

SCORES = Tolerance(absolute=2e-5)
BOXES = Tolerance(absolute=5e-4)  # cells
OFFSETS = Tolerance(absolute=1e-4)
ATTENTION = Tolerance(absolute=1e-5)
FEATURES = Tolerance(absolute=2e-4)
DECOMPOSED = Tolerance(absolute=1e-4)
# Name of the case -> config, images, size of the batch, seed of the maps.
CASES = {
    "head_forward_anchor_free": (R50, 2, (128, 160), 11),
    "head_forward_anchor_based": (ANCHOR_BASED, 1, (160, 96), 12),
    "head_forward_dcn2": (DEFORMABLE, 1, (128, 160), 13),
}


@pytest.fixture(scope="module", params=CASES)
def forward(request, device):
    return Forward(request.param, *CASES[request.param], device)


def recorded(case, name):
    """The levels that a case has of an array."""
    return {level: case[f"{name}_{level}"] for level in STRIDES if f"{name}_{level}" in case}


def test_scores(forward):
    wanted = recorded(forward.case, "cls_score")
    assert len(wanted) >= 4
    for level, scores in wanted.items():
        SCORES.check(forward.scores[level], scores)


@pytest.mark.parametrize("level", STRIDES)
def test_boxes_and_offsets(forward, level):
    BOXES.check(forward.boxes[level], forward.case[f"bbox_pred_{level}"])
    BOXES.check(forward.unsampled[level], forward.case[f"reg_bbox_{level}"])
    OFFSETS.check(forward.offsets[level], forward.case[f"reg_offset_{level}"])


@pytest.mark.parametrize("level", STRIDES)
def test_attention_and_score_map(forward, level):
    for task in ("cls_attn", "reg_attn"):
        weights = forward.seen[task][level].sigmoid().flatten(1)
        ATTENTION.check(weights, forward.case[f"{task}_{level}"])
    FEATURES.check(forward.seen["prob_logit"][level], forward.case[f"prob_logit_{level}"])


@pytest.mark.parametrize("name", ["inter6", "cls_feat", "cls_logit"])
def test_features_and_logits(forward, name):
    FEATURES.check(forward.seen[name]["p6"], forward.case[f"{name}_p6"])


def test_repaired_boxes(forward):
    """The same ones, at the places where the recorded box is the one before sampling, to the last bit."""
    for level, count in zip(STRIDES, forward.case["num_replaced"].tolist(), strict=True):
        sampled = forward.sampled[level]
        found = (sampled[:, :2] > sampled[:, 2:]).any(dim=1)
        final, before = (forward.case[f"{name}_{level}"] for name in ("bbox_pred", "reg_bbox"))
        EXACT.check(found, (final == before).all(dim=1))
        assert found.sum() == count
        repaired = found[:, None].expand_as(sampled)
        EXACT.check(forward.boxes[level][repaired], forward.unsampled[level][repaired])


def test_without_repair_only_the_repaired_boxes_differ(forward):
    """The form of the paper's authors, which leaves boxes inside out."""
    repaired, plain = forward.decoded(repair=True), forward.decoded(repair=False)
    inside_out = (plain[..., :2] > plain[..., 2:]).any(dim=-1)
    assert inside_out.sum() == forward.case["num_replaced"].sum() > 0
    assert ((repaired != plain).any(dim=-1) == inside_out).all()


@pytest.fixture(scope="module")
def decomposed(device):
    """The parts of the head for each task, the recorded arrays, and six layers as one map."""
    case, (model, _) = tensors("tood", "task_decomposition"), head(R50, device)
    x = random_input("decomp_feat", (2, 1536, 6, 7), 22).to(device)
    return case, model.head.towers, x


@torch.no_grad()
def test_decomposition_for_boxes(decomposed):
    case, towers, x = decomposed
    pooled = x.mean(dim=(2, 3), keepdim=True)
    attention = towers.regression.attention(pooled).sigmoid().flatten(1)
    ATTENTION.check(attention, case["reg_attention"])
    DECOMPOSED.check(towers.regression(x.split(256, dim=1), pooled), case["reg_out"])


@torch.no_grad()
def test_decomposition_with_given_means(decomposed):
    case, towers, x = decomposed
    pooled = random_input("decomp_avg", (2, 1536, 1, 1), 22).to(x.device)
    DECOMPOSED.check(towers.classification(x.split(256, dim=1), pooled), case["cls_out_given_avg"])
