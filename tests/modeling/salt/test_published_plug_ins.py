"""The operator in ATSS, FCOS and RetinaNet, as published with its faults, against the reference arrays."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate

from configs.common.models.dense import STRIDES as PIXELS
from configs.common.models.dense import best_locations
from htd.checkpoint import convert
from htd.modeling.dense import BestClassTimesCenterness, DeltaLoss, DistanceDecoder, GIoULoss
from htd.modeling.dense.predictors import BoxRule
from tests.modeling.dense.recorded import BOXES, SCORES, check, check_gradient_norms, objects
from tests.modeling.dense.reference import (
    OUR_LOSSES,
    as_maps,
    decoded,
    gradients,
    in_float64,
    priced,
    random_maps,
)
from tests.modeling.reference import EXACT, model_config
from tests.recorded import arrays, published_weights, tensors

SEED, BATCH_SIZE = 15, (128, 160)
# Sizes of the images, and the frames of their detections.
SIZES, FRAMES = [(125, 155), (128, 160)], [(250, 310), (128, 160)]
# Neighbors whose scores differ by less may swap places; what scores as little above the last one, or above
# the threshold, is not compared.
TIE, THRESHOLD = 2e-5, 0.05
OUTPUTS = {
    "cls_score": "logits",
    "bbox_pred": "regression",
    "centerness": "centerness",
    "bbox_distance": "coarse",
}
LEAVES = {"atss": "atss", "fcos": "fcos", "retina": "retinanet"}


class ReLUOfTwiceScaled(BoxRule):
    """Distances in cells to which the level's scalar is applied twice: the operator in FCOS."""

    def __call__(self, x, scale):
        return (scale * (scale * x)).relu()


class CoarseDeltaLoss(DeltaLoss):
    """L1 between coarse distances and the deltas of objects, which have no unit in common: in RetinaNet."""

    reads = "coarse"

    def __call__(self, targets):
        predictions = replace(targets.predictions, regression=targets.predictions.coarse)
        return super().__call__(replace(targets, predictions=predictions))


def as_published(name):
    """The model of a leaf in the form that the arrays were recorded with, without its backbone."""
    model = model_config(f"salt/salt_{LEAVES[name]}_r50_fpn_1x")
    model.backbone = None
    model.head.towers.towers.num_convs = 3
    ranking = None if name == "retina" else L(BestClassTimesCenterness)()
    model.postprocessing.update(pre_nms=best_locations(ranking), min_box_size=None)
    model.postprocessing.nms.iou_threshold = 0.6
    boxes, coarse = model.criterion.terms[1], model.criterion.terms[-1]
    assert (boxes.name, coarse.name) == ("loss_box_reg", "loss_box_reg_init")
    if name == "fcos":
        model.head.predictors.update(box_rule=L(ReLUOfTwiceScaled)(), centerness_from="regression")
        model.decoder = L(DistanceDecoder)(in_cells=True)
        model.criterion.assigner.center_radius = 1.5
        boxes.loss = L(GIoULoss)(weighting=boxes.loss.weighting)
    if name == "retina":
        model.head.predictors.num_anchors = 1
        model.anchor_generator.update(sizes=[[4 * stride] for stride in PIXELS], aspect_ratios=[1.0])
        coarse.loss = L(CoarseDeltaLoss)(transform="${.....decoder.transform}")
        coarse.normalizer = boxes.normalizer
    return model


