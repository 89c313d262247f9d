"""Parts of TSD that do not fit each other."""

import pytest
import torch
from detectron2.config import instantiate

from htd.modeling.tsd import ClassificationMargin, LocalizationMargin
from tests.configs.reduced import example, reduced_model
from tests.modeling.tsd.leaves import CASCADE, FASTER, block


def no_sibling_but_constraints(stage):
    stage.head.sibling = None


def one_box_and_one_for_the_background(stage):
    stage.head.regression.class_agnostic = True


def sibling_of_one_box_and_one_for_the_background(stage):
    stage.head.sibling.class_agnostic = True


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
        (no_samples, "samples"),
        (no_layers, "fc_dims"),
        (no_trunk, "trunk_dim is 0"),
        (no_factor, "shift_factor nan"),
        (one_box_and_one_for_the_background, "background_box"),
        (sibling_of_one_box_and_one_for_the_background, "background_box"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, text):
    config = reduced_model(CASCADE).roi_heads
    change(config.stages[1])
    with pytest.raises(ValueError, match=text):
        instantiate(config)


def test_a_model_needs_a_stage():
    config = reduced_model(CASCADE).roi_heads
    config.stages = []
    with pytest.raises(ValueError, match="stages is empty"):
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
        (box_for_no_background, "background_box"),
        (other_features, "shapes cannot be multiplied"),
        (other_bins, "offsets"),
        (finer_shift, "offsets"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_at_the_first_step(change, text):
    config = reduced_model(CASCADE)
    change(config.roi_heads.stages[0])
    model = instantiate(config)
    with pytest.raises((ValueError, RuntimeError), match=text):
        model([example(2)])
    with pytest.raises((ValueError, RuntimeError), match=text), torch.no_grad():
        model.eval()([example(2)])


def test_constraints_need_a_sibling():
    config = reduced_model(CASCADE)
    no_sibling_but_constraints(config.roi_heads.stages[0])
    with pytest.raises(ValueError, match="no sibling"):
        instantiate(config)([example(2)])


@pytest.mark.parametrize("rule", [ClassificationMargin, LocalizationMargin])
@pytest.mark.parametrize("margin", [-0.1, 1.01, float("nan")])
def test_margins_that_nothing_can_be_worth_are_refused(rule, margin):
    with pytest.raises(ValueError, match="margin is"):
        rule(margin=margin)
    assert rule(margin=0).margin == 0 and rule(margin=1).margin == 1


def test_a_stage_without_sibling_needs_no_constraints():
    config = reduced_model(FASTER).roi_heads
    block("leave_out_sibling")(config.stages[0])
    assert instantiate(config).stages[0].losses.constraints == []
