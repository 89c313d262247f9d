"""TOOD's losses in both phases against the reference arrays: by level, normalisers, targets, gradients."""

import pytest

from tests.modeling.dense.reference import LOSSES, check_losses, check_norms, check_positives, norms
from tests.modeling.reference import Tolerance
from tests.modeling.tood.reference import ANCHOR_BASED, DEFORMABLE, ITERATIONS_AN_EPOCH, R50, losses

METRICS = Tolerance(absolute=1e-4)
# Name of the case -> config, seed of the maps, recorded epoch.
CASES = {
    "loss_anchor_free_initial": (R50, 51, 0),
    "loss_anchor_free_aligned": (R50, 51, 4),
    "loss_anchor_based_initial": (ANCHOR_BASED, 52, 3),
    "loss_anchor_based_aligned": (ANCHOR_BASED, 52, 11),
    "loss_dcn2_aligned": (DEFORMABLE, 53, 4),
}
WITHOUT_OBJECTS = {"loss_no_gt_initial": 0, "loss_no_gt_aligned": 4}


@pytest.fixture(scope="module", params=CASES)
def run(request, device):
    """A case at that end of its epoch which is nearer to the switch of the phases."""
    leaf, seed, epoch = CASES[request.param]
    initial = request.param.endswith("initial")
    found = losses(request.param, leaf, seed, (epoch + initial) * ITERATIONS_AN_EPOCH - initial, device)
    assert found.case["epoch"] == epoch
    return found


def test_losses(run):
    check_losses(run.case, run.priced)


def test_normalisers(run):
    LOSSES.check(run.priced.norms["loss_cls"], run.case["cls_norm_raw"])
    LOSSES.check(run.priced.norms["loss_box_reg"], run.case["bbox_norm_raw"])


def test_targets(run):
    check_positives(run.case, run.priced.targets)
    METRICS.check(run.priced.targets.metric, run.case["alignment_metrics"])


@pytest.mark.parametrize("loss", ["loss_cls", "loss_bbox"])
def test_gradients(run, loss):
    run.check_gradients(loss)


@pytest.mark.parametrize("name", WITHOUT_OBJECTS)
def test_without_objects(name, device):
    """Normalisers are limited to 1; the loss of the boxes is 0, and so are its gradients."""
    run = losses(name, R50, 54, WITHOUT_OBJECTS[name] * ITERATIONS_AN_EPOCH, device)
    check_losses(run.case, run.priced)
    wanted = {"loss_cls": run.case["cls_norm_raw"], "loss_box_reg": run.case["bbox_norm_raw"]}
    assert run.priced.norms == wanted == {"loss_cls": 0, "loss_box_reg": 0}
    assert run.priced.targets.counted.all() and not run.priced.targets.positive.any()
    parameters, _ = run.gradients("loss_cls")
    check_norms(parameters, run.case["loss_cls.grad_norm"])
    assert run.priced.losses["loss_box_reg"] == 0 == run.case["loss_bbox.grad_norm"].max()
    parameters, maps = run.gradients("loss_bbox")
    assert not norms(parameters | maps).any()
