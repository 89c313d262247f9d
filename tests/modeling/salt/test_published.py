"""SALT-Net as published, against the recorded arrays: head, losses, detections, a step, all models."""

from __future__ import annotations

import itertools
from functools import cache, partial

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from htd.checkpoint import convert
from htd.modeling.dense import DensePredictions
from tests.modeling.dense.recorded import (
    DETECTED,
    TRAINED,
    as_rows,
    check,
    check_gradient,
    check_gradient_norms,
    check_normalizers,
    check_recorded_detections,
    check_targets,
    normal_maps,
    objects,
)
from tests.modeling.dense.reference import (
    STRIDES,
    as_maps,
    check_losses,
    decoded,
    gradients,
    in_float64,
    priced,
    random_maps,
    without_backbone,
)
from tests.modeling.reference import EXACT, Tolerance, detections, model_config
from tests.recorded import arrays, image, manifest, partners, published_weights, tensors

R50 = "salt/salt_r50_fpn_1x"
DEFORMABLE = "salt/salt_r2_101_fpn_dcnx_2x_ms"
# The published classifiers have an output more than there are classes.
OUTPUTS = 81


def detector_of_head(leaf: str, device) -> tuple[nn.Module, dict[str, str]]:
    """Return the detector of a config without its backbone, and our names of its published ones."""
    manifest = "manifest_head_dcnx" if leaf == DEFORMABLE else "manifest_head"
    return without_backbone(leaf, "salt", manifest, device, extra_classes=1)


