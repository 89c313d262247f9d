"""Post-processing of dense detectors: rules in plain loops and by hand, ties included; and Detectron2's."""

from math import inf, nan

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes

from htd.layers import HardNMS, SoftNMS
from htd.modeling.dense.postprocessing import (
    BestClass,
    BestClassTimesCenterness,
    LocationTopK,
    PairTopK,
    PreNMSBoxes,
    RescaleFirst,
    SuppressFirst,
)
from tests.recorded import close

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


SIZE = (100, 150)
HARD = HardNMS(iou_threshold=0.6)


def chain(kind=RescaleFirst, pre_nms=PairTopK, *, threshold=0.05, topk=1000, nms=HARD, **rest):
    if kind is RescaleFirst:
        rest = {"clip": False, "min_box_size": None} | rest
    return kind(pre_nms=pre_nms(score_threshold=threshold, topk=topk), nms=nms, **rest)


CHAINS = [
    chain(kind, selection, topk=20, max_detections=30, **rest)
    for selection in (PairTopK, LocationTopK)
    for kind, rest in [(SuppressFirst, {}), (RescaleFirst, {"clip": True, "min_box_size": 0.0})]
]


def detected(postprocessing, scores, boxes, centerness, sizes=SIZES, size=(200, 300)):
    """Detections in a frame twice as large as the input."""
    return postprocessing.select(
        postprocessing.choose(scores, boxes, centerness, sizes, SIZE), size
    ).get_fields()


def same(found, wanted):
    close(found["pred_boxes"].tensor, wanted["pred_boxes"].tensor, 0)
    close(found["scores"], wanted["scores"], 0)
    assert torch.equal(found["pred_classes"], wanted["pred_classes"])


@pytest.mark.parametrize("kind", [PairTopK, LocationTopK])
def test_the_threshold_is_on_the_class_alone_and_the_score_is_the_product(kind):
    scores, centerness = torch.tensor([[0.6, 0.4], [0.9, 0.51]]), torch.tensor([0.5, 0.01])
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 50, 60, 60]])
    found = chain(pre_nms=kind, threshold=0.5).choose(scores, boxes, centerness, [2], SIZE)
    assert sorted(found.scores.tolist()) == pytest.approx([0.0051, 0.009, 0.3])
    results = detected(chain(pre_nms=kind, threshold=0.5), scores, boxes, centerness, [2])
    assert results["scores"].tolist() == pytest.approx([0.3, 0.009, 0.0051])  # ordered by the product


@pytest.mark.parametrize("postprocessing", CHAINS)
@pytest.mark.parametrize("part", ["scores", "boxes", "centerness"])
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_what_is_not_finite_takes_no_place(postprocessing, part, value):
    """As if these priors had scored nothing."""
    broken, wanted = (dict(zip(("scores", "boxes", "centerness"), outputs(), strict=True)) for _ in range(2))
    rows = torch.tensor([0, 3, 20, 45, 54])
    broken["scores"][rows] = wanted["scores"][rows] = 0.999  # they would be among the best
    broken["centerness"][rows] = 1.0
    broken[part].view(len(broken[part]), -1)[rows, -1] = value
    wanted["scores"][rows] = 0.0
    found = detected(postprocessing, **broken)
    assert len(found["scores"]) == 30
    same(found, detected(postprocessing, **wanted))


@pytest.mark.parametrize("postprocessing", CHAINS)
def test_nothing_to_detect(postprocessing):
    scores, boxes, centerness = outputs()
    for empty in [
        (torch.zeros_like(scores), boxes, centerness),
        (scores, torch.full_like(boxes, nan), centerness),
        (torch.full_like(scores, nan), boxes, None),
    ]:
        candidates = postprocessing.choose(*empty, SIZES, SIZE)
        found = postprocessing.select(candidates, (200, 300))
        assert len(found) == len(candidates) == 0 and found.image_size == (200, 300)
        assert found.pred_boxes.tensor.shape == (0, 4) and found.pred_classes.dtype == torch.int64


def test_clipping_is_before_all_else_or_not_at_all():
    """In an input of 100 x 150, put out at 200 x 300: the first box has one pixel within the image."""
    boxes = torch.tensor([[149.0, 10, 170, 30], [10, 10, 30, 30]])
    scores = torch.tensor([[0.9], [0.8]])

    def found(**rest):
        return detected(chain(**rest), scores, boxes, None, [2])["pred_boxes"].tensor.tolist()

    outside, second = [298, 20, 340, 60], [20, 20, 60, 60]
    assert found(clip=False) == [outside, second]
    assert found(clip=True) == [[298, 20, 300, 60], second]
    # The least size is one in the output frame, and no box has it that is not larger.
    assert found(clip=True, min_box_size=1.9) == [[298, 20, 300, 60], second]
    assert found(clip=True, min_box_size=2.0) == [second]
    assert found(clip=False, min_box_size=2.0) == [outside, second]


