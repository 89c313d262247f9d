"""SALT-Net's losses against the reference arrays: of given outputs, without objects, and through the head."""

from functools import partial

import pytest
import torch

from htd.modeling.dense import DensePredictions
from tests.modeling.dense.recorded import (
    TRAINED,
    as_rows,
    check,
    check_gradient,
    check_gradient_norms,
    check_normalisers,
    check_targets,
    normal_maps,
    objects,
)
from tests.modeling.dense.reference import check_losses, decoded, gradients, in_float64, priced, random_maps
from tests.modeling.salt.reference import R50, head, outputs
from tests.recorded import arrays, tensors

TERMS = {"loss_cls", "loss_box_reg", "loss_dfl", "loss_box_reg_init"}
OF_BOXES = TERMS - {"loss_cls"}
HEAD_SEED, HEAD_SIZES, HEAD_BATCH = 14, [(125, 155), (128, 160)], (128, 160)


@pytest.fixture(scope="module")
def trained_head(device):
    """The detector and our names of its published ones."""
    model, names = head(R50, device)
    return model.train(), names


class Given:
    """What outputs that are drawn cost; the recorded ones have probabilities in the place of logits.

    Attributes:
        logits, sides, distances: maps of the outputs.
        truth: objects of each image.
        priced: see :class:`tests.modeling.dense.reference.Priced`.
    """

    def __init__(self, name, model, seed, sizes, device):
        self.case = tensors("salt", name)
        self.logits, self.sides = outputs(seed, len(sizes), logit=-3, factor=2, device=device)
        drawn = normal_maps("dist", 4, seed, len(sizes), device)
        self.distances = [(3 * x + 3).clamp(min=0) for x in drawn]
        for x in (*self.logits, *self.sides, *self.distances):
            x.requires_grad_()
        maps = self.logits, self.sides, self.distances
        logits, sides, coarse = map(as_rows, maps)
        self.truth = objects(self.case, sizes, device)
        predictions = DensePredictions(logits, sides, coarse=coarse)
        train = partial(model.criterion, *decoded(model, self.logits, predictions), self.truth)
        self.priced = priced(model, train)

    def gradients(self, loss):
        """Return the gradients of a loss for probabilities, bins and distances, by their recorded names."""
        found = gradients(loss, [*self.logits, *self.sides, *self.distances])
        probabilities = [x.detach().cpu().sigmoid() for x in self.logits]
        # Of a logit the gradient is that of the probability p times p (1 - p).
        scores = [g / (p * (1 - p)) for g, p in zip(found[:5], probabilities, strict=True)]
        return {"cls": scores, "reg": found[5:10], "dist": found[10:]}


@pytest.fixture(scope="module")
def given(trained_head, device):
    return Given("loss", trained_head[0], 21, TRAINED, device)


def test_targets(given):
    check_targets(given.case, given.priced.targets, given.truth)


def test_losses(given):
    check_losses(given.case, given.priced, total="loss_total")


def test_normalisers(given):
    check_normalisers(given.case, given.priced)
    assert set(given.priced.norms) == TERMS


@pytest.mark.parametrize("name", ["cls", "reg", "dist"])
def test_gradients(given, name):
    found = given.gradients(sum(given.priced.losses.values()))[name]
    check_gradient_norms(found, given.case[f"gradnorm_{name}"])
    recorded = [i for i in range(5) if f"grad_{name}{i}" in given.case]
    assert recorded[-3:] == [2, 3, 4]
    for i in recorded:
        check(found[i], given.case[f"grad_{name}{i}"])


@pytest.fixture(scope="module")
def without_objects(trained_head, device):
    return Given("loss_no_gt", trained_head[0], 22, TRAINED[:2], device)


def test_without_objects(without_objects):
    """The losses of boxes are 0, where those of the published implementation are 0 / 0."""
    run = without_objects
    check_targets(run.case, run.priced.targets, run.truth)
    check_normalisers(run.case, run.priced)
    check(run.priced.levels["loss_cls"], run.case["loss_cls"])
    check(run.priced.losses["loss_cls"], run.case["loss_cls"].sum())
    found = run.gradients(run.priced.losses["loss_cls"])["cls"]
    check_gradient_norms(found, run.case["gradnorm_cls_clsloss_only"])
    assert {name: run.priced.losses[name].item() for name in OF_BOXES} == dict.fromkeys(OF_BOXES, 0)


@pytest.mark.parametrize(
    "name, maps", [("box_reg", "sides"), ("dfl", "sides"), ("box_reg_init", "distances")]
)
def test_without_objects_the_losses_depend_on_the_outputs(without_objects, name, maps):
    """So that every process of a training has a gradient for every parameter; it is 0."""
    loss = without_objects.priced.losses[f"loss_{name}"]
    found = torch.autograd.grad(loss, getattr(without_objects, maps), retain_graph=True)
    assert not any(g.any() for g in found)


class Trained:
    """The case of the losses through the whole head, with its gradients.

    Attributes:
        priced: see :class:`tests.modeling.dense.reference.Priced`.
        parameters, features: gradients in float64, by published name and by level.
    """

    def __init__(self, model, names, device):
        self.case = tensors("salt", "head_train")
        features = random_maps(HEAD_SEED, len(HEAD_SIZES), *HEAD_BATCH, device)
        truth = objects(self.case, HEAD_SIZES, device)

        def train(model, features):
            return priced(model, partial(model.criterion, *decoded(model, features), truth))

        with torch.no_grad():
            self.priced = train(model, features)
        exact_model = in_float64(model)
        features = [level.double().requires_grad_() for level in features]
        exact = train(exact_model, features)
        ours = dict(exact_model.named_parameters())
        published = [str(key) for key in arrays("salt", "head_train")["param_names"]]
        assert {names[key] for key in published} == set(ours)
        inputs = [*(ours[names[key]] for key in published), *features]
        found = gradients(sum(exact.losses.values()), inputs)
        self.parameters = dict(zip(published, found[: len(published)], strict=True))
        self.features = found[len(published) :]


@pytest.fixture(scope="module")
def trained(trained_head, device):
    return Trained(*trained_head, device)


def test_losses_through_the_head(trained):
    check_losses(trained.case, trained.priced, total="loss_total")


def test_gradients_through_the_head(trained):
    check_gradient_norms(list(trained.parameters.values()), trained.case["param_grad_norm"])
    check_gradient_norms(trained.features, trained.case["feat_grad_norm"])
    wholes = [key for key in trained.case if key.startswith("grad:")]
    assert len(wholes) == 18
    for key in wholes:
        check_gradient(trained.parameters[key.removeprefix("grad:")], trained.case[key])
