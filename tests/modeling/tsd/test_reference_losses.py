"""TSD's losses on given outputs against the reference arrays: values, gradients, and what gets none."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from htd.layers import ClampedBox2BoxTransform
from htd.modeling.cascade import BoxLosses, CascadeStage, ClassificationOutput
from htd.modeling.tsd import ClassificationMargin, LocalizationMargin, TSDLosses
from htd.modeling.tsd import losses as tsd_losses
from htd.modeling.tsd.head import TSDOutput, shift_boxes
from tests.modeling.tsd.small import HEAD_LOSSES, background_last, samples
from tests.recorded import close, random_input, tensors

SIZE, NUM_CLASSES, SHIFT_FACTOR = (320, 400), 8, 0.1
LOSSES, GRADIENTS = 1e-5, 1e-6
# Name of the case -> seed, margin.
CASES = {"raw": (7, 0.3), "raw_nopos": (8, 0.3), "raw_m02": (9, 0.2)}
# Published output -> numbers a RoI, factor of what is drawn.
OUTPUTS = {
    "cls_score": (NUM_CLASSES + 1, 1.5),
    "bbox_pred": (4 * NUM_CLASSES + 4, 0.8),
    "tsd_cls_score": (NUM_CLASSES + 1, 2.0),
    "tsd_bbox_pred": (4 * NUM_CLASSES + 4, 0.6),
    "delta_c": (98, 1.0),
    "delta_r": (2, 1.0),
}


def tsd_stage(margin: float = 0.3, loss_weight: float = 1.0) -> CascadeStage:
    head = nn.Module()
    head.sibling = nn.Module()
    head.sibling.bbox_pred = nn.Identity()  # the features of the sibling are its deltas
    constraints = [ClassificationMargin(margin=margin), LocalizationMargin(margin=margin)]
    return CascadeStage(
        head=head,
        sampler=None,
        box_transform=ClampedBox2BoxTransform((10, 10, 5, 5)),
        num_classes=NUM_CLASSES,
        losses=TSDLosses(box_losses=BoxLosses(loss_weight=loss_weight), constraints=constraints),
    )


@dataclass
class Step:
    """The losses of given outputs.

    Attributes:
        outputs: in the published order; they get gradients.
        shortfalls: what the two constraints have averaged.
    """

    arrays: dict[str, Tensor]
    outputs: dict[str, Tensor]
    samples: list[Instances]
    stage: CascadeStage
    classified: TSDOutput
    losses: dict[str, Tensor]
    shortfalls: list[Tensor]


def given_outputs(name: str, seed: int, count: int) -> dict[str, Tensor]:
    return {
        key: (random_input(f"loss.{name}.{key}", (count, size), seed) * factor).requires_grad_()
        for key, (size, factor) in OUTPUTS.items()
    }


def classify(outputs: dict[str, Tensor], boxes: Tensor) -> TSDOutput:
    offsets = SHIFT_FACTOR * outputs["delta_r"]
    sibling = ClassificationOutput(
        background_last(outputs["cls_score"]), None, outputs["bbox_pred"][:, 4:], boxes
    )
    logits = background_last(outputs["tsd_cls_score"])
    return TSDOutput(
        logits=logits,
        classifier=None,
        features=None,
        boxes=shift_boxes(boxes, offsets),
        pooled=None,
        box_offsets=offsets,
        sibling=sibling,
    )


@pytest.fixture(scope="module", params=CASES)
def step(request):
    seed, margin = CASES[request.param]
    arrays = tensors("tsd", f"loss_{request.param}")
    drawn = samples(arrays, SIZE, NUM_CLASSES)
    outputs = given_outputs(request.param, seed, len(arrays["rois"]))
    classified = classify(outputs, Boxes.cat([s.proposal_boxes for s in drawn]).tensor)
    stage = tsd_stage(margin)
    shortfalls, shortfall = [], tsd_losses.shortfall
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsd_losses, "shortfall", lambda *a: shortfalls.append(shortfall(*a)) or shortfalls[-1])
        rows = torch.arange(len(arrays["rois"]))
        losses = stage.losses(stage, classified, outputs["tsd_bbox_pred"][:, 4:], rows, drawn)
    return Step(arrays, outputs, drawn, stage, classified, losses, shortfalls)


def test_values(step):
    assert set(step.losses) == set(HEAD_LOSSES.values())
    for theirs, ours in HEAD_LOSSES.items():
        close(step.losses[ours], step.arrays[theirs], LOSSES)


@pytest.mark.parametrize("loss", HEAD_LOSSES)
def test_gradients(step, loss):
    found = torch.autograd.grad(
        step.losses[HEAD_LOSSES[loss]], list(step.outputs.values()), retain_graph=True, allow_unused=True
    )
    for name, grad in zip(step.outputs, found, strict=True):
        wanted = step.arrays.get(f"grad.{loss}.{name}")
        if wanted is None:
            assert grad is None or not grad.any(), f"{loss} reaches {name}"
        else:
            close(grad, wanted, GRADIENTS)


def test_targets(step):
    positive = step.arrays["target_labels"] > 0
    truth = Boxes.cat([s.gt_boxes for s in step.samples]).tensor[positive]
    classes = torch.cat([s.gt_classes for s in step.samples])
    assert torch.equal((classes + 1) % (NUM_CLASSES + 1), step.arrays["target_labels"])
    for boxes, prefix in ((step.classified.sibling.boxes, "target_"), (step.classified.boxes, "target_tsd_")):
        found = step.stage.box_transform.get_deltas(boxes[positive], truth)
        close(found, step.arrays[f"{prefix}bbox_targets"][positive], LOSSES)


def test_shortfalls(step):
    """What is averaged; in the published arrays an image without positives has one zero in both."""
    counts = [int((s.gt_classes < NUM_CLASSES).sum()) for s in step.samples]
    missed = step.shortfalls[0].split([len(s) for s in step.samples])
    by_image = [m if count else torch.zeros(1) for m, count in zip(missed, counts, strict=True)]
    close(torch.cat(by_image), step.arrays["target_pc_cls"], LOSSES)
    missed = step.shortfalls[1].split(counts)
    by_image = [m if count else torch.zeros(1) for m, count in zip(missed, counts, strict=True)]
    close(torch.cat(by_image), step.arrays["target_pc_loc"], LOSSES)


def test_accuracy(step):
    found = step.stage.losses.metrics(step.classified, step.samples)
    assert set(found) == {"tsd/accuracy", "tsd/sibling_accuracy"}
    close(found["tsd/accuracy"], step.arrays["tsd_acc"][0], LOSSES)
    close(found["tsd/sibling_accuracy"], step.arrays["acc"][0], LOSSES)


@pytest.mark.parametrize("count", [0, 4])
def test_nothing_positive(count):
    """Zeros that still depend on all outputs, as training by several processes needs."""
    outputs = given_outputs("raw", 7, count)
    boxes = torch.tensor([[0.0, 0, 20, 20]]).repeat(count, 1)
    drawn = [
        Instances(
            SIZE,
            proposal_boxes=Boxes(boxes),
            gt_classes=torch.full((count,), NUM_CLASSES),
            gt_boxes=Boxes(torch.zeros(count, 4)),
        )
    ]
    classified, rows = classify(outputs, boxes), torch.zeros(0, dtype=torch.int64)
    stage = tsd_stage()
    losses = stage.losses(stage, classified, outputs["tsd_bbox_pred"][rows, 4:], rows, drawn)
    for name in ("loss_box_reg", "loss_box_reg_tsd", "loss_margin_cls", "loss_margin_loc"):
        assert losses[name] == 0
    reached = [t for name, t in outputs.items() if name != "delta_c"]
    for grad in torch.autograd.grad(sum(losses.values()), reached):
        assert grad.isfinite().all()
    assert all(value.isfinite() for value in stage.losses.metrics(classified, drawn).values())


def test_loss_weight():
    outputs = given_outputs("raw", 7, 47)
    drawn = samples(tensors("tsd", "loss_raw"), SIZE, NUM_CLASSES)
    classified = classify(outputs, Boxes.cat([s.proposal_boxes for s in drawn]).tensor)
    inputs = classified, outputs["tsd_bbox_pred"][:, 4:], torch.arange(47), drawn
    once, twice = (
        stage.losses(stage, *inputs) for stage in (tsd_stage(loss_weight=1.0), tsd_stage(loss_weight=2.0))
    )
    for name, value in once.items():
        assert value > 0
        assert twice[name].item() == pytest.approx(2 * value.item())
