"""Losses, refinement, score fusion and selection, by hand."""

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.layers import HardNMS, clip_boxes
from htd.modeling.cascade import (
    CascadeStage,
    DetectionSelector,
    LastStage,
    MeanLogits,
    MeanProbabilities,
    RoIPredictions,
    row_chunks,
)


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


def test_losses_are_divided_by_all_samples():
    # Deltas of zero are wrong by dx = 0.5: |0.5| - 0.5 * 0.1 with beta 0.1, for one positive of four.
    found = stage(loss_weight=2.0, smooth_l1_beta=0.1).losses(
        torch.zeros(4, 3), torch.zeros(1, 4), torch.tensor([2]), [samples([2, 2, 1, 2])]
    )
    assert found["loss_cls"].item() == pytest.approx(2 * math.log(3))
    assert found["loss_box_reg"].item() == pytest.approx(2 * 0.45 / 4)


def test_class_specific_deltas_are_those_of_the_true_class():
    deltas = torch.tensor([[9.0, 9, 9, 9, 0.5, 0, 0, 0]])
    found = stage().losses(torch.zeros(1, 3), deltas, torch.tensor([0]), [samples([1])])
    assert found["loss_box_reg"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("classes", [[], [2, 2]])
def test_no_positives_give_an_attached_zero(classes):
    deltas = torch.zeros(len(classes), 4, requires_grad=True)
    logits = torch.zeros(len(classes), 3, requires_grad=True)
    found = stage().losses(logits, deltas, torch.arange(len(classes)), [samples(classes)])
    assert found["loss_box_reg"].item() == 0
    sum(found.values()).backward()
    assert torch.equal(deltas.grad, torch.zeros_like(deltas))
    assert torch.isfinite(logits.grad).all()


def test_refine_decodes_clips_and_takes_the_best_class():
    boxes = [torch.tensor([[40.0, 0, 50, 10]]), torch.zeros(0, 4)]
    logits = torch.tensor([[0.0, 1.0, 9.0]])
    deltas = torch.tensor([[9.0, 9, 9, 9, 0.5, 0, math.log(2), 0]])
    found = stage().refine(logits, deltas, boxes, [(50, 52), (50, 50)])
    torch.testing.assert_close(found[0], torch.tensor([[40.0, 0, 52, 10]]))
    assert found[1].shape == (0, 4)


def test_fusions():
    a, b = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, 0.0]])
    torch.testing.assert_close(MeanProbabilities()([a, b])[0, 0].item(), 0.625)
    torch.testing.assert_close(MeanLogits()([a, b])[0, 0].item(), math.sqrt(3) / (1 + math.sqrt(3)))
    torch.testing.assert_close(LastStage()([a, b])[0, 0].item(), 0.5)


def test_selection_leaves_out_low_scores_and_what_is_not_finite():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [float("nan"), 0, 1, 1]])
    scores = torch.tensor([[0.9, 0.06, 0.04], [0.8, 0.05, 0.15], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]])
    select = DetectionSelector(score_threshold=0.05, nms=HardNMS(iou_threshold=0.5), max_detections=3)
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


def test_clip_and_chunks():
    found = clip_boxes(torch.tensor([[-1.0, -2, 60, 70]]), (50, 40))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 40, 50]]))
    assert row_chunks(0, 4) == [slice(0, 0)]
    assert [len(range(10)[s]) for s in row_chunks(10, 4)] == [4, 4, 2]
