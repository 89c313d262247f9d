"""TOOD and ATSS as published, against the recorded arrays: losses, a training step, detections."""

import math
from functools import lru_cache, partial

import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.checkpoint import convert
from htd.layers import HardNMS
from htd.modeling.dense.postprocessing import LocationTopK, PairTopK, RescaleFirst
from tests.modeling.dense.reference import (
    LOSSES,
    STRIDES,
    as_maps,
    check_detections,
    check_losses,
    check_norms,
    check_norms_and_probes,
    check_positives,
    decoded,
    gradients,
    in_float64,
    model_config,
    norms,
    priced,
    targets,
)
from tests.modeling.reference import Tolerance
from tests.modeling.tood.reference import ANCHOR_BASED, DEFORMABLE, ITERATIONS_PER_EPOCH, R50, losses
from tests.recorded import arrays, close, image, manifest, published_weights, tensors

METRICS = Tolerance(absolute=1e-4)
# Name of the case -> config, seed of the maps, recorded epoch.
LOSS_CASES = {
    "loss_anchor_free_initial": (R50, 51, 0),
    "loss_anchor_free_aligned": (R50, 51, 4),
    "loss_anchor_based_initial": (ANCHOR_BASED, 52, 3),
    "loss_anchor_based_aligned": (ANCHOR_BASED, 52, 11),
    "loss_dcn2_aligned": (DEFORMABLE, 53, 4),
}
WITHOUT_OBJECTS = {"loss_no_gt_initial": 0, "loss_no_gt_aligned": 4}


@pytest.fixture(scope="module", params=LOSS_CASES)
def loss_case(request, device):
    """A case at that end of its epoch which is nearer to the switch of the phases."""
    leaf, seed, epoch = LOSS_CASES[request.param]
    initial = request.param.endswith("initial")
    found = losses(request.param, leaf, seed, (epoch + initial) * ITERATIONS_PER_EPOCH - initial, device)
    assert found.case["epoch"] == epoch
    return found


def test_losses_of_maps(loss_case):
    check_losses(loss_case.case, loss_case.priced)


def test_normalizers(loss_case):
    LOSSES.check(loss_case.priced.norms["loss_cls"], loss_case.case["cls_norm_raw"])
    LOSSES.check(loss_case.priced.norms["loss_box_reg"], loss_case.case["bbox_norm_raw"])


def test_targets(loss_case):
    check_positives(loss_case.case, loss_case.priced.targets)
    METRICS.check(loss_case.priced.targets.metric, loss_case.case["alignment_metrics"])


@pytest.mark.parametrize("loss", ["loss_cls", "loss_bbox"])
def test_gradients_of_maps(loss_case, loss):
    loss_case.check_gradients(loss)


@pytest.mark.parametrize("name", WITHOUT_OBJECTS)
def test_without_objects(name, device):
    """Normalizers are limited to 1; the loss of the boxes is 0, and so are its gradients."""
    loss_case = losses(name, R50, 54, WITHOUT_OBJECTS[name] * ITERATIONS_PER_EPOCH, device)
    check_losses(loss_case.case, loss_case.priced)
    wanted = {"loss_cls": loss_case.case["cls_norm_raw"], "loss_box_reg": loss_case.case["bbox_norm_raw"]}
    assert loss_case.priced.norms == wanted == {"loss_cls": 0, "loss_box_reg": 0}
    assert loss_case.priced.targets.counted.all() and not loss_case.priced.targets.positive.any()
    parameters, _ = loss_case.gradients("loss_cls")
    check_norms(parameters, loss_case.case["loss_cls.grad_norm"])
    assert loss_case.priced.losses["loss_box_reg"] == 0 == loss_case.case["loss_bbox.grad_norm"].max()
    parameters, maps = loss_case.gradients("loss_bbox")
    assert not norms(parameters | maps).any()


STEP_SEED, SIZES = 2962, [(128, 160), (100, 140)]
# Name of the case -> recorded epoch.
STEPS = {"train_tood_r50_initial": 0, "train_tood_r50_aligned": 4}
STEP_GRADIENTS = Tolerance(relative=3e-3)
STEP_RELATIVE = 3e-3
# The rounding of a weight's change, times the root of the number of weights.
STEP_ROUNDING = 1e-7


