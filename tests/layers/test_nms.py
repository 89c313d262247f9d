"""Non-maximum suppression against the reference arrays, by hand, and against a plain loop."""

import importlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from htd.layers import HardNMS, SoftNMS
from tests.recorded import close, tensors

MODULE = importlib.import_module("htd.layers.nms")


@pytest.mark.parametrize(
    ("kind", "nms"), [("hard", HardNMS(iou_threshold=0.5)), ("soft", SoftNMS(min_score=0.05))]
)
def test_reference_arrays(kind, nms, device):
    case = tensors("htd", "nms")
    keep, scores = (t.cpu() for t in nms(*(case[name].to(device) for name in ("boxes", "scores", "labels"))))
    assert set(keep.tolist()) == set(case[f"{kind}_index"].tolist())
    wanted = torch.zeros(len(case["boxes"])).index_copy(0, case[f"{kind}_index"], case[f"{kind}_final_score"])
    torch.testing.assert_close(scores, wanted[keep], atol=1e-4, rtol=0)


def plain_soft_nms(boxes, scores, classes, factor, min_score):
    """Algorithm 1 of the paper, one class and one box at a time."""
    result = {}
    for label in classes.unique().tolist():
        rows = (classes == label).nonzero().squeeze(1).tolist()
        current = {r: scores[r].item() for r in rows}
        first = True
        while current:
            best = max(current, key=lambda r: (current[r], -r))
            score = current.pop(best)
            if first and score < min_score and best != scores.argmax().item():
                break
            result[best], first = score, False
            for r in list(current):
                current[r] *= factor(box_iou(boxes[best][None], boxes[r][None]).item())
                if current[r] < min_score:
                    del current[r]
    return result


FACTORS = {
    "linear": lambda o: 1 - o if o >= 0.3 else 1.0,
    "gaussian": lambda o: math.exp(-((0.0 if math.isnan(o) else o) ** 2) / 0.4),
}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 40), method=st.sampled_from(sorted(FACTORS)))
def test_soft_nms_equals_the_plain_loop(seed, count, method):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30
    boxes = torch.cat([corner, corner + side], dim=1)
    boxes[::9, 2] = boxes[::9, 0]
    scores = torch.rand(count, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 3, (count,), generator=generator)
    nms = SoftNMS(method=method, iou_threshold=0.3, sigma=0.4, min_score=0.1)
    keep, final = nms(boxes, scores, classes)
    wanted = plain_soft_nms(boxes, scores, classes, FACTORS[method], 0.1)
    assert set(keep.tolist()) == set(wanted)
    np.testing.assert_allclose(final.numpy(), [wanted[r] for r in keep.tolist()], rtol=1e-9)
    assert (final.diff() <= 0).all()


def test_thresholds_by_hand():
    # IoU exactly 0.5: hard keeps, soft halves. No area: the IoU is undefined and nothing happens.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [3, 3, 3, 3], [3, 3, 3, 3]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.int64)
    keep, _ = HardNMS(iou_threshold=0.5)(boxes, scores, classes)
    assert keep.tolist() == [0, 1, 2, 3]
    keep, final = SoftNMS()(boxes, scores, classes)
    assert keep.tolist() == [0, 2, 3, 1]
    torch.testing.assert_close(final, torch.tensor([0.9, 0.7, 0.6, 0.4]))


def test_first_of_all_is_kept_whatever_its_score():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    keep, _ = SoftNMS(min_score=0.5)(boxes, torch.tensor([0.2, 0.1]), torch.tensor([0, 1]))
    assert keep.tolist() == [0]


@pytest.mark.parametrize("nms", [HardNMS(iou_threshold=0.5), SoftNMS()])
@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(nms, count):
    boxes, scores = torch.ones(count, 4), torch.full((count,), 0.3)
    keep, final = nms(boxes, scores, torch.zeros(count, dtype=torch.int64))
    assert keep.tolist() == list(range(count))
    assert torch.equal(final, scores)


