"""The operator alone against the reference arrays: points, features and all gradients."""

import pytest
import torch

from htd.checkpoint import convert
from htd.modeling.salt import SALTOperator
from htd.modeling.salt.operator import class_points, regression_points, tap_offsets
from tests.modeling.dense.recorded import check, check_gradient, check_gradient_norms
from tests.modeling.reference import EXACT
from tests.recorded import arrays, published_weights, random_input, tensors

SEED, MAPS = 11, (2, 256, 6, 8)


class Run:
    """One pass of the operator, with what its parts read and gave.

    Attributes:
        regression, classification: features that it read.
        found: by recorded name, what is recorded of the way from them to the points.
        aligned: features that it gave, by recorded name.
        loss: of both, and of classes alone.
        parameters: by published name, in the recorded order.
    """

    def __init__(self, device):
        self.case = tensors("salt", "operator")
        operator = SALTOperator(channels=256, num_levels=1)
        weights, report = convert(published_weights("salt", "manifest_operator"), operator, source="salt")
        operator.load_state_dict(weights, strict=True)
        operator.to(device)
        ours = dict(operator.named_parameters())
        published = [str(key) for key in arrays("salt", "operator")["param_names"]]
        self.parameters = {key: ours[report.used[key]] for key in published}
        assert len(ours) == len(self.parameters)

        self.regression, self.classification = (
            random_input(name, MAPS, SEED).to(device) for name in ("reg_feat", "cls_feat")
        )
        self.regression.clamp_(min=0)
        for x in (self.regression, self.classification):
            x.requires_grad_()
        seen = {}
        for name in ("vectors", "factors", "regression", "classification"):
            operator.get_submodule(name).register_forward_hook(remember(seen, name))
        classification, regression, distances = operator(self.classification, self.regression, 0)
        self.aligned = {"reg_aligned": regression, "cls_aligned": classification}
        self.found = {
            "distance": distances,
            "scale_factors": seen["factors"][-1].sigmoid(),
            "cls_vectors": seen["vectors"][-1],
            "reg_offset": seen["regression"][1],
            "cls_offset": seen["classification"][1],
        }
        terms = {key: (x * self.upstream(key, x)).sum() for key, x in self.aligned.items()}
        self.loss, self.loss_of_classes = sum(terms.values()), terms["cls_aligned"]

    @staticmethod
    def upstream(name, x):
        return random_input(f"grad_{name}", tuple(x.shape), SEED).to(x.device)

    def gradients(self, loss):
        inputs = [*self.parameters.values(), self.regression, self.classification]
        *found, regression, classification = torch.autograd.grad(
            loss, inputs, retain_graph=True, allow_unused=True
        )
        return dict(zip(self.parameters, found, strict=True)), regression, classification


def remember(seen, name):
    """Return a hook that notes what a module reads and gives."""
    return lambda module, inputs, output: seen.update({name: (*inputs, output)})


@pytest.fixture(scope="module")
def run(device):
    return Run(device)


@pytest.mark.parametrize("name", ["distance", "scale_factors", "cls_vectors", "reg_offset", "cls_offset"])
def test_what_lays_out_the_points(run, name):
    check(run.found[name], run.case[name])


def test_points(run):
    points = regression_points(run.found["distance"], run.found["scale_factors"])
    check(points, run.case["reg_points"])
    stretched = class_points(run.found["cls_vectors"], points)
    check(stretched, run.case["cls_points"])
    for task, where in (("reg", points), ("cls", stretched)):
        check(tap_offsets(where), run.case[f"{task}_offset"])


def test_features_at_the_points(run):
    for name, maps in run.aligned.items():
        check(maps, run.case[name])
    check(run.loss, run.case["loss"])


def test_gradients(run):
    found, regression, classification = run.gradients(run.loss)
    check(regression, run.case["grad_reg_feat"])
    check(classification, run.case["grad_cls_feat"])
    check_gradient_norms(list(found.values()), run.case["param_grad_norm"])
    wholes = [key for key in run.case if key.startswith("grad:")]
    assert len(wholes) == 4
    for key in wholes:
        check_gradient(found[key.removeprefix("grad:")], run.case[key])


def test_losses_of_classes_do_not_move_the_points_of_regression(run):
    found, regression, classification = run.gradients(run.loss_of_classes)
    EXACT.check([g is not None and bool(g.any()) for g in found.values()], run.case["cls_only_used"])
    assert regression is None and run.case["cls_only_reg_feat_used"] == 0
    assert classification.any()
