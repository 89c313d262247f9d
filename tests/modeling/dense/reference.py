"""What the reference cases of dense detectors share: tolerances, parts with weights, losses by level."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from htd.checkpoint import convert
from htd.modeling.dense import DensePredictions, Priors
from htd.modeling.dense.criterion import assign_targets, clamp_normalizer
from htd.modeling.dense.losses import DenseTargets
from htd.modeling.tood import TwoPhaseCriterion
from tests.modeling.reference import EXACT, Tolerance, detections, model_config
from tests.recorded import arrays, published_weights, random_input, tensors, unpaired

STRIDES = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
LOSSES = Tolerance(relative=1e-4)
GRADIENTS = Tolerance(relative=2e-3)
# A probe, a sum over a gradient with random factors, may be off by this share of the gradient's norm.
PROBE_SHARE = 1e-2
# Gradients whose norm is below this share of the largest are rounding.
SILENT_SHARE = 1e-5
DETECTIONS = {"box_tolerance": 0.05, "score_tolerance": 1e-3}
MISSING_SHARE = 0.01
OUR_LOSSES = {
    "loss_cls": "loss_cls",
    "loss_bbox": "loss_box_reg",
    "loss_bbox_init": "loss_box_reg_init",
    "loss_dfl": "loss_dfl",
    "loss_centerness": "loss_centerness",
}


def without_backbone(leaf: str, system: str, manifest: str, device, extra_classes: int = 0) -> tuple:
    """Return the detector of a config, all but its backbone, with the weights of a head's manifest.

    The second value has our name of each published one.
    """
    config = model_config(leaf)
    config.backbone = None
    if extra_classes:  # not every predictor has them
        config.head.predictors.extra_classes = extra_classes
    model = instantiate(config)
    weights, report = convert(published_weights(system, manifest), model)
    model.load_state_dict(weights, strict=True)
    return model.to(device), report.used


def shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return the sizes of p3..p7 of a padded batch: each is half of the one before, rounded up."""
    found = [(height // 8, width // 8)]
    while len(found) < len(STRIDES):
        found.append(tuple(-(-side // 2) for side in found[-1]))
    return found


def random_maps(seed: int, batch: int, height: int, width: int, device) -> list[Tensor]:
    """Return the feature maps p3..p7 of a case."""
    each = zip(STRIDES, shapes(height, width), strict=True)
    return [random_input(name, (batch, 256, *size), seed).to(device) for name, size in each]


def as_maps(rows: Tensor, priors: Priors) -> dict[str, Tensor]:
    """Return rows (N, P, D) of one prior a cell as a map (N, D, H, W) of each level."""
    each = zip(STRIDES, priors.split(rows, dim=1), priors.shapes, strict=True)
    return {name: level.transpose(1, 2).unflatten(2, shape) for name, level, shape in each}


def targets(case: Mapping[str, Tensor], sizes: Sequence[Sequence[int]], device) -> list[Instances]:
    """Return the objects of the images of a case; an image that none are recorded of has none."""
    found = []
    for i, size in enumerate(sizes):
        boxes = case.get(f"gt_boxes_{i}", torch.zeros(0, 4))
        classes = case.get(f"gt_labels_{i}", torch.zeros(0)).long()
        found.append(Instances(tuple(size), gt_boxes=Boxes(boxes), gt_classes=classes).to(device))
    return found


@dataclass(frozen=True)
class Priced:
    """What the predictions of a batch cost; all but ``targets`` by our name of the loss.

    Attributes:
        targets: predictions and objects.
        norms: normalizers before their lower limit.
        divisors: the same, but not below their limit.
        levels: (L,) weighted and divided, of each level; by the terms of the criterion alone.
        losses: their sums, by the criterion as a training calls it.
    """

    targets: DenseTargets
    norms: dict[str, Tensor]
    divisors: dict[str, Tensor]
    levels: dict[str, Tensor]
    losses: dict[str, Tensor]


def decoded(
    model: nn.Module, features: Sequence[Tensor], predictions: DensePredictions | None = None
) -> tuple[Priors, DensePredictions, Tensor]:
    """Return priors, predictions, by default the head's, and their boxes for given maps."""
    priors = model.priors(features)
    predictions = model.head(features) if predictions is None else predictions
    return priors, predictions, model.decoder(predictions.regression, priors)


def priced(model: nn.Module, train: Callable[[], object]) -> Priced:
    """Return what it costs when ``train`` makes the model call its criterion once."""
    calls = []
    handle = model.criterion.register_forward_hook(lambda _, inputs, losses: calls.append((inputs, losses)))
    train()
    handle.remove()
    (((priors, predictions, boxes, truth), losses),) = calls
    criterion = model.criterion
    if isinstance(criterion, TwoPhaseCriterion):
        criterion = criterion.aligned if criterion.aligned_now else criterion.initial
    found = assign_targets(criterion.assigner, priors, predictions, boxes, truth, criterion.pad_divisor)
    norms = {term.name: term.normalizer(found) for term in criterion.terms}
    divisors = {
        term.name: clamp_normalizer(norms[term.name], term.normalizer.least) for term in criterion.terms
    }
    levels = {}
    for term in criterion.terms:
        values = term.loss(found)
        # A row for each prior, or, of coarse boxes, for each cell.
        sizes = [size * values.shape[1] // len(priors) for size in priors.level_sizes]
        sums = torch.stack([x.sum() for x in values.split(sizes, dim=1)])
        levels[term.name] = term.weight * sums / divisors[term.name]
    return Priced(found, norms, divisors, levels, losses)


def check_losses(case: Mapping[str, Tensor], found: Priced, total: str = "total") -> None:
    """Compare losses, each level's and their sum, with those of a case."""
    wanted = {ours: case[name] for name, ours in OUR_LOSSES.items() if name in case}
    assert set(found.levels) == set(found.losses) == set(wanted)
    for name, levels in wanted.items():
        LOSSES.check(found.levels[name], levels)
        LOSSES.check(found.losses[name], levels.sum())
    LOSSES.check(sum(found.losses.values()), case[total])


def check_positives(case: Mapping[str, Tensor], matched: DenseTargets) -> None:
    """Compare with a case which classes the priors are to have, and which of them count."""
    EXACT.check(matched.gt_classes, case["labels"])
    EXACT.check(matched.counted, case["label_weights"])
    EXACT.check(matched.positive.sum(dim=1), case["num_pos_per_image"])
    levels = matched.priors.split(matched.positive, dim=1)
    EXACT.check([x.sum().item() for x in levels], case["num_pos_per_level"])
    assert (matched.positive == (matched.gt_classes < matched.predictions.logits.shape[-1])).all()


def in_float64(model: nn.Module) -> nn.Module:
    """Return a copy of a model that computes in float64.

    Gradients are compared there: in float32 the rounding of a processor decides on which side of zero some
    inputs of a ReLU lie, and a single one moves a gradient by more than the tolerance.
    """
    return copy.deepcopy(model).double()


def gradients(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients of a loss, whose graph stays; zeros where it does not reach."""
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return [(torch.zeros_like(x) if g is None else g).cpu() for x, g in zip(tensors, found, strict=True)]


class Losses:
    """A case of the losses: what a head's predictions at random maps cost.

    Attributes:
        case: the recorded arrays.
        parameters: of the model, by published name, in the recorded order.
        features: maps p3..p7, which want a gradient.
        priced: see :class:`Priced`.
        exact: the same in float64, what gradients are taken of; so are parameters and features.
    """

    def __init__(self, name: str, model: nn.Module, names: Mapping[str, str], seed: int):
        """Compute the case; the model is in the phase that it is to be in, its ``names`` as converted."""
        self.case = case = tensors("tood", name)
        self.seed = seed
        exact_model = in_float64(model.train())
        ours = dict(exact_model.named_parameters())
        assert set(ours) == set(names.values())
        published = [str(key) for key in arrays("tood", name)["grad_names"]]
        self.parameters = {key: ours[names[key]] for key in published}
        assert len(self.parameters) == len(ours)
        sizes = case["img_shape"].tolist() if "img_shape" in case else [(64, 64)]
        height, width = case["batch_shape"].tolist() if "batch_shape" in case else (64, 64)
        features = random_maps(seed, len(sizes), height, width, model.device)
        self.features = [level.double().requires_grad_() for level in features]
        truth = targets(case, sizes, model.device)

        def train(model, features):
            return priced(model, partial(model.criterion, *decoded(model, features), truth))

        with torch.no_grad():
            self.priced = train(model, features)
        self.exact = train(exact_model, self.features)

    def gradients(self, published_loss: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the gradients of one loss for parameters and for maps, by the names of their probes."""
        loss = self.exact.losses[OUR_LOSSES[published_loss]]
        found = iter(gradients(loss, [*self.parameters.values(), *self.features]))
        parameters = {key: next(found) for key in self.parameters}
        return parameters, {f"feat_{level}": next(found) for level in STRIDES}

    def check_gradients(self, published_loss: str) -> None:
        """Compare the gradients of one loss, such as ``loss_bbox``, with those of the case."""
        stored = {
            key.removeprefix(published_loss + "."): value
            for key, value in self.case.items()
            if key.startswith(published_loss + ".")
        }
        each, maps = self.gradients(published_loss)
        check_norms_and_probes(each, stored["grad_norm"], stored["grad_probe"], self.seed)
        check_norms_and_probes(maps, stored["feat_grad_norm"], stored["feat_grad_probe"], self.seed)
        check_whole(maps["feat_p7"], stored["feat_grad_p7"])
        wholes = [key for key in stored if key.startswith("grad.")]
        assert wholes
        for key in wholes:
            check_whole(each[key.removeprefix("grad.")], stored[key])


def norms(found: Mapping[str, Tensor]) -> Tensor:
    """Return the norm of each gradient."""
    return torch.stack([g.double().norm() for g in found.values()])


def check_norms(found: Mapping[str, Tensor], wanted: Tensor, tolerance: Tolerance = GRADIENTS) -> None:
    """Compare the norms of gradients with recorded ones; a loss that does not reach a tensor gives it 0."""
    mine, loud = norms(found), wanted > SILENT_SHARE * wanted.max()
    tolerance.check(mine[loud], wanted[loud])
    assert (mine[~loud] <= 2 * SILENT_SHARE * wanted.max()).all()
    assert (mine[wanted == 0] == 0).all()


def check_norms_and_probes(
    found: Mapping[str, Tensor], wanted: Tensor, probes: Tensor, seed: int, tolerance: Tolerance = GRADIENTS
) -> None:
    """Compare gradients, by the name of their probe, with recorded norms and, where not silent, probes."""
    check_norms(found, wanted, tolerance)
    loud = wanted > SILENT_SHARE * wanted.max()
    assert loud.any()
    for (name, gradient), norm, number in zip(found.items(), wanted * loud, probes, strict=True):
        if norm:
            mine = (gradient.double() * probe(name, tuple(gradient.shape), seed)).sum()
            Tolerance(absolute=PROBE_SHARE * norm.item()).check(mine, number)


@lru_cache(maxsize=64)  # of a head: every loss of a case has the same
def probe(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Return the random factors of the probe of a gradient."""
    return random_input(f"probe:{name}", shape, seed)


def check_whole(found: Tensor, wanted: Tensor) -> None:
    """Compare a whole gradient: it differs by no more than one of its probes may."""
    assert found.shape == wanted.shape
    assert (found - wanted).norm() <= PROBE_SHARE * wanted.norm()


def check_detections(case: Mapping[str, Tensor], kind: str, found: Instances) -> None:
    """Compare detections with ``<kind>_boxes_0`` and so on of a case, of which a hundredth may be missing."""
    fields = ("boxes", "scores", "labels")
    wanted = {field: case[f"{kind}_{field}_0"].numpy() for field in fields}
    assert len(found) == len(wanted["scores"])
    missing = unpaired(wanted, detections(found), **DETECTIONS)
    assert len(missing) <= MISSING_SHARE * len(found)
