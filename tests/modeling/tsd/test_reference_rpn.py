"""The region proposal network with inclusive boxes and rounded anchors against the reference arrays."""

import pytest
import torch
from detectron2.config import instantiate

from htd.checkpoint import convert
from htd.layers import InclusiveBoxes
from tests.modeling.reference import on
from tests.modeling.rpn.conftest import image_list, targets
from tests.modeling.tsd.reference import (
    EXACT,
    Tolerance,
    by_published_name,
    check_proposals,
    gradient_norm,
)
from tests.modeling.tsd.small import CHANNELS, maps, model_config
from tests.recorded import extents, inclusive, published_weights, tensors

NAME, SIZE, PADDED, NUM_IMAGES = "rpn_small", (90, 118), (96, 128), 2
# Anchors on a level and proposals of an image: in training, at test.
LIMITS = [300, 120]
LOSSES = Tolerance(absolute=1e-5)
GRADIENTS = Tolerance(relative=1e-4)
PARAMETERS = [f"rpn_head.rpn_{part}.{kind}" for part in ("conv", "cls", "reg") for kind in ("weight", "bias")]


@pytest.fixture(scope="module")
def case():
    return tensors("tsd", NAME)


def first(label, at_most, positive_fraction, background):
    """Take the first positives, half of the sample at most, and the first negatives, in place of a draw."""
    positive, negative = ((label == value).nonzero()[:, 0] for value in (1, background))
    positive = positive[: int(at_most * positive_fraction)]
    return positive, negative[: at_most - len(positive)]


@pytest.fixture(scope="module")
def network(device):
    """The network, its parameters by published name, and its maps."""
    config = model_config(NAME).proposal_generator
    config.head.in_channels = CHANNELS[NAME]
    config.proposal_rule.update(pre_nms_topk=LIMITS, post_nms_topk=LIMITS)
    rpn = instantiate(config)
    rpn.box_convention = InclusiveBoxes()
    weights, report = convert(published_weights("tsd", NAME), rpn, source="tsd_faster")
    rpn.load_state_dict(weights, strict=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("htd.modeling.rpn.subsample_labels", first)
        yield rpn.to(device), by_published_name(rpn, report.used)


def features(device):
    return on(device, maps(NAME, "rpn.small", NUM_IMAGES, PADDED, last=6))


class Step:
    """A training step: proposals, losses, and the arguments of ``rpn.losses`` they were computed from."""

    def __init__(self, case, network, device):
        rpn, self.parameters = network
        losses_of = rpn.losses

        def losses(*inputs):
            self.anchors, self.logits, self.labels, self.deltas, self.boxes = inputs
            return losses_of(*inputs)

        rpn.train().losses = losses
        images = image_list([SIZE] * NUM_IMAGES, PADDED, device)
        boxes = [extents(case[f"in{i}_gt"]) for i in range(NUM_IMAGES)]
        truth = targets(boxes, [SIZE] * NUM_IMAGES, device)
        self.proposals, self.losses = rpn(images, features(device), truth)
        del rpn.losses
        sum(self.losses.values()).backward()


@pytest.fixture(scope="module")
def step(case, network, device):
    return Step(case, network, device)


def test_base_anchors(case, network):
    found = torch.stack(list(network[0].anchor_generator.cell_anchors))
    EXACT.check(inclusive(found), case["base_anchors"])


def test_labels(case, step):
    used = step.labels >= 0
    EXACT.check(used, case["label_weights"])
    EXACT.check(step.labels.clamp(min=0), case["labels"])
    EXACT.check((step.labels == 1).sum(), case["num_total_pos"])
    EXACT.check((step.labels == 0).sum(), case["num_total_neg"])


def test_targets(case, network, step):
    positive = step.labels == 1
    anchors = torch.cat([a.tensor for a in step.anchors]).expand(NUM_IMAGES, -1, -1)[positive]
    found = network[0].box2box_transform.get_deltas(anchors, step.boxes[positive])
    LOSSES.check(found, case["pos_targets"])


def test_losses(case, step):
    assert set(step.losses) == {"loss_rpn_cls", "loss_rpn_loc"}
    LOSSES.check(step.losses["loss_rpn_cls"], case["loss_rpn_cls"].sum())
    LOSSES.check(step.losses["loss_rpn_loc"], case["loss_rpn_bbox"].sum())


@pytest.mark.parametrize("level", range(5))
@torch.no_grad()
def test_losses_of_a_level(case, network, step, level, monkeypatch):
    """The same with the anchors of one level alone, divided by the number of all."""
    rpn, count = network[0], case["num_total_pos"] + case["num_total_neg"]
    monkeypatch.setattr(rpn, "loss_normalizer", lambda labels: count.item())
    ends = torch.tensor([len(a) for a in step.anchors]).cumsum(0).tolist()
    labels = torch.full_like(step.labels, -1)
    rows = slice(ends[level] - len(step.anchors[level]), ends[level])
    labels[:, rows] = step.labels[:, rows]
    losses = rpn.losses(step.anchors, step.logits, labels, step.deltas, step.boxes)
    LOSSES.check(losses["loss_rpn_cls"], case["loss_rpn_cls"][level])
    LOSSES.check(losses["loss_rpn_loc"], case["loss_rpn_bbox"][level])


def test_gradients(case, step):
    assert set(step.parameters) == set(PARAMETERS)
    GRADIENTS.check([gradient_norm(step.parameters[name]) for name in PARAMETERS], case["grad_norm"])


@pytest.mark.parametrize("image", range(NUM_IMAGES))
def test_proposals_of_training(case, step, image):
    check_proposals(step.proposals[image], case[f"prop_train_{image}"])


@torch.no_grad()
def test_proposals_at_test(case, network, device):
    images = image_list([SIZE] * NUM_IMAGES, PADDED, device)
    proposals, losses = network[0].eval()(images, features(device))
    assert losses == {}
    for image, found in enumerate(proposals):
        check_proposals(found, case[f"prop_test_{image}"])
