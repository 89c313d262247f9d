"""PreNMSBoxes of dense detectors: every selection equals its rule in plain loops, ties included."""

import pytest
import torch

from htd.modeling.dense.postprocessing import (
    BestClass,
    BestClassTimesCenterness,
    LocationTopK,
    PairTopK,
    PreNMSBoxes,
)

SIZES = [40, 12, 0, 3]  # priors of four levels: one without any, one with fewer than are kept of a level


def outputs(num_classes=5, levels=None, seed=0):
    """Scores (P, K), boxes (P, 4) and centerness (P,) at random; scores of few levels are often equal."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(SIZES)
    scores = torch.rand(total, num_classes, generator=generator)
    scores = scores if levels is None else (scores * levels).round() / levels
    corner = torch.rand(total, 2, generator=generator) * torch.tensor([120.0, 80.0]) - 5
    side = 5 + 40 * torch.rand(total, 2, generator=generator)
    return scores, torch.cat([corner, corner + side], dim=1), torch.rand(total, generator=generator)


def pairs_by_loops(scores, threshold, topk):
    found, start = [], 0
    for size in SIZES:
        level = [
            (row, k) for row in range(start, start + size) for k, s in enumerate(scores[row]) if s > threshold
        ]
        found += sorted(level, key=lambda pair: -scores[pair[0]][pair[1]])[:topk]
        start += size
    return found


def locations_by_loops(scores, weights, threshold, topk):
    found, start = [], 0
    for size in SIZES:
        ranked = sorted(range(start, start + size), key=lambda row: -max(scores[row]) * weights[row])[:topk]
        found += [(row, k) for row in sorted(ranked) for k, s in enumerate(scores[row]) if s > threshold]
        start += size
    return found


def listed(selected):
    return list(zip(*(x.tolist() for x in selected), strict=True))


@pytest.mark.parametrize("num_classes", [1, 5])
@pytest.mark.parametrize("levels", [None, 8, 2])  # no equal scores, some, nearly all
@pytest.mark.parametrize("topk", [1, 7, 1000])
def test_selections_are_those_of_loops(num_classes, levels, topk):
    """Equal scores included: of them the one with the lower index stays."""
    scores, boxes, centerness = outputs(num_classes, levels)
    given, ones = scores.double().tolist(), [1.0] * len(scores)
    centerness = (centerness * 4).round() / 4  # products without rounding
    for threshold in (0.25, 0.5):
        kind = {"score_threshold": threshold, "topk": topk}
        found = PairTopK(**kind)(scores, boxes, centerness, SIZES)
        assert listed(found) == pairs_by_loops(given, threshold, topk)
        for ranking, weights in [
            (BestClass(), ones),
            (None, ones),
            (BestClassTimesCenterness(), centerness.double().tolist()),
        ]:
            found = LocationTopK(**kind, ranking=ranking)(scores, boxes, centerness, SIZES)
            assert listed(found) == locations_by_loops(given, weights, threshold, topk)


def test_the_threshold_itself_is_below():
    scores = torch.tensor([[0.5, 0.5 + 1e-6], [0.5, 0.4]])
    for kind in (PairTopK, LocationTopK):
        found = kind(score_threshold=0.5, topk=10)(scores, torch.zeros(2, 4), None, [2])
        assert listed(found) == [(0, 1)]


def test_boxes_are_resized_and_joined():
    one = PreNMSBoxes(torch.tensor([[0.0, 2, 4, 8]]), torch.tensor([0.5]), torch.tensor([1]), (10, 20))
    twice = one.resized(25, 40)
    assert twice.boxes.tolist() == [[0, 5, 8, 20]] and twice.image_size == (25, 40)
    joined = PreNMSBoxes.cat([one, twice.resized(10, 20)])
    assert joined.boxes.tolist() == [[0, 2, 4, 8]] * 2 and joined.image_size == (10, 20)
    assert joined.scores.tolist() == [0.5] * 2 and joined.classes.tolist() == [1] * 2
