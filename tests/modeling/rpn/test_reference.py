"""The region proposal network against the reference arrays."""

import numpy as np
import pytest
import torch

from tests.golden import feature_maps, tensors, unpaired
from tests.modeling.rpn.conftest import config, image_list, network, targets

NAMES = {"rpn_conv": "conv", "rpn_cls": "objectness_logits", "rpn_reg": "anchor_deltas"}


def test_proposals():
    case = tensors("htd", "rpn_infer")
    cfg = config()
    before, after = case["nms_pre_post"].tolist()
    cfg.proposal_rule.pre_nms_topk[1], cfg.proposal_rule.post_nms_topk[1] = before, after
    batch = case["batch_hw"].tolist()
    maps = feature_maps(61, 2, *batch)
    with torch.no_grad():
        proposals, losses = network(cfg).eval()(image_list(case["image_hw"].tolist(), batch), maps)
    assert losses == {}
    for i, (found, empty) in enumerate(zip(proposals, (28, 78), strict=True)):
        boxes, scores = found.proposal_boxes.tensor.numpy(), found.objectness_logits.sigmoid().numpy()
        reference = {"boxes": case[f"proposals{i}"].numpy(), "scores": case[f"objectness{i}"].numpy()}
        missing = unpaired(
            reference, {"boxes": boxes, "scores": scores}, box_tolerance=5e-3, score_tolerance=1e-5
        )
        assert len(scores) == 1000 and not len(missing)
        assert (np.diff(scores) <= 0).all()
        assert ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) == 0).sum() == empty


@pytest.fixture(scope="module")
def training():
    """Losses, gradients, anchors and labels of the training case."""
    case = tensors("htd", "rpn_train")
    rpn = network(config()).train()
    sizes = case["image_hw"].tolist()
    batch = case["batch_hw"].tolist()
    truth = targets([case["gt_boxes0"], case["gt_boxes1"]], sizes)
    maps = {name: value.requires_grad_() for name, value in feature_maps(16, 2, *batch).items()}
    _, losses = rpn(image_list(sizes, batch), maps, truth)
    sum(losses.values()).backward()
    anchors = rpn.anchor_generator(list(maps.values()))
    labels, _ = rpn.label_and_sample_anchors(anchors, truth)
    return case, rpn, losses, anchors, labels


def test_losses(training):
    case, _, losses, _, _ = training
    for ours, theirs in (("loss_rpn_cls", "loss_rpn_cls"), ("loss_rpn_loc", "loss_rpn_bbox")):
        torch.testing.assert_close(losses[ours].detach(), case[theirs], rtol=1e-4, atol=0)


def test_anchors_and_labels(training):
    case, rpn, _, anchors, labels = training
    torch.testing.assert_close(torch.cat([a.tensor for a in anchors]), case["anchors"], rtol=0, atol=1e-4)
    assert torch.equal(labels, case["anchor_state"])
    assert torch.equal((labels == 1).sum(dim=1), case["num_pos"])
    assert torch.equal((labels == 0).sum(dim=1), case["num_neg"])
    assert rpn.loss_normalizer(labels) == case["normaliser"]
    levels, strides = [a.tensor for a in anchors], rpn.anchor_generator.strides
    for size, count in zip(case["image_hw"].tolist(), case["inside"].tolist(), strict=True):
        assert rpn.anchor_labeler.inside(levels, strides, size).sum() == count


def test_gradients(training):
    case, rpn, *_ = training
    for theirs, ours in NAMES.items():
        layer = getattr(rpn.rpn_head, ours)
        for leaf in ("weight", "bias"):
            norm = getattr(layer, leaf).grad.norm()
            wanted = case[f"gradnorm_rpn_head.{theirs}.{leaf}"]
            torch.testing.assert_close(norm, wanted, rtol=1e-3, atol=0)
        if theirs != "rpn_conv":
            wanted = case[f"grad_rpn_head.{theirs}.bias"]
            torch.testing.assert_close(layer.bias.grad, wanted, rtol=0, atol=1e-5)
