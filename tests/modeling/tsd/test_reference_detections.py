"""TSD's head at test against the reference arrays: shifted boxes, decoded boxes, scores, detections."""

from copy import deepcopy

import pytest
import torch

from htd.layers import HardNMS, SoftNMS
from htd.modeling.cascade import DetectionPostProcessing
from tests.modeling.reference import on
from tests.modeling.tsd.reference import BOXES, SCORES, check_detections, passes_of, shifted
from tests.modeling.tsd.small import background_last, images, maps, proposals, roi_heads
from tests.recorded import inclusive, tensors

# Name of the case -> its maps, size of the image, scale of the image.
CASES = {"det_small": ("det.small", (352, 448), 1.6), "det_full": ("det.full", (320, 416), 0.8)}
HARD = HardNMS(iou_threshold=0.5)
SELECTIONS = {
    "pub": DetectionPostProcessing(score_threshold=0.0, nms=HARD, max_detections=100),
    "thr05": DetectionPostProcessing(score_threshold=0.05, nms=HARD, max_detections=100),
    "top15": DetectionPostProcessing(score_threshold=0.0, nms=HardNMS(iou_threshold=0.6), max_detections=15),
    "soft": DetectionPostProcessing(
        score_threshold=0.01, nms=SoftNMS(iou_threshold=0.5, min_score=0.05), max_detections=100
    ),
}
RECORDED = [
    *(("det_small", variant) for variant in SELECTIONS),
    *(("det_full", variant) for variant in ("pub", "thr05")),
]


class Predicted:
    """A case, the pass of the one stage and the predictions from which detections are chosen."""

    def __init__(self, name, device):
        maps_name, size, self.scale = CASES[name]
        self.case = tensors("tsd", name)
        self.heads = deepcopy(roi_heads(name)).to(device)
        given = [p.to(device) for p in proposals(size, self.case["proposals"])]
        features = on(device, maps(name, maps_name, 1, size))
        with torch.no_grad():
            self.context, _ = self.heads.make_context(images(size, 1).image_sizes, features)
            (self.stage,) = passes_of(self.heads, self.context, [p.proposal_boxes.tensor for p in given])
            (self.found,) = self.heads.predict(self.context, given)


@pytest.fixture(scope="module", params=CASES)
def predicted(request, device):
    return Predicted(request.param, device)


def test_shifted_boxes(predicted):
    BOXES.check(shifted(predicted.stage), predicted.case["refined_rois"])


def test_boxes_and_scores_of_all_rois(predicted):
    wanted = predicted.case["boxes"]
    boxes = predicted.found.boxes[: len(wanted)].unflatten(1, (-1, 4))
    # The background has a box in the published arrays, and they begin with it.
    BOXES.check(inclusive(boxes).flatten(1), wanted[:, 4:])
    SCORES.check(predicted.found.scores, background_last(predicted.case["scores"]))


@pytest.mark.parametrize("predicted", ["det_small"], indirect=True, scope="module")
def test_boxes_beyond_the_image_keep_its_last_pixels(predicted, device):
    """No box of the arrays lies there."""
    height, width = size = predicted.found.image_size
    (beyond,) = proposals(size, torch.tensor([[width + 900.0, height + 900, width + 904, height + 904]]))
    with torch.no_grad():
        (found,) = predicted.heads.predict(predicted.context, [beyond.to(device)])
    boxes = inclusive(found.boxes.unflatten(1, (-1, 4)))
    assert (boxes == boxes.new_tensor([width - 1, height - 1] * 2)).all()


@pytest.mark.parametrize(("predicted", "variant"), RECORDED, indirect=["predicted"], scope="module")
def test_detections(predicted, variant):
    check_detections(predicted.case, f"_{variant}", SELECTIONS[variant](predicted.found))


def test_detections_in_the_frame_of_the_image(predicted):
    """Suppression works there: a pixel more a side is another share of a box."""
    resized = predicted.found.resized(*(side / predicted.scale for side in predicted.found.image_size))
    check_detections(predicted.case, "_pub_rescaled", SELECTIONS["pub"](resized))


def test_selection_of_the_published_config(predicted):
    """The config asks for what ``pub`` compares."""
    selection = predicted.heads.postprocessing
    assert (selection.score_threshold, selection.max_detections) == (0.0, 100)
    assert isinstance(selection.nms, HardNMS) and selection.nms.iou_threshold == 0.5
