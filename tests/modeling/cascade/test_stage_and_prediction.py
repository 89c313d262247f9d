"""Losses, refinement, score fusion and selection, by hand."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.layers import ContinuousBoxes, FeatureTable, HardNMS, InclusiveBoxes
from htd.modeling.cascade import (
    BestForegroundClass,
    BoxLosses,
    CascadeStage,
    ClassificationOutput,
    DetectionPostProcessing,
    LastStage,
    LevelRule,
    MeanLogits,
    MeanProbabilities,
    RoIContext,
    RoIPredictions,
    SampledOrBestClass,
    SharedFCHead,
    box_dim,
    box_predictor,
)
from htd.modeling.tsd import NoShift, ShiftedRegression


def stage(**settings):
    return CascadeStage(
        head=nn.Identity(),
        sampler=None,
        box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=2,
        **settings,
    )


def samples(classes):
    count = len(classes)
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(count, 1)
    return Instances(
        (50, 50),
        proposal_boxes=Boxes(boxes),
        gt_boxes=Boxes(boxes + torch.tensor([5.0, 0, 5, 0])),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )


def classified(logits, boxes=None):
    if boxes is None:
        boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(len(logits), 1)
    return ClassificationOutput(logits, None, None, boxes)


def losses(*args, **settings):
    return BoxLosses(**settings)(stage(), *args)


def test_losses_are_divided_by_all_samples():
    # Deltas of zero are wrong by dx = 0.5: |0.5| - 0.5 * 0.1 with beta 0.1, for one positive of four.
    inputs = classified(torch.zeros(4, 3)), torch.zeros(1, 4), torch.tensor([2]), [samples([2, 2, 1, 2])]
    found = losses(*inputs, loss_weight=2.0, smooth_l1_beta=0.1)
    assert found["loss_cls"].item() == pytest.approx(2 * math.log(3))
    assert found["loss_box_reg"].item() == pytest.approx(2 * 0.45 / 4)


def test_class_specific_deltas_are_those_of_the_true_class():
    deltas = torch.tensor([[9.0, 9, 9, 9, 0.5, 0, 0, 0]])
    found = losses(classified(torch.zeros(1, 3)), deltas, torch.tensor([0]), [samples([1])])
    assert found["loss_box_reg"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("classes", [[], [2, 2]])
def test_no_positives_give_an_attached_zero(classes):
    deltas = torch.zeros(len(classes), 4, requires_grad=True)
    logits = torch.zeros(len(classes), 3, requires_grad=True)
    found = losses(classified(logits), deltas, torch.arange(len(classes)), [samples(classes)])
    assert found["loss_box_reg"].item() == 0
    sum(found.values()).backward()
    assert torch.equal(deltas.grad, torch.zeros_like(deltas))
    assert torch.isfinite(logits.grad).all()


def refined(deltas, classes=None, convention=None, **settings):
    """Refine one RoI of a first image; there is a second image without RoIs."""
    boxes = [torch.tensor([[40.0, 0, 50, 10]]), torch.zeros(0, 4)]
    table = FeatureTable([torch.zeros(2, 1, 8, 8)], [8])
    convention = convention or ContinuousBoxes()
    context = RoIContext(table, [(50, 52), (50, 50)], LevelRule(num_levels=1), box_convention=convention)
    rois = context.rois(boxes)
    found = classified(torch.tensor([[0.0, 1.0, 9.0]]), rois.boxes)
    return stage(**settings).refine(context, rois, found, deltas, classes)


def test_refine_decodes_clips_and_takes_the_best_class():
    deltas = torch.tensor([[9.0, 9, 9, 9, 0.5, 0, math.log(2), 0]])
    found = refined(deltas)
    torch.testing.assert_close(found[0], torch.tensor([[40.0, 0, 52, 10]]))
    assert found[1].shape == (0, 4)


def test_refinement_by_the_sampled_class_or_the_best_of_all():
    deltas = torch.tensor([[0.1, 0, 0, 0, 0.2, 0, 0, 0, -0.3, 0, 0, 0]])
    rule = {"refined_class": SampledOrBestClass()}
    of_background = refined(deltas, **rule)[0]
    of_sample = refined(deltas, torch.tensor([0]), **rule)[0]
    torch.testing.assert_close(of_background, torch.tensor([[37.0, 0, 47, 10]]))
    torch.testing.assert_close(of_sample, torch.tensor([[41.0, 0, 51, 10]]))


def test_refined_class_of_several_rois():
    """The background, last, may be the best at test and is what negatives have as samples."""
    logits = torch.tensor([[0.0, 3.0, 9.0], [5.0, 1.0, 2.0], [0.0, 1.0, 1.0]])
    assert SampledOrBestClass()(logits, None).tolist() == [2, 0, 1]
    assert SampledOrBestClass()(logits, torch.tensor([2, 1, 2])).tolist() == [2, 1, 2]
    assert BestForegroundClass()(logits, torch.tensor([2, 1, 2])).tolist() == [1, 0, 1]


def test_number_of_box_coordinates():
    assert [box_dim(3, False), box_dim(3, True), box_dim(3, False, True)] == [12, 4, 16]
    assert box_predictor(5, 3, False, True).weight.shape == (16, 5)


@pytest.mark.parametrize("part", [box_predictor, SharedFCHead, ShiftedRegression])
def test_box_of_the_background_needs_boxes_of_classes(part):
    of_part = {
        box_predictor: {"in_features": 4},
        SharedFCHead: {"features": nn.Identity()},
        ShiftedRegression: {"shift": NoShift(), "pooler": nn.Identity()},
    }[part]
    size = {} if part is box_predictor else {"channels": 2, "resolution": 2, "fc_dims": [4]}
    with pytest.raises(ValueError, match="background_box"):
        part(num_classes=2, class_agnostic=True, background_box=True, **of_part, **size)


def test_fusions():
    a, b = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    torch.testing.assert_close(MeanProbabilities()([a, b])[0, 0].item(), 0.625)
    torch.testing.assert_close(MeanLogits()([a, b])[0, 0].item(), math.sqrt(3) / (1 + math.sqrt(3)))
    torch.testing.assert_close(LastStage()([a, b])[0, 0].item(), 0.5)


def test_selection_leaves_out_low_scores_and_what_is_not_finite():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [float("nan"), 0, 1, 1]])
    scores = torch.tensor([[0.9, 0.06, 0.04], [0.8, 0.05, 0.15], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]])
    select = DetectionPostProcessing(score_threshold=0.05, nms=HardNMS(iou_threshold=0.5), max_detections=3)
    found = select(RoIPredictions(boxes, scores, (50, 50)))
    assert found.pred_classes.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.2, 0.1]))
    assert select.may_keep(scores).tolist() == [True, True, True, True]
    assert len(select(RoIPredictions(boxes[:0], scores[:0], (50, 50)))) == 0


def test_resizing_takes_fractional_frames_and_both_axes():
    predictions = RoIPredictions(torch.tensor([[5.0, 10, 25, 40]]), torch.zeros(1, 2), (100, 50))
    found = predictions.resized(80.0, 20)
    torch.testing.assert_close(found.boxes, torch.tensor([[2.0, 8, 10, 32]]))
    assert found.image_size == (80.0, 20)


def test_inclusive_boxes_are_resized_and_clipped_by_their_pixels():
    """Pixels 4 to 23 are halved to 2 to 11.5; refined beyond a side of 52, a box ends with pixel 51."""
    convention = InclusiveBoxes()
    predictions = RoIPredictions(torch.tensor([[4.0, 10, 24, 40]]), torch.zeros(1, 2), (100, 50), convention)
    found = predictions.resized(50, 25)
    torch.testing.assert_close(found.boxes, torch.tensor([[2.0, 5, 12.5, 20.5]]))
    (first, _) = refined(torch.tensor([[2.0, 0, 0, 0]]), convention=convention)
    torch.testing.assert_close(first, torch.tensor([[51.0, 0, 52, 10]]))
