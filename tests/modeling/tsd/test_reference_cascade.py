"""TSD on cascades, of its own stages and with a plain one, against the reference arrays."""

from copy import deepcopy

import pytest
import torch

from tests.modeling.reference import Recorder, on
from tests.modeling.tsd.reference import (
    BOXES,
    CASCADE_BOXES,
    EXACT,
    LOGITS,
    check_detections,
    check_gradients,
    check_losses,
    check_samples,
    features_by_name,
    passes_of,
    shifted,
    train_once,
    trainable,
)
from tests.modeling.tsd.small import background_last, maps, proposals, roi_heads, targets
from tests.recorded import inclusive, tensors

# Name of the case -> size of the images, scale of the images.
CASES = {"cascade_small": ((352, 416), 1.6), "cascade_mixed": ((320, 352), 1.25)}
NUM_CLASSES, NUM_IMAGES = 8, 2
# Not those of a published model.
LOSS_WEIGHTS = (1.0, 0.9, 0.8)


class Evaluation:
    """The first image of a case: the passes of all stages, and the predictions."""

    def __init__(self, name, device):
        size, self.scale = CASES[name]
        self.case = tensors("tsd", name)
        self.heads = deepcopy(roi_heads(name)).to(device)
        given = [p.to(device) for p in proposals(size, self.case["in0_proposals"])]
        features = on(device, maps(name, f"{name}.eval", 1, size))
        with torch.no_grad():
            context, _ = self.heads.make_context([size], features)
            self.passes = passes_of(self.heads, context, [p.proposal_boxes.tensor for p in given])
            (self.found,) = self.heads.predict(context, given)


class Training:
    """One step on both images of a case: losses, gradients and what each stage drew."""

    def __init__(self, name, device):
        size, _ = CASES[name]
        self.name, self.case = name, tensors("tsd", name)
        heads, self.parameters = trainable(name, device, LOSS_WEIGHTS)
        for stage in heads.stages:
            stage.sampler = Recorder(stage.sampler)
        truth = targets(self.case, size, NUM_IMAGES)
        self.features, self.losses = train_once(heads, name, size, truth, device)
        self.samples = [stage.sampler.results[0] for stage in heads.stages]


@pytest.fixture(scope="module", params=CASES)
def evaluation(request, device):
    return Evaluation(request.param, device)


@pytest.fixture(scope="module", params=CASES)
def training(request, device):
    return Training(request.param, device)


@pytest.mark.parametrize("stage", [0, 1])
def test_refinement(evaluation, stage):
    case, found, after = evaluation.case, *evaluation.passes[stage : stage + 2]
    BOXES.check(shifted(found), case[f"stage{stage}_shifted_rois"])
    # The background is label 0 there, the last class here.
    EXACT.check((found.classified.logits.argmax(dim=1) + 1) % (NUM_CLASSES + 1), case[f"stage{stage}_label"])
    wanted = background_last(case[f"stage{stage}_bbox_pred"], 4)
    LOGITS.check(found.deltas[: len(wanted)], wanted)
    next_rois = torch.cat([after.rois.image_index[:, None], inclusive(after.rois.boxes)], dim=1)
    BOXES.check(next_rois, case[f"stage{stage}_rois_next"])


@pytest.mark.parametrize("evaluation", ["cascade_small"], indirect=True, scope="module")
def test_some_rois_are_refined_by_the_box_of_the_background(evaluation):
    """Without that box they would end elsewhere, so :func:`test_refinement` sees it."""
    first, after = evaluation.passes[:2]
    background = first.classified.logits.argmax(dim=1) == NUM_CLASSES
    boxes = evaluation.heads.stages[0].decode(first.deltas, first.classified.boxes)[background]
    others = boxes.unflatten(1, (-1, 4))[:, :NUM_CLASSES]
    assert background.sum() > 1
    assert ((others - after.rois.boxes[background][:, None]).abs().amax(dim=2) > 1).all()


def test_last_stage(evaluation):
    case, passes = evaluation.case, evaluation.passes
    CASCADE_BOXES.check(shifted(passes[-1]), case["final_rois"])
    mean = sum(each.classified.logits for each in passes) / len(passes)
    LOGITS.check(mean, background_last(case["final_logits"]))
    wanted = background_last(case["final_bbox_pred"], 4)
    LOGITS.check(passes[-1].deltas[: len(wanted)], wanted)


def test_detections(evaluation):
    found = evaluation.heads.postprocessing(evaluation.found)
    check_detections(evaluation.case, "", found, boxes=CASCADE_BOXES)


def test_detections_in_the_frame_of_the_image(evaluation):
    resized = evaluation.found.resized(*(side / evaluation.scale for side in evaluation.found.image_size))
    found = evaluation.heads.postprocessing(resized)
    check_detections(evaluation.case, "_rescaled", found, boxes=CASCADE_BOXES)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_samples(training, stage):
    check_samples(training.case, stage, training.samples[stage], NUM_CLASSES)


def test_losses(training):
    check_losses(training.case, training.losses)


def test_gradients(training):
    check_gradients(training.name, training.parameters | features_by_name(training.features))
