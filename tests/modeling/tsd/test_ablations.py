"""TSD's parts taken out one by one, as in the paper's tables, and margins other than the published ones."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.modeling.tsd import ClassificationMargin, LocalizationMargin
from htd.modeling.tsd.losses import Comparison
from tests.configs.reduced import example
from tests.modeling.htc.small import changed, heads_inputs, seeded_losses, without_gradient
from tests.modeling.tsd.leaves import CONTINUOUS, FASTER, block

TOWERS = {"loss_cls_tsd", "loss_box_reg_tsd"}
BOTH = TOWERS | {"loss_cls", "loss_box_reg"}
MARGINS = {"loss_margin_cls", "loss_margin_loc"}


def no_sibling(config):
    block("leave_out_sibling")(config.roi_heads.stages[0])


def no_shift_of(*towers):
    def change(config):
        block("leave_out_shifts")(config.roi_heads.stages[0], *towers)

    return change


def decoupled(config):
    no_sibling(config)
    no_shift_of("classification", "regression")(config)


def constraints(*kept):
    def change(config):
        stage = config.roi_heads.stages[0]
        stage.losses.constraints = [stage.losses.constraints[k] for k in kept]

    return change


CHANGES = {
    "decoupled": (decoupled, TOWERS),
    "no sibling": (no_sibling, TOWERS),
    "sibling": (constraints(), BOTH),
    "sibling and M_cls": (constraints(0), BOTH | {"loss_margin_cls"}),
    "sibling and M_loc": (constraints(1), BOTH | {"loss_margin_loc"}),
    "classification stays": (no_shift_of("classification"), BOTH | MARGINS),
    "regression stays": (no_shift_of("regression"), BOTH | MARGINS),
    "both stay": (no_shift_of("classification", "regression"), BOTH | MARGINS),
}


@pytest.mark.parametrize("leaf", [FASTER, CONTINUOUS])
@pytest.mark.parametrize(("change", "names"), CHANGES.values(), ids=CHANGES)
def test_changed_model_trains_and_detects(leaf, change, names):
    model, inputs = changed(leaf, change), [example(3), example(0, seed=1), example(1, seed=2)]
    losses, _ = seeded_losses(model, [inputs])
    assert {name for name in losses if "rpn" not in name} == names
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    assert not without_gradient(model)
    with torch.no_grad():
        assert len(model.eval()(inputs)[0]["instances"])


@pytest.mark.parametrize("change", [no_sibling, decoupled])
def test_without_sibling_from_nothing(change):
    heads = changed(FASTER, change).roi_heads
    losses, _ = seeded_losses(heads, heads_inputs((0, 2), 0))
    assert losses["loss_box_reg_tsd"] == 0 and not without_gradient(heads)


def test_the_sibling_changes_nothing_at_test():
    whole, alone = changed(FASTER, lambda config: None), changed(FASTER, no_sibling)
    unused = alone.load_state_dict(whole.state_dict(), strict=False)
    assert not unused.missing_keys and all(".sibling." in name for name in unused.unexpected_keys)
    inputs = [example(2)]
    with torch.no_grad():
        one, other = (model.eval()(inputs)[0]["instances"] for model in (whole, alone))
    assert len(one) and torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert torch.equal(one.scores, other.scores)


def test_towers_that_stay_see_the_plain_roi_features():
    heads = changed(FASTER, no_shift_of("classification", "regression")).roi_heads.eval()
    head = heads.stages[0].head
    assert head.trunk is None
    images, maps, proposals, *_ = heads_inputs((8, 3))
    with torch.no_grad():
        context, _ = heads.make_context(images.image_sizes, maps)
        rois = context.rois([p.proposal_boxes.tensor for p in proposals])
        x = head.features(context, rois)
        found = head.classify(context, rois)
        deltas = head.regress(context, rois, found, torch.arange(len(rois)))
        wanted = head.classification.cls_score(head.classification.fcs(x))
        assert torch.equal(found.logits, wanted)
        assert torch.equal(deltas, head.regression.bbox_pred(head.regression.fcs(x)))
    assert torch.equal(found.boxes, rois.boxes)


def as_published(config):
    """Change nothing."""


@pytest.mark.parametrize(
    ("change", "millions"), [(decoupled, 55.7), (no_sibling, 59.02), (as_published, 73.33)]
)
def test_parameters_of_the_papers_table(change, millions):
    """58.9 million without the sibling in the paper, 59.02 in the published code."""
    config = LazyConfig.load(FASTER).model
    change(config)
    assert parameters(config) == pytest.approx(millions, abs=0.1)


def test_parameters_of_the_papers_baseline():
    config = LazyConfig.load("configs/common/models/faster_rcnn_legacy.py").model
    assert parameters(config) == pytest.approx(41.8, abs=0.1)


def parameters(config):
    """Return the millions of parameters of a model."""
    with torch.device("meta"):
        return sum(p.numel() for p in instantiate(config).parameters()) / 1e6


def compared(scores, sibling, boxes, sibling_boxes):
    """Return what is compared of one image whose samples are all of class 0 and all positive."""
    as_logits = [torch.tensor([[s, 1 - s] for s in values]).log() for values in (scores, sibling)]
    count = len(scores)
    gt = torch.tensor([[0.0, 0, 10, 10]]).repeat(count, 1)
    return Comparison(
        *as_logits,
        classes=torch.zeros(count, dtype=torch.long),
        boxes=torch.tensor(boxes),
        sibling_boxes=torch.tensor(sibling_boxes),
        gt_boxes=gt,
        roi_image=torch.zeros(count, dtype=torch.long),
        positives=torch.tensor([count]),
        rois=torch.tensor([count]),
    )


@pytest.mark.parametrize(("margin", "classes", "boxes"), [(0.3, 0.5, 0.5), (0.2, 0.4, 0.4)])
def test_margins_by_hand(margin, classes, boxes):
    """Two samples. Probabilities 0.6 against 0.5 miss 0.5 + m - 0.6; 0.7 against 0.9 miss 1 - 0.7 for any m.

    IoU 0.6 against 0.5, and 0.7 against 0.9: the boxes are as wide as the ground truth and lower.
    """
    found = compared(
        [0.6, 0.7],
        [0.5, 0.9],
        [[0.0, 0, 10, 6], [0.0, 0, 10, 7]],
        [[0.0, 0, 10, 5], [0.0, 0, 10, 9]],
    )
    torch.testing.assert_close(
        ClassificationMargin(margin=margin)(found), {"loss_margin_cls": torch.tensor(classes / 2)}
    )
    torch.testing.assert_close(
        LocalizationMargin(margin=margin)(found), {"loss_margin_loc": torch.tensor(boxes / 2)}
    )


def test_the_papers_margins_are_set_by_value():
    def change(config):
        for rule in config.roi_heads.stages[0].losses.constraints:
            rule.margin = 0.2

    inputs = [[example(3), example(1, seed=1)]]
    published, _ = seeded_losses(changed(FASTER, as_published), inputs)
    found, _ = seeded_losses(changed(FASTER, change), inputs)
    for name, loss in published.items():
        assert (found[name] < loss) if "margin" in name else torch.equal(found[name], loss)
