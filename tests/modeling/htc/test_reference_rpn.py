"""The region proposal networks of HTC and Faster R-CNN in training against the reference arrays."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from tests.modeling.htc.reference import BOXES, LOSSES, SCORES, check_gradients, maps_of, with_weights
from tests.modeling.reference import EXACT, model_config
from tests.modeling.rpn.conftest import image_list, targets
from tests.recorded import tensors, unpaired

SEED = 105
CONFIGS = {"rpn_htc": "htc/htc_r50_fpn_1x", "rpn_faster": "baselines/faster_rcnn_r50_fpn_1x"}
# More than there are anchors: all are used, none is drawn.
ALL_ANCHORS = 1_000_000


@dataclass
class Step:
    """One training step.

    Attributes:
        labels: (N, R) of all anchors.
        level_of: (R,) level of each anchor.
        arguments: of ``rpn.losses``.
    """

    name: str
    case: dict
    rpn: nn.Module
    maps: dict
    proposals: list
    losses: dict
    labels: Tensor
    level_of: Tensor
    arguments: dict


@pytest.fixture(scope="module", params=CONFIGS)
def step(request, device):
    name = request.param
    case = tensors("htc", name)
    config = model_config(CONFIGS[name]).proposal_generator
    config.batch_size_per_image = ALL_ANCHORS
    rpn = with_weights(instantiate(config), name, device).train()
    sizes, batch = case["image_sizes"].tolist(), case["batch_size_hw"].tolist()
    truth = targets([case["gt_boxes_0"], case["gt_boxes_1"]], sizes, device)
    maps = maps_of(name, SEED, case["batch_size_hw"], device, grad=True)
    # What the losses are computed from is looked at by level, too.
    seen, losses_of = {}, rpn.losses

    def losses(*inputs):
        seen["arguments"] = inputs
        return losses_of(*inputs)

    rpn.losses = losses
    proposals, found = rpn(image_list(sizes, batch, device), maps, truth)
    rpn.losses = losses_of
    sum(found.values()).backward()
    anchors, logits, labels, deltas, boxes = seen["arguments"]
    level_of = torch.cat([torch.full((len(a),), i, device=device) for i, a in enumerate(anchors)])
    arguments = {
        "anchors": anchors,
        "pred_objectness_logits": [x.detach() for x in logits],
        "pred_anchor_deltas": [x.detach() for x in deltas],
        "gt_boxes": boxes,
    }
    return Step(name, case, rpn, maps, proposals, found, labels, level_of, arguments)


def test_labels(step):
    found = [step.labels[:, step.level_of == level] for level in range(5)]
    EXACT.check([(x == 1).sum().item() for x in found], step.case["num_pos_per_level"])
    EXACT.check([(x >= 0).sum().item() for x in found], step.case["num_used_per_level"])
    EXACT.check(step.rpn.loss_normalizer(step.labels), step.case["avg_factor"])


def test_losses(step):
    assert set(step.losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    LOSSES.check(step.losses["loss_rpn_cls"], step.case["loss_rpn_cls_per_level"].sum())
    LOSSES.check(step.losses["loss_rpn_loc"], step.case["loss_rpn_bbox_per_level"].sum())
    LOSSES.check(sum(step.losses.values()), step.case["total"])


@pytest.mark.parametrize("level", range(5))
def test_losses_of_a_level(step, level, monkeypatch):
    """The same with the anchors of one level alone, divided by the number of all."""
    monkeypatch.setattr(step.rpn, "loss_normalizer", lambda labels: step.case["avg_factor"].item())
    labels = step.labels.masked_fill(step.level_of != level, -1)
    losses = step.rpn.losses(**step.arguments, gt_labels=labels)
    LOSSES.check(losses["loss_rpn_cls"], step.case["loss_rpn_cls_per_level"][level])
    LOSSES.check(losses["loss_rpn_loc"], step.case["loss_rpn_bbox_per_level"][level])


def test_gradients(step):
    check_gradients(step.name, step.rpn, step.maps)


@pytest.mark.parametrize("image", [0, 1])
def test_proposals(step, image):
    """The best 600 are recorded; nothing else is among as many of the best here."""
    found, case = step.proposals[image].to("cpu"), step.case
    EXACT.check(len(found), case[f"num_proposals_{image}"])
    scores = found.objectness_logits.sigmoid()
    assert (scores.diff() <= 0).all()
    boxes, wanted = case[f"proposals_{image}"], case[f"proposal_scores_{image}"]
    best = slice(len(wanted))
    SCORES.check(scores[best], wanted)
    mine = {"boxes": found.proposal_boxes.tensor[best], "scores": scores[best]}
    reference = {"boxes": boxes.numpy(), "scores": wanted.numpy()}
    tolerances = {"box_tolerance": BOXES.absolute, "score_tolerance": SCORES.absolute}
    assert not len(unpaired(reference, mine, **tolerances))