def one_input(i, truth):
    """The ``i``-th image with its objects."""
    picture = image(f"img{i}", *truth.image_size, STEP_SEED).transpose(2, 0, 1)
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
        model.criterion.set_iteration(STEPS[name] * ITERATIONS_PER_EPOCH)
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


@pytest.fixture(scope="module", params=STEPS)
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
    check_norms_and_probes(step.gradients, norms, probes, STEP_SEED, STEP_GRADIENTS)


def test_step_of_the_optimizer(step):
    for found, wanted in zip(step.changes, step.case["step_delta_norm"].tolist(), strict=True):
        limit = STEP_RELATIVE * wanted + STEP_ROUNDING * math.sqrt(found.numel())
        Tolerance(absolute=limit).check(found.double().norm(), wanted)


FEATURE_SHARE = 1e-3
OUTPUTS = Tolerance(absolute=1e-3)
CANDIDATES = Tolerance(absolute=3)
LARGE, SMALL = (200, 260), (120, 150)
# Name of the manifest -> config, size of the image.
MODELS = {
    "tood_r50_fpn_1x": ("tood/tood_r50_fpn_1x", LARGE),
    "tood_r50_fpn_anchor_based_1x": ("tood/tood_r50_fpn_anchor_based_1x", LARGE),
    "atss_r50_fpn_1x": ("baselines/atss_r50_fpn_1x", LARGE),
    "tood_r101_fpn_ms2x": ("tood/tood_r101_fpn_2x_ms", SMALL),
    "tood_r101_dcnv2_c3c5_fpn_ms2x": ("tood/tood_r101_fpn_dcnv2_2x_ms", SMALL),
    "tood_x101_64x4d_fpn_ms2x": ("tood/tood_x101_64x4d_fpn_2x_ms", SMALL),
    "tood_x101_64x4d_dcnv2_c4c5_fpn_ms2x": ("tood/tood_x101_64x4d_fpn_dcnv2_2x_ms", SMALL),
}


class Run:
    """What a model says of the image of a case.

    Attributes:
        maps: p3..p7 of the pyramid, by name.
        outputs: maps of the head's outputs by recorded name, then by level; boxes of TOOD in cells.
        candidates: what the suppression chooses from.
    """

    @torch.no_grad()
    def __init__(self, name, device):
        leaf, size = MODELS[name]
        self.case = tensors("tood", f"e2e_{name}")
        self.model = instantiate(model_config(leaf)).eval()
        weights, _ = convert(published_weights("tood", name), self.model)
        self.model.load_state_dict(weights, strict=True)
        self.model.to(device)
        picture = image("img0", *size, manifest("tood", name)["seed"]).transpose(2, 0, 1)
        self.inputs = [{"image": torch.from_numpy(picture.copy())}]
        images = self.model.preprocess_image(self.inputs)
        self.maps = self.model.backbone(images.tensor)
        features = [self.maps[level] for level in STRIDES]
        predicted = decoded(self.model, features)
        self.outputs = outputs(*predicted)
        (self.candidates,) = self.model.postprocessing.pre_nms_boxes(*predicted, images.image_sizes)

    @torch.no_grad()
    def detections(self, most):
        """Return the best detections, ``most`` of them."""
        postprocessing = self.model.postprocessing
        before, postprocessing.max_detections = postprocessing.max_detections, most
        found = postprocessing.select(self.candidates, self.candidates.image_size)
        postprocessing.max_detections = before
        return found


def outputs(priors, predictions, boxes):
    logits = as_maps(predictions.logits, priors)
    if predictions.centerness is not None:
        return {
            "cls_logit": logits,
            "bbox_delta": as_maps(predictions.regression, priors),
            "centerness_logit": as_maps(predictions.centerness[..., None], priors),
        }
    return {
        "cls_score": {level: x.sigmoid() for level, x in logits.items()},
        "bbox_pred": as_maps(boxes / priors.prior_strides[:, None], priors),
    }


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * ("101" in name)) for name in MODELS],
)
def run(request, device):
    return Run(request.param, device)