def test_empty_boxes_stay_or_go():
    no_width, no_height, upside_down = [10.0, 10, 10, 30], [10, 40, 30, 40], [20, 30, 40, 20]
    boxes = torch.tensor([no_width, no_height, upside_down, [200, 10, 220, 30]])
    given = torch.tensor([[0.9], [0.8], [0.7], [0.6]]), boxes, None, [4]
    assert len(detected(chain(min_box_size=None), *given)["scores"]) == 4
    assert len(detected(chain(min_box_size=0.0), *given)["scores"]) == 1
    assert len(detected(chain(SuppressFirst), *given)["scores"]) == 0  # the last one lies outside


def test_suppression_is_by_class_and_in_the_output_frame():
    """The first two boxes meet with an IoU of 0.5 in either frame; the third is of another class."""
    boxes = torch.tensor([[0.0, 0, 30, 10], [10, 0, 40, 10], [0, 0, 30, 10]])
    scores = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.7]])
    for kind in (RescaleFirst, SuppressFirst):
        for threshold, kept in [(0.49, [0.9, 0.7]), (0.51, [0.9, 0.8, 0.7])]:
            postprocessing = chain(kind, nms=HardNMS(iou_threshold=threshold))
            found = detected(postprocessing, scores, boxes, None, [3], size=(300, 300))
            assert found["scores"].tolist() == pytest.approx(kept)
        most = detected(chain(kind, max_detections=1), scores, boxes, None, [3])
        assert most["scores"].tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("kind", [RescaleFirst, SuppressFirst])
def test_soft_suppression_at_its_limits_is_hard(kind):
    given = outputs()
    for sigma, threshold in [(1e-12, 0.0), (1e12, 1.0)]:
        soft = SoftNMS(method="gaussian", sigma=sigma, min_score=1e-3)
        found = detected(chain(kind, threshold=0.5, nms=soft), *given)
        wanted = detected(chain(kind, threshold=0.5, nms=HardNMS(iou_threshold=threshold)), *given)
        assert 0 < len(wanted["scores"]) <= 100
        same(found, wanted)
    usual = detected(chain(kind, threshold=0.5, nms=SoftNMS(method="linear", iou_threshold=0.3)), *given)
    assert usual["scores"].tolist() != wanted["scores"].tolist()


@pytest.mark.parametrize("topk", [15, 1000])
@pytest.mark.parametrize("size", [SIZE, (173, 260)])
def test_detections_are_those_of_the_retinanet_of_detectron2(topk, size):
    generator = torch.Generator().manual_seed(2)
    logits, anchors, _ = outputs(num_classes=6, seed=3)
    logits = logits.logit().clamp(-9, 9) - 1  # scores that differ
    deltas = 0.3 * torch.randn(len(anchors), 4, generator=generator)
    theirs = RetinaNet.__new__(RetinaNet)  # without a network: what is compared starts from its outputs
    torch.nn.Module.__init__(theirs)
    theirs.num_classes, theirs.box2box_transform = 6, Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0))
    theirs.test_score_thresh, theirs.test_topk_candidates = 0.05, topk
    theirs.test_nms_thresh, theirs.max_detections_per_image = 0.5, 40
    # The version without a DenseDetector takes logits, and overwrites them; later ones take probabilities.
    older = not hasattr(theirs, "_decode_multi_level_predictions")
    each = [x.split(SIZES) for x in (logits.clone() if older else logits.sigmoid(), deltas)]
    wanted = theirs.inference_single_image([Boxes(x) for x in anchors.split(SIZES)], *each, SIZE)
    wanted = detector_postprocess(wanted, *size).get_fields()

    ours = chain(SuppressFirst, topk=topk, nms=HardNMS(iou_threshold=0.5), max_detections=40)
    boxes = theirs.box2box_transform.apply_deltas(deltas, anchors)
    found = detected(ours, logits.sigmoid(), boxes, None, size=size)
    assert len(wanted["scores"]) > 20
    assert torch.equal(found["pred_classes"], wanted["pred_classes"])
    close(found["scores"], wanted["scores"], 1e-6)
    close(found["pred_boxes"].tensor, wanted["pred_boxes"].tensor, 1e-4)