def outputs_of(
    seed: int, images: int, *, logit: float, factor: float, device, channels: int = OUTPUTS
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the maps of class logits and of distributions that a case takes for a detector_of_head's output.

    What is recorded takes the probabilities of the logits.
    """
    logits = [1.5 * x + logit for x in normal_maps("cls", channels, seed, images, device)]
    return logits, [factor * x for x in normal_maps("reg", 68, seed, images, device)]


# Name of the case -> config, images, size of the batch, seed of the maps.
HEADS = {
    "head_forward": (R50, 2, (128, 160), 12),
    # Down to maps of one cell, which are smaller than the kernels.
    "head_forward_dcnx": (DEFORMABLE, 1, (64, 80), 13),
}


@pytest.fixture(scope="module", params=HEADS)
def forward(request, device):
    """The recorded arrays, and our maps by level, by their names."""
    leaf, images, size, seed = HEADS[request.param]
    model, _ = detector_of_head(leaf, device)
    features = random_maps(seed, images, *size, device)
    with torch.no_grad():
        found = model.eval().head(features)
    priors = model.priors(features)
    rows = {
        "cls_score": found.logits.sigmoid(),
        "bbox_pred": found.regression,
        "bbox_distance": found.coarse,
    }
    return tensors("salt", request.param), {name: as_maps(x, priors) for name, x in rows.items()}


@pytest.mark.parametrize("name", ["cls_score", "bbox_pred", "bbox_distance"])
def test_outputs(forward, name):
    """Probabilities of 81 classes, logits of the bins and coarse distances in cells."""
    case, found = forward
    for i, level in enumerate(found[name].values()):
        check(level, case[f"{name}{i}"])


TERMS = {"loss_cls", "loss_box_reg", "loss_dfl", "loss_box_reg_init"}
OF_BOXES = TERMS - {"loss_cls"}
HEAD_SEED, HEAD_SIZES, HEAD_BATCH = 14, [(125, 155), (128, 160)], (128, 160)


@pytest.fixture(scope="module")
def trained_head(device):
    """The detector and our names of its published ones."""
    model, names = detector_of_head(R50, device)
    return model.train(), names


class Given:
    """What outputs_of that are drawn cost; the recorded ones have probabilities in the place of logits.

    Attributes:
        logits, sides, distances: maps of the outputs_of.
        truth: objects of each image.
        priced: see :class:`tests.modeling.dense.reference.Priced`.
    """

    def __init__(self, name, model, seed, sizes, device):
        self.case = tensors("salt", name)
        self.logits, self.sides = outputs_of(seed, len(sizes), logit=-3, factor=2, device=device)
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


def test_normalizers(given):
    check_normalizers(given.case, given.priced)
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
    check_normalizers(run.case, run.priced)
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


class HeadTraining:
    """The case of the losses through the whole detector_of_head, with its gradients.

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
    return HeadTraining(*trained_head, device)


def test_losses_through_the_head(trained):
    check_losses(trained.case, trained.priced, total="loss_total")


def test_gradients_through_the_head(trained):
    check_gradient_norms(list(trained.parameters.values()), trained.case["param_grad_norm"])
    check_gradient_norms(trained.features, trained.case["feat_grad_norm"])
    wholes = [key for key in trained.case if key.startswith("grad:")]
    assert len(wholes) == 18
    for key in wholes:
        check_gradient(trained.parameters[key.removeprefix("grad:")], trained.case[key])


# Name of the case -> seed, classes, logit that scores are around, best locations and detections, images.
INFERENCES = {
    "inference": (23, 80, -6, 1000, 100, DETECTED),
    # In pixels of the network's input.
    "inference_5cls": (24, 5, -3.5, 300, 300, [(size, (1, 1)) for size, _ in DETECTED]),
}


@cache
def model_for(classes, topk, most, device):
    """The detector of a config without its backbone, for other numbers of classes and detections."""
    config = model_config(R50)
    config.backbone = None
    config.num_classes = classes
    config.head.predictors.extra_classes = 1
    config.postprocessing.pre_nms.topk = topk
    config.postprocessing.max_detections = most
    return instantiate(config).to(device)


@pytest.mark.parametrize("name", INFERENCES)
def test_detections(name, device, monkeypatch):
    """The recorded ones keep the class that is not one: it takes places, and is dropped in the end."""
    seed, classes, logit, topk, most, images = INFERENCES[name]
    case, model = tensors("salt", name), model_for(classes, topk, most, device)
    maps = outputs_of(seed, len(images), logit=logit, factor=3, device=device, channels=classes + 1)
    assert model.postprocessing.num_classes == classes
    kept = {i: case[f"labels{i}"] < classes for i in range(len(images))}
    fewer = dict(case)
    for i, rows in kept.items():
        assert (~rows).sum() == case[f"num_bg_channel{i}"]
        fewer |= {f"{field}{i}": case[f"{field}{i}"][rows] for field in ("dets", "labels")}
    assert not all(rows.all() for rows in kept.values())
    found = check_recorded_detections(fewer, model, *maps, images)
    monkeypatch.setattr(model.postprocessing, "num_classes", None)
    whole = check_recorded_detections(case, model, *maps, images)
    for i, rows in kept.items():
        assert torch.equal(whole[i].scores[rows.to(device)], found[i].scores)


STAGES = ("res2", "res3", "res4", "res5")
CANDIDATES = Tolerance(absolute=2)
BOX_TOLERANCE, SCORE_TOLERANCE = 0.02, 1e-4
# Detections with scores closer than this may be in either order, or be missing at the end of the list.
TIE = 2e-5
SCORE_THRESHOLD = 0.05
EXTRA_CLASS = 80


def check_maps(found, wanted) -> None:
    """Compare maps, or numbers made of them, of a whole model."""
    Tolerance(max(1e-4 * wanted.abs().max().item(), 1e-6), 1e-4).check(found, wanted)


def model_of(leaf: str, name: str, device) -> tuple[nn.Module, dict[str, str]]:
    """Return a model with the weights of a manifest, and our names of all published ones."""
    config = model_config(leaf)
    config.head.predictors.extra_classes = 1
    model = instantiate(config)
    weights, report = convert(published_weights("salt", f"manifest_{name}"), model)
    assert report.complete
    model.load_state_dict(weights, strict=True)
    return model.to(device), report.used


def picture(name: str, size: tuple[int, int]) -> torch.Tensor:
    """Return the image (3, H, W) of a case."""
    pixels = image("e2e", *size, manifest("salt", f"manifest_{name}")["seed"])
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


class Inference:
    """What a model says of the image of a case.

    Attributes:
        case: the recorded arrays.
        image: the normalized and padded image.
        stages, levels: maps res2..res5 of the backbone and p3..p7 of the pyramid.
        outputs: maps of the head's outputs by recorded name, then by level.
        found: the detections.
        num_candidates: boxes with a class that the suppression chooses from.
    """

    @torch.no_grad()
    def __init__(self, leaf: str, name: str, size: tuple[int, int], scale: float, device):
        self.case = tensors("salt", f"e2e_{name}")
        model, _ = model_of(leaf, name, device)
        item = {"image": picture(name, size)}
        item |= {"height": size[0] / scale, "width": size[1] / scale}
        stages, kept = [getattr(model.eval().backbone.bottom_up, stage) for stage in STAGES], {}
        hooks = [
            module.register_forward_hook(lambda module, inputs, output: kept.update({module: output}))
            for module in [*stages, model.backbone, model.head]
        ]
        self.found = model([item])[0]["instances"]
        for hook in hooks:
            hook.remove()
        images = model.preprocess_image([item])
        self.image = images.tensor
        self.stages = [kept[stage] for stage in stages]
        self.levels, predictions = kept[model.backbone], kept[model.head]
        features = [self.levels[level] for level in STRIDES]
        priors = model.priors(features)
        self.outputs = {
            "cls_score": as_maps(predictions.logits.sigmoid(), priors),
            "bbox_pred": as_maps(predictions.regression, priors),
        }
        predicted = decoded(model, features, predictions)
        (pre_nms_boxes,) = model.postprocessing.pre_nms_boxes(*predicted, images.image_sizes)
        self.num_candidates = len(pre_nms_boxes)

    def check_image(self) -> None:
        """Compare what the network sees."""
        check_maps(self.image.sum(), self.case["image_sum"])

    def check_statistics(self) -> None:
        """Compare mean and deviation of the maps of backbone and pyramid."""
        for maps, name in ((self.stages, "c_mean_std"), ([self.levels[p] for p in STRIDES], "p_mean_std")):
            found = torch.stack([torch.stack([x.mean(), x.std()]) for x in maps])
            check_maps(found, self.case[name])

    def check_levels(self) -> None:
        """Compare the finest, the middle and the coarsest map of the pyramid."""
        every = self.levels["p3"].shape[1] // self.case["p3_sub"].shape[1]
        check_maps(self.levels["p3"][:, ::every], self.case["p3_sub"])
        for level in ("p5", "p7"):
            check_maps(self.levels[level], self.case[level])

    def check_outputs(self) -> None:
        """Compare probabilities of classes and logits of bins."""
        for (name, maps), (i, level) in itertools.product(self.outputs.items(), enumerate(STRIDES)):
            if i:  # of P3 nothing is recorded
                check_maps(maps[level], self.case[f"{name}{i}"])

    def check_detections(self) -> None:
        """Compare the detections, in their order."""
        CANDIDATES.check(self.num_candidates, self.case["num_candidates"])
        check_model_detections(self.case, self.found)


def check_model_detections(case: dict[str, torch.Tensor], found: Instances) -> None:
    """Compare detections with recorded ones, of which those of the extra class do not count."""
    kept = (case["labels"] != EXTRA_CLASS).numpy()
    dets, labels = case["dets"].numpy()[kept], case["labels"].numpy()[kept]
    wanted = {"boxes": dets[:, :4], "scores": dets[:, 4], "labels": labels}
    scores = wanted["scores"]
    rows = partners(wanted, detections(found), box_tolerance=BOX_TOLERANCE, score_tolerance=SCORE_TOLERANCE)
    doubtful = np.abs(scores - scores[-1]) < TIE
    doubtful |= np.abs(scores - SCORE_THRESHOLD) < TIE
    assert (rows >= 0)[~doubtful].all() and abs(len(found) - len(scores)) <= doubtful.sum()
    paired = np.flatnonzero(rows >= 0)
    for first, second in itertools.combinations(paired, 2):
        assert rows[first] < rows[second] or scores[first] - scores[second] < TIE


SMALL = (96, 128)
# Name of the case -> config, size of the image, by how much it was resized.
MODELS = {
    "salt_r50_fpn_1x": ("salt/salt_r50_fpn_1x", (240, 300), 0.5),
    "salt_x10132d_DCN_fpn_2x": ("salt/salt_x101_32x4d_fpn_dcn_2x_ms", SMALL, 1.0),
    "salt_x10132d_DCNX_fpn_2x": ("salt/salt_x101_32x4d_fpn_dcnx_2x_ms", SMALL, 1.0),
    "salt_r2101_DCN_fpn_2x": ("salt/salt_r2_101_fpn_dcn_2x_ms", SMALL, 1.0),
    "salt_r2101_DCNX_fpn_2x": ("salt/salt_r2_101_fpn_dcnx_2x_ms", SMALL, 1.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_from_image_to_detections(name, device):
    leaf, size, scale = MODELS[name]
    run = Inference(leaf, name, size, scale, device)
    run.check_image()
    run.check_statistics()
    run.check_levels()
    run.check_outputs()
    run.check_detections()


NAME, SIZE = "salt_r50_fpn_1x", (240, 300)
# Recorded name -> ours.
STEP_LOSSES = {
    "train_loss_cls": "loss_cls",
    "train_loss_bbox": "loss_box_reg",
    "train_loss_dfl": "loss_dfl",
    "train_loss_bbox_init": "loss_box_reg_init",
}


class Step:
    """The step: the recorded arrays, losses, and our parameters, in float64, in the recorded order."""

    def __init__(self, device):
        self.case = case = tensors("salt", f"e2e_{NAME}")
        model, names = model_of(R50, NAME, device)
        boxes, classes = Boxes(case["gt_boxes"]), case["gt_classes"]
        item = {
            "image": picture(NAME, SIZE),
            "instances": Instances(SIZE, gt_boxes=boxes, gt_classes=classes),
        }
        with torch.no_grad():
            self.priced = priced(model.train(), partial(model, [item]))
        exact = in_float64(model)
        sum(exact([item]).values()).backward()
        ours = dict(exact.named_parameters())
        published = arrays("salt", f"e2e_{NAME}")["param_names"].tolist()
        self.parameters = [ours[names[key]] for key in published]
        self.all_named = len(set(published)) == len(ours)


@pytest.fixture(scope="module")
def step(device):
    return Step(device)


@pytest.mark.parametrize("name", STEP_LOSSES)
def test_losses_of_a_step(step, name):
    levels = step.priced.levels[STEP_LOSSES[name]]
    check(levels, step.case[name])
    check(step.priced.losses[STEP_LOSSES[name]], step.case[name].sum())


def test_no_other_losses(step):
    assert set(step.priced.losses) == set(STEP_LOSSES.values())


def test_what_is_trained(step):
    """All but the stem and the first stage of the backbone."""
    assert step.all_named
    EXACT.check([p.requires_grad for p in step.parameters], step.case["param_trainable"])
    assert all((p.grad is not None) == p.requires_grad for p in step.parameters)


def test_gradients_of_a_step(step):
    found = [torch.zeros(1) if p.grad is None else p.grad.cpu() for p in step.parameters]
    check_gradient_norms(found, step.case["param_grad_norm"])
