"""Which anchors become proposals."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals

from htd.layers import InclusiveBoxes
from htd.layers.boxes import ClampedBox2BoxTransform
from htd.modeling.rpn import Detectron2ProposalRule, ProposalRule

TRANSFORM = ClampedBox2BoxTransform((1, 1, 1, 1))


def propose(rule, anchors, logits, sizes, *, deltas=None, training=False):
    """Call a rule on levels of anchors, all deltas zero unless given."""
    if deltas is None:
        deltas = [torch.zeros(*scores.shape, 4) for scores in logits]
    return rule(anchors, logits, deltas, sizes, transform=TRANSFORM, training=training)


def rule(kind=ProposalRule, **settings):
    """Return a rule with limits that do not bind."""
    return kind(**{"pre_nms_topk": (100, 100), "post_nms_topk": (100, 100), **settings})


def test_suppression_stays_within_a_level():
    box = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    logits = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])]
    (found,) = propose(rule(), [box, box], logits, [(20, 20)])
    assert found.objectness_logits.tolist() == [3, 2]
    assert found.proposal_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9]]


def test_limits_differ_between_training_and_test():
    boxes = torch.tensor([[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(6)])
    logits = [torch.arange(6.0)[None], 10 + torch.arange(6.0)[None]]
    limited = rule(pre_nms_topk=(3, 2), post_nms_topk=(5, 3))
    (train,) = propose(limited, [boxes, boxes], logits, [(99, 99)], training=True)
    assert train.objectness_logits.tolist() == [15, 14, 13, 5, 4]
    (test,) = propose(limited, [boxes, boxes], logits, [(99, 99)])
    assert test.objectness_logits.tolist() == [15, 14, 5]


def test_boxes_without_area_stay_only_by_the_published_rule():
    anchors = [torch.tensor([[30.0, 0, 40, 10], [0, 0, 10, 10], [35, 0, 45, 10]])]
    logits = [torch.tensor([[2.0, 1.0, 3.0]])]
    (ours,) = propose(rule(), anchors, logits, [(20, 20)])
    assert ours.objectness_logits.tolist() == [3, 2, 1]
    assert ours.proposal_boxes.tensor[0].tolist() == [20, 0, 20, 10]
    (theirs,) = propose(rule(Detectron2ProposalRule), anchors, logits, [(20, 20)])
    assert theirs.objectness_logits.tolist() == [1]


def test_each_image_is_clipped_to_its_own_size():
    anchors = [torch.tensor([[-5.0, -5, 50, 50]])]
    found = propose(rule(), anchors, [torch.zeros(2, 1)], [(20, 30), (40, 10)])
    assert [f.proposal_boxes.tensor[0].tolist() for f in found] == [[0, 0, 30, 20], [0, 0, 10, 40]]
    assert [f.image_size for f in found] == [(20, 30), (40, 10)]


def test_clipping_to_the_last_pixel():
    """In 20 x 20 pixels the last is 19: a box beyond it keeps that one, and suppresses another of the same.

    Clipped as an area it would be without width, and would suppress nothing.
    """
    anchors = [torch.tensor([[30.0, 0, 40, 10], [0, 0, 10, 10], [15, 5, 25, 25], [19, 0, 21, 10]])]
    logits = [torch.tensor([[4.0, 3.0, 2.0, 1.0]])]
    (found,) = propose(rule(convention=InclusiveBoxes()), anchors, logits, [(20, 20)])
    assert found.proposal_boxes.tensor.tolist() == [[19, 0, 20, 10], [0, 0, 10, 10], [15, 5, 20, 20]]
    assert found.objectness_logits.tolist() == [4, 3, 2]
    kinds = rule(Detectron2ProposalRule, convention=InclusiveBoxes())
    (found,) = propose(kinds, anchors, logits, [(20, 20)])
    assert found.objectness_logits.tolist() == [4, 3, 2]
    (found,) = propose(rule(), anchors, logits, [(20, 20)])
    assert found.objectness_logits.tolist() == [4, 3, 2, 1]


def test_non_finite_predictions_are_left_out():
    boxes = torch.tensor([[0.0, 0, 5, 5], [10, 0, 15, 5], [20, 0, 25, 5]])
    deltas = [torch.zeros(1, 3, 4)]
    deltas[0][0, 1, 0] = torch.nan
    logits = [torch.tensor([[1.0, 2.0, torch.inf]])]
    (found,) = propose(rule(), [boxes], logits, [(30, 30)], deltas=deltas, training=True)
    assert found.objectness_logits.tolist() == [1]
    drops = rule(Detectron2ProposalRule)
    (found,) = propose(drops, [boxes], logits, [(30, 30)], deltas=deltas, training=True)
    assert found.objectness_logits.tolist() == [1]


def test_low_precision_and_no_images():
    boxes = torch.rand(50, 4) * 10
    boxes[:, 2:] += 10
    (found,) = propose(rule(), [boxes], [torch.randn(1, 50).bfloat16()], [(30, 30)])
    assert found.objectness_logits.dtype == found.proposal_boxes.tensor.dtype == torch.float32
    (found,) = propose(rule(), [boxes.double()], [torch.randn(1, 50).double()], [(30, 30)])
    assert found.objectness_logits.dtype == torch.float64
    assert propose(rule(), [boxes], [torch.zeros(0, 50)], []) == []


def test_detectron2s_rule_is_detectron2s():
    torch.manual_seed(0)
    anchors = [torch.rand(n, 4) * 40 for n in (60, 20)]
    for level in anchors:
        level[:, 2:] += level[:, :2]
    logits, deltas = [torch.randn(2, n) for n in (60, 20)], [torch.randn(2, n, 4) / 2 for n in (60, 20)]
    limits = {"pre_nms_topk": (30, 20), "post_nms_topk": (25, 15), "nms_thresh": 0.6}
    found = propose(
        Detectron2ProposalRule(min_box_size=2, **limits), anchors, logits, [(50, 60), (40, 40)], deltas=deltas
    )
    decoded = [
        torch.stack([Box2BoxTransform((1, 1, 1, 1)).apply_deltas(d, a) for d in level])
        for a, level in zip(anchors, deltas, strict=True)
    ]
    wanted = find_top_rpn_proposals(decoded, logits, [(50, 60), (40, 40)], 0.6, 20, 15, 2.0, False)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.proposal_boxes.tensor, theirs.proposal_boxes.tensor)
        assert torch.equal(ours.objectness_logits, theirs.objectness_logits)
