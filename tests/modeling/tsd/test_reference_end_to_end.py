"""TSD on Faster, Mask and Cascade R-CNN, R-50, from an image to detections against the reference arrays."""

from dataclasses import dataclass

import cv2
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, Instances, pairwise_iou

from htd.checkpoint import convert
from tests.modeling.tsd.reference import Tolerance, check_masks, check_same_proposals
from tests.recorded import extents, image, inclusive, manifest, partners, published_weights, tensors

# Name of the case -> config.
CASES = {"e2e_faster": "tsd_faster", "e2e_mask": "tsd_mask", "e2e_cascade": "tsd_cascade"}
# The last has 165 million weights to draw.
CASES_IN_TIME = ["e2e_faster", "e2e_mask", pytest.param("e2e_cascade", marks=pytest.mark.slow)]
LEVELS = (2, 3, 4, 5, 6)
FEATURES, RPN = Tolerance(absolute=1e-3), Tolerance(absolute=2e-3)
# A detection's partner has its label, overlaps it by more than this and has nearly its score.
BOX_IOU, SCORE = 0.95, 5e-3


@dataclass
class Run:
    """A detector, and its steps on the image of a case."""

    case: dict
    model: torch.nn.Module
    features: dict
    rpn: tuple
    proposals: Instances
    found: Instances


@pytest.fixture(scope="module", params=CASES_IN_TIME)
def run(request, device):
    name = request.param
    case = tensors("tsd", name)
    model = instantiate(LazyConfig.load(f"configs/common/models/{CASES[name]}_legacy.py").model).eval()
    weights, _ = convert(published_weights("tsd", name), model)
    model.load_state_dict(weights, strict=True)
    model.to(device)
    inputs = [picture(name, case)]
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        assert list(images.tensor.shape[-2:]) == case["pad_shape"][:2].tolist()
        features = model.backbone(images.tensor)
        raw = model.proposal_generator.rpn_head([features[f"p{level}"] for level in LEVELS])
        (proposals,), _ = model.proposal_generator(images, features, None)
        found = model(inputs)[0]["instances"].to("cpu")
    return Run(case, model, features, raw, proposals.to("cpu"), found)


def picture(name, case):
    """Return the input of a case, resized as its pipeline does; results are wanted in the first frame."""
    pixels = image(name.replace("_", "."), *case["image_hw"].tolist(), manifest("tsd", name)["seed"])
    height, width = case["img_shape"][:2].tolist()
    if (height, width) != pixels.shape[:2]:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    scale = case["scale_factor"].item()
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return {"image": tensor, "height": height / scale, "width": width / scale}


def test_pyramid(run):
    for level in LEVELS:
        wanted = run.case[f"P{level}"]
        FEATURES.check(run.features[f"p{level}"][0, : len(wanted)], wanted)


def test_rpn(run):
    logits, deltas = run.rpn
    for i in range(len(LEVELS)):
        RPN.check(logits[i][0], run.case[f"rpn_cls_{i}"])
        RPN.check(deltas[i][0], run.case[f"rpn_reg_{i}"])


def test_proposals(run):
    check_same_proposals(run.proposals, run.case["proposals"])


def paired(run):
    """Return the row here of every detection of the case; the nearest box among those that fit."""
    found = {
        "boxes": inclusive(run.found.pred_boxes.tensor),
        "scores": run.found.scores,
        "labels": run.found.pred_classes,
    }
    det = run.case["det"].numpy()
    reference = {"boxes": det[:, :4], "scores": det[:, 4], "labels": run.case["label"].numpy()}
    return partners(reference, found, box_tolerance=torch.inf, score_tolerance=SCORE)


def test_detections(run):
    """All have a partner, where 98 of 100 are asked for."""
    rows = paired(run)
    assert len(run.found) == len(rows) == 100 and (rows >= 0).all()
    boxes, wanted = run.found.pred_boxes[rows], Boxes(extents(run.case["det"][:, :4]))
    assert (pairwise_iou(boxes, wanted).diag() > BOX_IOU).all()
    assert (run.found.scores.diff() <= 0).all()


@pytest.mark.parametrize("run", ["e2e_mask"], indirect=True, scope="module")
def test_masks(run):
    check_masks(run.case, "masks", run.found, paired(run))
