"""HTC, Cascade Mask R-CNN and Faster R-CNN from an image to detections against the reference arrays."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from torch import Tensor, nn

from tests.modeling.htc.reference import (
    BOXES,
    FEATURES,
    SCORES,
    check_detections,
    check_last_head,
    check_masks,
    last_head_probabilities,
    run_stages,
    with_weights,
)
from tests.modeling.reference import model_config
from tests.recorded import image, tensors, unpaired

SEED = 15
# Name of the case -> config and manifest.
CASES = {
    "htc_r50_e2e": ("htc/htc_r50_fpn_1x", "htc_r50"),
    "cascade_mask_rcnn_r50_e2e": ("baselines/cascade_mask_rcnn_r50_fpn_1x", "cascade_mask_rcnn_r50"),
    "faster_rcnn_r50_e2e": ("baselines/faster_rcnn_r50_fpn_1x", "faster_rcnn_r50"),
}
WITH_MASKS = ("htc_r50_e2e", "cascade_mask_rcnn_r50_e2e")
LEVELS = ("p2", "p3", "p4", "p5", "p6")
# Some scores are equal to the last bit, and the list of a thousand is cut.
PROPOSALS, PROPOSALS_MISSING = 1000, 10
# Of the proposals and what the stages make of them every 25th is recorded.
STEP = 25


@dataclass
class Run:
    """The steps of a detector on the image of a case.

    Attributes:
        bottom_up: maps of the backbone.
        features: maps of the pyramid.
        context: what the stages share.
        found: detections of ``model(inputs)``.
        soft: their masks (P, 28, 28) before pasting.
    """

    case: dict
    model: nn.Module
    bottom_up: dict
    features: dict
    proposals: Instances
    context: object
    found: Instances
    soft: Tensor | None


@pytest.fixture(scope="module", params=CASES)
def run(request, device):
    leaf, manifest = CASES[request.param]
    case = tensors("htc", request.param)
    model = with_weights(instantiate(model_config(leaf)), manifest, device).eval()
    (height, width), (out_height, out_width) = (
        case["image_sizes"][0].tolist(),
        case["output_sizes"][0].tolist(),
    )
    picture = torch.from_numpy(image("img0", height, width, SEED).transpose(2, 0, 1).copy())
    inputs = [{"image": picture, "height": out_height, "width": out_width}]
    with torch.no_grad():
        images = model.preprocess_image(inputs)
        assert list(images.tensor.shape[-2:]) == case["batch_size_hw"].tolist()
        bottom_up = model.backbone.bottom_up(images.tensor)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        context, _ = model.roi_heads.make_context(images.image_sizes, features)
        found, soft = detect(model, inputs)
    return Run(case, model, bottom_up, features, proposals[0], context, found, soft)


def detect(model, inputs):
    """Return the detections of one image, and their masks before they are pasted."""
    branch, seen = model.roi_heads.mask_branch, []
    paste = branch.paste

    def recorder(detections):
        seen.append(detections.get_fields().get("pred_masks"))
        return paste(detections)

    branch.paste = recorder
    try:
        found = model(inputs)[0]["instances"]
    finally:
        del branch.paste
    return found, None if seen[0] is None else seen[0][:, 0]


def test_backbone(run):
    means = torch.cat([run.bottom_up[f"res{i}"].mean(dim=(2, 3)) for i in (2, 3, 4, 5)], dim=1)
    FEATURES.check(means, run.case["c_channel_mean"])


def test_pyramid(run):
    maps = [run.features[name] for name in LEVELS]
    FEATURES.check(torch.stack([x.mean(dim=(2, 3)) for x in maps], dim=1), run.case["p_channel_mean"])
    FEATURES.check(
        torch.stack([x.abs().mean(dim=(2, 3)) for x in maps], dim=1), run.case["p_channel_absmean"]
    )
    FEATURES.check(run.features["p4"][:, ::16], run.case["p4_sample"])


def test_proposals(run):
    proposals, wanted = run.proposals.to("cpu"), run.case["proposal_scores_0"]
    scores = proposals.objectness_logits.sigmoid()
    assert len(proposals) == PROPOSALS and (scores.diff() <= 0).all()
    SCORES.check(scores, wanted)
    found = {"boxes": proposals.proposal_boxes.tensor, "scores": scores}
    reference = {"boxes": run.case["proposals_0"].numpy(), "scores": wanted.numpy()}
    tolerances = {"box_tolerance": BOXES.absolute, "score_tolerance": SCORES.absolute}
    assert len(unpaired(reference, found, **tolerances)) <= PROPOSALS_MISSING


def test_stages_on_the_recorded_proposals(run, device):
    boxes = run.case["proposals_0"][::STEP].to(device)
    logits, deltas, rois = run_stages(run.model.roi_heads, run.context, [boxes])
    if "logits" in run.case:
        FEATURES.check(logits[0], run.case["logits"])
        FEATURES.check(deltas[0], run.case["deltas"])
    else:
        FEATURES.check(logits, run.case["stage_logits"])
        FEATURES.check(deltas, run.case["stage_deltas"])
        BOXES.check(rois, run.case["stage_rois"])


@pytest.mark.parametrize("run", ["htc_r50_e2e"], indirect=True, scope="module")
def test_semantic_features(run):
    found = run.context.semantic_features.maps[0].mean(dim=(2, 3))
    FEATURES.check(found, run.case["semantic_feat_channel_mean"])


def test_detections(run):
    assert run.found.image_size == tuple(run.case["output_sizes"][0].tolist())
    check_detections(run.case, 0, run.found)
    np.testing.assert_array_equal(run.case["det_boxes_0"], run.case["det_boxes_input_0"])
    assert run.found.has("pred_masks") == ("mask_area_0" in run.case)


@pytest.mark.parametrize("run", WITH_MASKS, indirect=True, scope="module")
def test_masks(run):
    rows = check_detections(run.case, 0, run.found)
    check_masks(run.case, 0, rows, run.soft, run.found.pred_masks)


@pytest.mark.parametrize("run", WITH_MASKS, indirect=True, scope="module")
def test_masks_are_not_those_of_the_last_head(run, device):
    rows = check_detections(run.case, 0, run.found)
    boxes = run.case["det_boxes_input_0"][:3].to(device)
    classes = run.case["det_labels_0"][:3].long().to(device)
    last = last_head_probabilities(run.model.roi_heads.mask_branch, run.context, [boxes], classes)
    check_last_head(run.case, 0, rows, run.soft, last)
