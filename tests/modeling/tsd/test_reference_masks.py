"""TSD on Mask R-CNN against the reference arrays: detections and their masks, mask targets, training."""

from copy import deepcopy

import pytest
import torch
from detectron2.structures import BitMasks

from tests.modeling.reference import Recorder, on
from tests.modeling.tsd.reference import (
    CASCADE_BOXES,
    EXACT,
    LOGITS,
    check_detections,
    check_gradients,
    check_losses,
    check_masks,
    check_samples,
    features_by_name,
    passes_of,
    shifted,
    train_once,
    trainable,
    unpacked_masks,
)
from tests.modeling.tsd.small import background_last, maps, proposals, roi_heads, targets
from tests.recorded import extents, tensors

NAME, SIZE, SCALE = "mask_small", (288, 352), 1.6
NUM_CLASSES, NUM_IMAGES = 8, 2


@pytest.fixture(scope="module")
def case():
    return tensors("tsd", NAME)


@pytest.fixture(scope="module")
def heads(device):
    return deepcopy(roi_heads(NAME)).to(device)


@pytest.fixture(scope="module")
def given(case, device):
    return [p.to(device) for p in proposals(SIZE, case["in0_proposals"])]


@pytest.fixture(scope="module")
def context(heads, device):
    with torch.no_grad():
        return heads.make_context([SIZE], on(device, maps(NAME, f"{NAME}.eval", 1, SIZE)))[0]


@pytest.fixture(scope="module")
def predictions(heads, context, given):
    with torch.no_grad():
        (found,) = heads.predict(context, given)
    return found


@torch.no_grad()
def with_masks(heads, context, predictions):
    """Return detections with their masks pasted."""
    found = heads.postprocessing(predictions)
    heads.mask_branch.add_masks(context, [found])
    return heads.mask_branch.paste(found)


def test_stage(case, heads, context, given):
    (found,) = passes_of(heads, context, [p.proposal_boxes.tensor for p in given])
    CASCADE_BOXES.check(shifted(found), case["final_rois"])
    LOGITS.check(found.classified.logits, background_last(case["final_logits"]))
    wanted = case["final_bbox_pred"]
    LOGITS.check(found.deltas[: len(wanted)], wanted[:, 4:])


def test_detections_and_masks_in_the_resized_input(case, heads, context, predictions):
    found = with_masks(heads, context, predictions)
    check_detections(case, "", found, boxes=CASCADE_BOXES)
    check_masks(case, "masks", found)


def test_detections_and_masks_in_the_frame_of_the_image(case, heads, context, predictions):
    """Boxes are brought back to the resized input for the features of the masks."""
    found = with_masks(heads, context, predictions.resized(*(side / SCALE for side in SIZE)))
    check_detections(case, "_rescaled", found, boxes=CASCADE_BOXES)
    check_masks(case, "masks_rescaled", found)


@torch.no_grad()
def test_mask_logits(case, heads, context, device):
    wanted, (head,) = case["mask_logits"], heads.mask_branch.heads
    rois = context.rois([extents(case["det"][: len(wanted), :4]).to(device)])
    features = heads.mask_branch.flow.last([head.extract], heads.mask_branch.features(context, rois))
    LOGITS.check(head.predict(features, case["label"][: len(wanted)].to(device)), wanted)


class Training:
    """One step on both images: losses, gradients, and what the mask head was to learn."""

    def __init__(self, case, device):
        heads, self.parameters = trainable(NAME, device)
        stage, branch = heads.stages[0], heads.mask_branch
        stage.sampler, branch.targets = Recorder(stage.sampler), Recorder(branch.targets)
        truth = targets(case, SIZE, NUM_IMAGES)
        for i, target in enumerate(truth):
            target.gt_masks = BitMasks(unpacked_masks(case, f"in{i}_gt_masks"))
        self.features, self.losses = train_once(heads, NAME, SIZE, truth, device)
        (self.samples,), (self.mask_targets,) = stage.sampler.results, branch.targets.results


@pytest.fixture(scope="module")
def training(case, device):
    return Training(case, device)


def test_samples(case, training):
    check_samples(case, 0, training.samples, NUM_CLASSES)


def test_mask_targets(case, training):
    assert training.mask_targets.dtype == torch.bool
    EXACT.check(training.mask_targets, case["mask_targets"])


def test_losses(case, training):
    check_losses(case, training.losses)


def test_gradients(training):
    check_gradients(NAME, training.parameters | features_by_name(training.features))