def crowd(count, seed=0):
    """Return boxes of 60 pixels in an image of 660, with scores from 0.1 and 80 classes."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 600
    boxes = torch.cat([corner, corner + 60], dim=1)
    scores = torch.rand(count, generator=generator) * 0.9 + 0.1
    return boxes, scores, torch.randint(0, 80, (count,), generator=generator)


@pytest.mark.parametrize(
    "nms",
    [HardNMS(iou_threshold=0.5), SoftNMS(), SoftNMS(method="gaussian")],
    ids=["hard", "linear", "gaussian"],
)
@pytest.mark.parametrize("count", [900, 1100])
def test_every_device_keeps_the_same_boxes(device, nms, count):
    """Hard-NMS computes in another way above 1,000 boxes on a CPU."""
    keep, final = nms(*(t.to(device) for t in crowd(count)))
    expected, wanted = nms(*crowd(count))
    assert keep.tolist() == expected.tolist()
    close(final, wanted, 1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 300), origin=st.sampled_from([0.0, -7000.0, 9000.0]))
def test_both_ways_of_hard_nms_are_equal(seed, count, origin):
    boxes, scores, classes = crowd(count, seed)
    classes %= 5
    boxes, scores = (boxes / 3 + origin).double(), (10 * scores).round().double()
    together, by_class = (
        suppress(boxes, scores, classes, 0.5).sort()[0]
        for suppress in (MODULE._suppress_together, MODULE._suppress_by_class)
    )
    assert torch.equal(together, by_class)


@pytest.mark.parametrize(
    ("nms", "crowded"),
    [(HardNMS(iou_threshold=0.5), 800), (SoftNMS(), 0), (SoftNMS(), 800), (SoftNMS(method="gaussian"), 800)],
)
def test_many_boxes_are_treated_class_by_class(nms, crowded):
    # 12000 boxes: published code changes its rule at 10000. With one class far larger than the others, too.
    boxes, scores, classes = crowd(12_000)
    classes[:crowded] = 7
    keep, final = nms(boxes, scores, classes)
    expected = torch.full_like(scores, -1)
    for label in range(80):
        rows = (classes == label).nonzero()[:, 0]
        kept, alone = nms(boxes[rows], scores[rows], torch.zeros_like(rows))
        expected[rows[kept]] = alone
    found = torch.full_like(scores, -1).index_copy(0, keep, final)
    assert torch.equal(found, expected)
    assert (final.diff() <= 0).all()


def test_boxes_far_apart_keep_their_precision():
    # A shift by class in float32 would round these coordinates to multiples of 1/64 pixel.
    boxes = torch.tensor([[9000.0, 0, 9010, 10], [9000, 0, 9010, 5.001]])
    scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([79, 79])
    keep, _ = HardNMS(iou_threshold=0.5)(boxes, scores, classes)
    assert keep.tolist() == [0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 40), threshold=st.sampled_from([0.25, 0.5, 0.75]))
def test_hard_nms_equals_the_plain_loop(seed, count, threshold):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 8, (count, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(1, 8, (count, 2), generator=generator)], dim=1)
    scores = torch.randint(0, 5, (count,), generator=generator) / 5
    classes = torch.randint(0, 3, (count,), generator=generator)
    overlap = box_iou(boxes, boxes)
    kept = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        if not any(classes[row] == classes[other] and overlap[other, row] > threshold for other in kept):
            kept.append(row)
    # Transposed twice: equal, but not contiguous.
    keep, final = HardNMS(iou_threshold=threshold)(boxes.T.contiguous().T, scores, classes)
    assert keep.tolist() == kept
    assert torch.equal(final, scores[keep])


def test_unknown_method():
    with pytest.raises(ValueError, match="linear, gaussian, not 'cubic'"):
        SoftNMS(method="cubic")