@pytest.mark.parametrize("level", ["p6", "p7"])
def test_coarsest_maps(run, level):
    largest = run.case[level].abs().max().item()
    Tolerance(absolute=FEATURE_SHARE * largest).check(run.maps[level], run.case[level])


@pytest.mark.parametrize("level", ["p5", "p6", "p7"])
def test_outputs_of_the_head(run, level):
    for name, maps in run.outputs.items():
        OUTPUTS.check(maps[level], run.case[f"{name}_{level}"])


def test_candidates(run):
    """Of the size that goes into the suppression."""
    low, high = run.candidates.boxes.split(2, dim=1)
    CANDIDATES.check((high > low).all(dim=1).sum(), run.case["num_candidates_0"])


def test_detections(run):
    with torch.no_grad():
        found = run.model(run.inputs)[0]["instances"]
    check_detections(run.case, "det", found)
    assert torch.equal(found.pred_boxes.tensor, run.detections(100).pred_boxes.tensor)


def test_more_detections(run):
    check_detections(run.case, "det400", run.detections(400))


IMAGE_SIZE = (128, 192)
LEVELS = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
# What an image was enlarged by before it came to the network: (height, width).
FACTORS = {"rescaled": (1.2, 1.25), "author_rescaled": (1.2, 1.25)}
PUBLISHED = {"threshold": 0.05, "topk": 1000, "iou": 0.6, "most": 100, "min_box_size": 0.0}
VARIANTS = {
    "default": {},
    "rescaled": {},
    "thr30": {"threshold": 0.3},
    "pre50_max30": {"topk": 50, "most": 30},
    "iou40": {"iou": 0.4},
    "empty": {"threshold": 0.999},
    "no_min_size": {"min_box_size": None},
    "author_default": {"min_box_size": None},
    "author_rescaled": {"min_box_size": None},
}


@lru_cache(maxsize=1)
def recorded_outputs():
    """Scores (P, 80) and boxes (P, 4) in pixels of all priors, and the priors of each level."""
    case, scores, boxes = tensors("tood", "postproc"), [], []
    for level, stride in LEVELS.items():
        scores.append(case[f"cls_score_{level}"].flatten(1).T)
        boxes.append(case[f"bbox_pred_{level}"].flatten(1).T * stride)
    return torch.cat(scores), torch.cat(boxes), [len(x) for x in scores]


def chain(variant):
    value = PUBLISHED | VARIANTS[variant]
    author = variant.startswith("author")
    selection = LocationTopK if author else PairTopK
    return RescaleFirst(
        pre_nms=selection(score_threshold=value["threshold"], topk=value["topk"]),
        nms=HardNMS(iou_threshold=value["iou"]),
        max_detections=value["most"],
        clip=author,
        min_box_size=value["min_box_size"],
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_are_the_published_ones(variant):
    case, (scores, boxes, sizes), published = tensors("tood", "postproc"), recorded_outputs(), chain(variant)
    candidates = published.choose(scores, boxes, None, sizes, IMAGE_SIZE)
    factors = FACTORS.get(variant, (1.0, 1.0))
    found = published.select(candidates, tuple(s / f for s, f in zip(IMAGE_SIZE, factors, strict=True)))
    assert torch.equal(found.pred_classes, case[f"{variant}.labels"].long())
    close(found.scores, case[f"{variant}.scores"], 0)
    close(found.pred_boxes.tensor, case[f"{variant}.boxes"], 1e-3)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("author")])
def test_as_many_candidates_as_published(variant):
    published, seen = chain(variant), []
    nms = published.nms
    published.nms = lambda boxes, *rest: seen.append(len(boxes)) or nms(boxes, *rest)
    published.max_detections = 10_000  # so that all candidates are needed
    scores, boxes, sizes = recorded_outputs()
    published.select(published.choose(scores, boxes, None, sizes, IMAGE_SIZE), IMAGE_SIZE)
    assert seen == [int(tensors("tood", "postproc")[f"{variant}.num_candidates"])]
