"""A training step of TSD on Faster R-CNN, R-50, from images to gradients, against the reference arrays."""

import pytest
import torch
from detectron2.config import instantiate

from htd.checkpoint import convert
from tests.modeling.reference import Recorder
from tests.modeling.tsd.reference import (
    EVERY,
    EXACT,
    by_published_name,
    check_gradients,
    check_losses,
    check_same_proposals,
)
from tests.modeling.tsd.small import model_config, targets
from tests.recorded import image, manifest, published_weights, tensors

NAME, NUM_IMAGES, NUM_CLASSES = "e2e_train", 2, 80


class Step:
    """The step, with every anchor and every proposal in the samples."""

    def __init__(self, device):
        self.case, seed = tensors("tsd", NAME), manifest("tsd", NAME)["seed"]
        config = model_config("e2e_full")
        config.proposal_generator.batch_size_per_image = EVERY
        config.roi_heads.stages[0].sampler.batch_size_per_image = EVERY
        model = instantiate(config)
        weights, report = convert(published_weights("tsd", NAME), model)
        model.load_state_dict(weights, strict=True)
        model.to(device).train()
        sampler, rule = model.roi_heads.stages[0].sampler, model.proposal_generator.proposal_rule
        model.roi_heads.stages[0].sampler, model.proposal_generator.proposal_rule = map(
            Recorder, (sampler, rule)
        )
        size = tuple(self.case["image_hw"].tolist())
        inputs = [
            {
                "image": torch.from_numpy(image(f"e2e.train.{i}", *size, seed).transpose(2, 0, 1).copy()),
                "instances": truth,
            }
            for i, truth in enumerate(targets(self.case, size, NUM_IMAGES))
        ]
        self.losses = model(inputs)
        sum(self.losses.values()).backward()
        (self.samples,) = model.roi_heads.stages[0].sampler.results
        (self.proposals,) = model.proposal_generator.proposal_rule.results
        self.parameters = by_published_name(model, report.used)


@pytest.fixture(scope="module")
def step(device):
    return Step(device)


@pytest.mark.parametrize("i", range(NUM_IMAGES))
def test_proposals(step, i):
    check_same_proposals(step.proposals[i], step.case[f"proposals_{i}"])


def test_number_of_samples(step):
    positive = [(s.gt_classes < NUM_CLASSES).sum().item() for s in step.samples]
    EXACT.check(positive, step.case["num_pos"])
    EXACT.check([len(s) - p for s, p in zip(step.samples, positive, strict=True)], step.case["num_neg"])


def test_losses(step):
    check_losses(step.case, step.losses)


def test_gradients(step):
    check_gradients(NAME, step.parameters)


def test_what_is_frozen(step):
    """The stem and the first stage of the backbone; all else has a gradient, norms included."""
    still = {name for name, parameter in step.parameters.items() if not parameter.requires_grad}
    beginnings = ("backbone.conv1.", "backbone.bn1.", "backbone.layer1.")
    assert still == {name for name in step.parameters if name.startswith(beginnings)}
    assert all(step.parameters[name].grad is not None for name in set(step.parameters) - still)
