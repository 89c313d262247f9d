"""The region proposal network against the reference arrays."""

import numpy as np
import pytest
import torch

from tests.modeling.rpn.conftest import config, image_list, network, targets
from tests.recorded import close, feature_maps, tensors, unpaired

NAMES = {"rpn_conv": "conv", "rpn_cls": "objectness_logits", "rpn_reg": "anchor_deltas"}


def maps_on(device, seed, batch):
    return {name: value.to(device) for name, value in feature_maps(seed, 2, *batch).items()}


def test_proposals(device):
    case = tensors("htd", "rpn_infer")
    cfg = config()
    before, after = case["nms_pre_post"].tolist()
    cfg.proposal_rule.pre_nms_topk[1], cfg.proposal_rule.post_nms_topk[1] = before, after
    batch = case["batch_hw"].tolist()
    images = image_list(case["image_hw"].tolist(), batch, device)
    with torch.no_grad():
        proposals, losses = network(cfg, device).eval()(images, maps_on(device, 61, batch))
    assert losses == {}
    for i, (found, empty) in enumerate(zip(proposals, (28, 78), strict=True)):
        boxes = found.proposal_boxes.tensor.cpu().numpy()
        scores = found.objectness_logits.sigmoid().cpu().numpy()
        reference = {"boxes": case[f"proposals{i}"].numpy(), "scores": case[f"objectness{i}"].numpy()}
        missing = unpaired(
            reference, {"boxes": boxes, "scores": scores}, box_tolerance=5e-3, score_tolerance=1e-5
        )
        assert len(scores) == 1000 and not len(missing)
        assert (np.diff(scores) <= 0).all()
        assert ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) == 0).sum() == empty


@pytest.fixture(scope="module")
def training(device):
    """Losses, gradients, anchors and labels of the training case."""
    case = tensors("htd", "rpn_train")
    rpn = network(config(), device).train()
    sizes = case["image_hw"].tolist()
    batch = case["batch_hw"].tolist()
    truth = targets([case["gt_boxes0"], case["gt_boxes1"]], sizes, device)
    maps = {name: value.requires_grad_() for name, value in maps_on(device, 16, batch).items()}
    _, losses = rpn(image_list(sizes, batch, device), maps, truth)
    sum(losses.values()).backward()
    anchors = rpn.anchor_generator(list(maps.values()))
    labels, _ = rpn.label_and_sample_anchors(anchors, truth)
    return case, rpn, losses, anchors, labels.cpu()


def test_losses(training):
    case, _, losses, _, _ = training
    for ours, theirs in (("loss_rpn_cls", "loss_rpn_cls"), ("loss_rpn_loc", "loss_rpn_bbox")):
        close(losses[ours], case[theirs], 0, rtol=1e-4)


def test_anchors_and_labels(training):
    case, rpn, _, anchors, labels = training
    close(torch.cat([a.tensor for a in anchors]), case["anchors"], 1e-4)
    assert torch.equal(labels, case["anchor_state"])
    assert torch.equal((labels == 1).sum(dim=1), case["num_pos"])
    assert torch.equal((labels == 0).sum(dim=1), case["num_neg"])
    assert rpn.loss_normalizer(labels) == case["normaliser"]
    levels, strides = [a.tensor for a in anchors], rpn.anchor_generator.strides
    for size, count in zip(case["image_hw"].tolist(), case["inside"].tolist(), strict=True):
        none = levels[0][:0]
        takes_part = rpn.anchor_labeler(levels, strides, none, size, rpn.box_convention)[0] == 0
        assert takes_part.sum() == count


def test_gradients(training):
    case, rpn, *_ = training
    for theirs, ours in NAMES.items():
        layer = getattr(rpn.rpn_head, ours)
        for leaf in ("weight", "bias"):
            norm = getattr(layer, leaf).grad.norm()
            close(norm, case[f"gradnorm_rpn_head.{theirs}.{leaf}"], 0, rtol=1e-3)
        if theirs != "rpn_conv":
            close(layer.bias.grad, case[f"grad_rpn_head.{theirs}.bias"], 1e-5)
