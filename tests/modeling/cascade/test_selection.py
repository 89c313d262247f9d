"""Selection among many candidates: the same detections as by suppressing all of them."""

import pytest
import torch

from htd.layers import HardNMS, SoftNMS
from htd.modeling.cascade import DetectionPostProcessing, RoIPredictions

KINDS = {
    "hard": HardNMS(iou_threshold=0.5),
    "linear": SoftNMS(method="linear", iou_threshold=0.3, min_score=0.001),
    "gaussian": SoftNMS(method="gaussian", sigma=0.5, min_score=0.001),
}


def candidates(rois, spread, levels=None, num_classes=20, seed=0):
    """RoIs around a few places, the closer the less the spread; scores of few levels are often equal."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randint(0, 400, (12, 2), generator=generator)[torch.arange(rois) % 12]
    corner = places + spread * torch.randn(rois, 2, generator=generator)
    boxes = torch.cat([corner, corner + 60 + spread * torch.rand(rois, 2, generator=generator)], dim=1)
    scores = torch.rand(rois, num_classes + 1, generator=generator)
    scores = scores if levels is None else (scores * levels).round() / levels
    return RoIPredictions(boxes, scores, (500, 500))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("spread", "levels"), [(80.0, None), (3.0, None), (0.0, None), (40.0, 7)])
def test_as_if_all_candidates_had_been_suppressed(kind, spread, levels):
    predictions = candidates(rois=120, spread=spread, levels=levels)
    boxes, scores = predictions.boxes, predictions.scores[:, :-1]
    rows, classes = (scores > 0.0).nonzero(as_tuple=True)
    keep, wanted = KINDS[kind](boxes[rows], scores[rows, classes], classes)
    for most in (1, 5, 60):
        found = DetectionPostProcessing(score_threshold=0.0, nms=KINDS[kind], max_detections=most)(
            predictions
        )
        torch.testing.assert_close(found.scores, wanted[:most], rtol=0, atol=0)
        torch.testing.assert_close(found.pred_boxes.tensor, boxes[rows[keep[:most]]], rtol=0, atol=0)
        assert torch.equal(found.pred_classes, classes[keep[:most]])
