"""A training step of TOOD, R-50, from images to new weights, in both phases, against the reference arrays."""

import math
from functools import partial

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.checkpoint import convert
from tests.modeling.dense.reference import (
    check_losses,
    check_norms_and_probes,
    gradients,
    in_float64,
    priced,
    targets,
)
from tests.modeling.reference import Tolerance
from tests.modeling.tood.reference import ITERATIONS_AN_EPOCH, R50
from tests.recorded import arrays, image, published_weights, tensors

SEED, SIZES = 2962, [(128, 160), (100, 140)]
# Name of the case -> recorded epoch.
CASES = {"train_tood_r50_initial": 0, "train_tood_r50_aligned": 4}
GRADIENTS = Tolerance(relative=3e-3)
STEP_RELATIVE = 3e-3
# The rounding of a weight's change, times the root of the number of weights.
STEP_ROUNDING = 1e-7


def one_input(i, truth):
    """The ``i``-th image with its objects."""
    picture = image(f"img{i}", *truth.image_size, SEED).transpose(2, 0, 1)
    return {"image": torch.from_numpy(picture.copy()), "instances": truth}


class Step:
    """The step, with the optimizer of the config.

    Attributes:
        weights: of the model before the step, by our names.
        published: names of all parameters of the published model.
        trained: names of those that are trained here.
        parameters: those that are to be trained, by published name, in the recorded order.
        gradients: of the sum of the losses, in float64.
        changes: by which the step moved each parameter.
    """

    def __init__(self, name, device):
        self.case, self.names = tensors("tood", name), arrays("tood", name)
        config = LazyConfig.load(f"configs/{R50}.py")
        model = instantiate(config.model)
        published = published_weights("tood", "train_tood_r50")
        self.weights, report = convert(published, model)
        model.load_state_dict(self.weights, strict=True)
        model.to(device).train()
        model.criterion.set_iteration(CASES[name] * ITERATIONS_AN_EPOCH)
        inputs = [one_input(i, truth) for i, truth in enumerate(targets(self.case, SIZES, device))]
        with torch.no_grad():
            self.priced = priced(model, partial(model, inputs))
        exact_model = in_float64(model)
        exact = priced(exact_model, partial(exact_model, inputs))

        self.model, statistics = model, ("running_mean", "running_var", "num_batches_tracked")
        self.published = {key for key in published if not key.endswith(statistics)}
        ours = {key: p for key, p in model.named_parameters() if p.requires_grad}
        self.trained = {key for key, mine in report.used.items() if mine in ours}
        self.parameters = {key: ours[report.used[key]] for key in self.names["trainable_names"].tolist()}
        theirs = dict(exact_model.named_parameters())
        wanted = [theirs[report.used[key]] for key in self.parameters]
        found = gradients(sum(exact.losses.values()), wanted)
        self.gradients = dict(zip(self.parameters, found, strict=True))
        self.changes = self.step(config.optimizer)

    def step(self, optimizer):
        optimizer.params.model = self.model
        before = [p.detach().clone() for p in self.parameters.values()]
        for parameter, gradient in zip(self.parameters.values(), self.gradients.values(), strict=True):
            parameter.grad = gradient.to(parameter)
        instantiate(optimizer).step()
        each = zip(self.parameters.values(), before, strict=True)
        return [(parameter.detach() - old).cpu() for parameter, old in each]


@pytest.fixture(scope="module", params=CASES)
def step(request, device):
    return Step(request.param, device)


def test_losses(step):
    check_losses(step.case, step.priced)


def test_what_is_trained(step):
    """All but the stem and the first stage; of the norms the weights and biases, not the statistics."""
    assert step.trained == set(step.names["trainable_names"].tolist())
    assert step.published - step.trained == set(step.names["frozen_names"].tolist())
    assert not step.case["bn_training_any"]
    statistics = {name for name in step.weights if name.endswith(("running_mean", "running_var"))}
    after = step.model.state_dict()
    assert statistics and all(torch.equal(after[name].cpu(), step.weights[name]) for name in statistics)


def test_gradients(step):
    norms, probes = step.case["grad_norm"], step.case["grad_probe"]
    check_norms_and_probes(step.gradients, norms, probes, SEED, GRADIENTS)


def test_step_of_the_optimizer(step):
    for found, wanted in zip(step.changes, step.case["step_delta_norm"].tolist(), strict=True):
        limit = STEP_RELATIVE * wanted + STEP_ROUNDING * math.sqrt(found.numel())
        Tolerance(absolute=limit).check(found.double().norm(), wanted)