class PlugIn:
    """A case, computed.

    Attributes:
        case: the recorded arrays.
        model, predictions, features, priced: what the case's weights and maps give in a training.
        exact_features, exact_losses: the same in float64, with gradients.
        ours: our parameters, in float64, by the recorded names; None where the published one is not used.
    """

    def __init__(self, name, device):
        self.case, self.names = tensors("salt", f"plugin_{name}"), arrays("salt", f"plugin_{name}")
        self.model = instantiate(as_published(name))
        weights, report = convert(published_weights("salt", f"manifest_plugin_{name}"), self.model)
        self.model.load_state_dict(weights, strict=True)
        self.model.to(device).train()
        exact_model = in_float64(self.model)
        parameters = dict(exact_model.named_parameters())
        names = [str(key) for key in self.names["param_names"]]
        assert {report.used[key] for key in names if key in report.used} == set(parameters)
        self.ours = [parameters.get(report.used.get(key)) for key in names]
        self.features = random_maps(SEED, 2, *BATCH_SIZE, device)
        truth = objects(self.case, SIZES, device)
        with torch.no_grad():
            self.predictions = self.model.head(self.features)
            train = partial(
                self.model.criterion, *decoded(self.model, self.features, self.predictions), truth
            )
            self.priced = priced(self.model, train)
        self.exact_features = [level.double().requires_grad_() for level in self.features]
        self.exact_losses = exact_model.criterion(*decoded(exact_model, self.exact_features), truth)


@pytest.fixture(scope="module", params=LEAVES)
def plug_in(request, device):
    return PlugIn(request.param, device)


def test_predictions(plug_in):
    priors = plug_in.model.priors(plug_in.features)
    for name, ours in OUTPUTS.items():
        rows, recorded = getattr(plug_in.predictions, ours), [k for k in plug_in.case if k.startswith(name)]
        assert bool(recorded) == (rows is not None)
        if recorded:
            rows = rows if rows.dim() == 3 else rows[..., None]
            levels = list(as_maps(rows, priors).values())
            assert len(recorded) >= 4
            for key in recorded:
                check(levels[int(key[-1])], plug_in.case[key])


def test_losses(plug_in):
    """Each level's where they were recorded by levels, and what a training sums."""
    wanted = {ours: plug_in.case[name] for name, ours in OUR_LOSSES.items() if name in plug_in.case}
    found = plug_in.priced
    assert set(found.levels) == set(found.losses) == set(wanted)
    for name, recorded in wanted.items():
        check(found.losses[name], recorded.sum())
        levels = found.levels[name]
        check(levels if len(recorded) == 5 else levels.sum()[None], recorded)
        assert recorded.sum() > 0.4
    check(sum(found.losses.values()), plug_in.case["loss_total"])


def test_gradients(plug_in):
    """Of every parameter and of every map; the published RetinaNet has scalars that nothing reads."""
    case, total = plug_in.case, sum(plug_in.exact_losses.values())
    used = [x for x in plug_in.ours if x is not None]
    found = gradients(total, [*used, *plug_in.exact_features])
    check_gradient_norms(found[len(used) :], case["feat_grad_norm"])
    EXACT.check([x is not None for x in plug_in.ours], case["param_used"])
    rows = case["param_used"].bool()
    check_gradient_norms(found[: len(used)], case["param_grad_norm"][rows])
    assert not case["param_grad_norm"][~rows].any()


def order(scores, classes, boxes):
    """An order of the rows: ``scores`` falling, equal within TIE to their neighbors' by class and place."""
    tied = torch.cat([torch.zeros(1), (scores[:-1] - scores[1:] > TIE).cumsum(0)])
    return sorted(range(len(scores)), key=lambda k: (tied[k].item(), classes[k].item(), boxes[k, 0].item()))


@torch.no_grad()
def test_detections(plug_in):
    """In the given order, in the frames of the files."""
    model = plug_in.model.eval()
    each = model.postprocessing.pre_nms_boxes(*decoded(model, plug_in.features), SIZES)
    for i, (candidates, frame) in enumerate(zip(each, FRAMES, strict=True)):
        found = model.postprocessing.select(candidates, frame).to("cpu")
        boxes, scores = plug_in.case[f"dets{i}"].split([4, 1], dim=1)
        classes, scores = plug_in.case[f"labels{i}"], scores[:, 0]
        assert len(found) == len(scores) == 100
        compared = int((scores > max(THRESHOLD, scores[-1].item()) + TIE).sum())
        assert compared > 90
        wanted = order(scores[:compared], classes, boxes)
        mine = order(scores[:compared], found.pred_classes, found.pred_boxes.tensor)
        EXACT.check(found.pred_classes[mine], classes[wanted])
        SCORES.check(found.scores[mine], scores[wanted])
        BOXES.check(found.pred_boxes.tensor[mine], boxes[wanted])
