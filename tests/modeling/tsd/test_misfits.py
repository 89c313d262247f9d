"""Parts of TSD that do not fit each other."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from htd.errors import UserError
from htd.modeling.cascade import CascadeStage, SharedFCHead
from htd.modeling.tsd import ClassificationMargin, LocalizationMargin, NoSibling
from tests.configs.reduced import example, reduced_model
from tests.modeling.tsd.leaves import CASCADE, FASTER, block


def no_sibling_but_constraints(stage):
    stage.head.sibling = L(NoSibling)()


def one_box_and_one_for_the_background(stage):
    stage.head.regression.class_agnostic = True


def sibling_of_one_box_and_one_for_the_background(stage):
    stage.head.sibling.class_agnostic = True


def head_in_a_plain_stage(stage):
    stage._target_ = CascadeStage
    stage.pop("constraints")


def plain_head(stage):
    stage.head = L(SharedFCHead)(features=stage.head.features, num_classes=4)


def no_samples(stage):
    stage.head.regression.pooler.samples = 0


def no_layers(stage):
    stage.head.classification.fc_dims = []


def no_trunk(stage):
    stage.head.trunk_dim = 0


def no_factor(stage):
    stage.head.shift_factor = float("nan")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (head_in_a_plain_stage, "a TSDHead has losses that a CascadeStage does not compute.* TSDStage"),
        (plain_head, "a TSDStage has a SharedFCHead for a head; give it a TSDHead"),
        (no_samples, "samples=0 of a pooling by offsets: give at least 1"),
        (no_layers, "fc_dims of a head is empty"),
        (no_trunk, "trunk_dim=0 and shift_factor=0.1; give a whole number from 1 on"),
        (no_factor, "shift_factor=nan; give a whole number from 1 on and a finite number"),
        (no_sibling_but_constraints, "has constraints, but its head has no sibling .*set constraints=\\[\\]"),
        (one_box_and_one_for_the_background, "background_box=True needs a box for each class"),
        (sibling_of_one_box_and_one_for_the_background, "background_box=True needs a box for each class"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, text):
    config = reduced_model(CASCADE).roi_heads
    change(config.stages[1])
    with pytest.raises(UserError, match=text):
        instantiate(config)


def test_a_model_needs_a_stage():
    config = reduced_model(CASCADE).roi_heads
    config.stages = []
    with pytest.raises(UserError, match="roi_heads.stages is empty"):
        instantiate(config)


def box_for_no_background(stage):
    stage.head.regression.background_box = stage.head.sibling.background_box = False


def other_features(stage):
    stage.head.features.output_size = 5


def other_bins(stage):
    stage.head.classification.pooler.output_size = 5


def finer_shift(stage):
    stage.head.classification.shift.resolution = 5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (box_for_no_background, "SampledOrBestClass also refines RoIs as background, but"),
        (other_features, r"pools RoI features of \(16, 5, 5\), but its layers are for 784 numbers"),
        (other_bins, "offsets"),
        (finer_shift, "offsets"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_the_first_step(change, text):
    config = reduced_model(CASCADE)
    change(config.roi_heads.stages[0])
    model = instantiate(config)
    with pytest.raises((UserError, ValueError), match=text):
        model([example(2)])
    with pytest.raises((UserError, ValueError), match=text), torch.no_grad():
        model.eval()([example(2)])


def test_a_sibling_of_another_width_is_refused_in_training():
    config = reduced_model(CASCADE)
    config.roi_heads.stages[0].head.sibling.channels = 8
    with pytest.raises(UserError, match=r"RoI features of \(784,\), but its layers are for 392 numbers"):
        instantiate(config)([example(2)])


@pytest.mark.parametrize("rule", [ClassificationMargin, LocalizationMargin])
@pytest.mark.parametrize("margin", [-0.1, 1.01, float("nan")])
def test_margins_that_nothing_can_be_worth_are_refused(rule, margin):
    with pytest.raises(UserError, match="margin=.* of a progressive constraint: give a number from 0 to 1"):
        rule(margin=margin)
    assert rule(margin=0).margin == 0 and rule(margin=1).margin == 1


def test_a_stage_without_sibling_needs_no_constraints():
    config = reduced_model(FASTER).roi_heads
    block("leave_out_sibling")(config.stages[0])
    assert instantiate(config).stages[0].constraints == []
