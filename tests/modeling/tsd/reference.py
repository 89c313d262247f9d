"""What the reference cases of TSD's detectors share: published order and names, tolerances, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import Instances
from torch import Tensor, nn

from tests.modeling.reference import EXACT, Pass, Tolerance, gradient_norm, on, passes_of
from tests.modeling.tsd.small import HEAD_LOSSES, images, load, maps, model_config, proposals
from tests.recorded import arrays, inclusive, published_weights, tensors, unpaired

__all__ = ["EXACT", "Tolerance", "gradient_norm", "passes_of"]

# Pixels, except for scores.
BOXES = Tolerance(absolute=0.02)
SCORES = Tolerance(absolute=5e-4)
CASCADE_BOXES = Tolerance(absolute=0.05)
PROPOSALS = Tolerance(absolute=0.01)
LOGITS = Tolerance(absolute=5e-3)
LOSSES = Tolerance(relative=1e-3)
GRADIENTS = Tolerance(relative=2e-2)
# Each mask's IoU with the recorded one must be above.
MASK_IOU = 0.99

OUR_LOSSES = {
    **HEAD_LOSSES,
    "loss_mask": "loss_mask",
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_bbox": "loss_rpn_loc",
}
# More than there are RoIs or anchors: all are taken, none is drawn.
EVERY = 8192


def shifted(found: Pass) -> Tensor:
    """Return what the deltas of a pass refer to (R, 5), in published form: image, first and last pixels."""
    return found.rows(inclusive(found.classified.boxes))


def check_detections(
    case: Mapping[str, Tensor], variant: str, found: Instances, *, boxes: Tolerance = BOXES
) -> None:
    """Compare detections, row by row, with ``det<variant>`` and ``label<variant>`` of a case."""
    wanted = case[f"det{variant}"]
    EXACT.check(found.pred_classes, case[f"label{variant}"])
    boxes.check(inclusive(found.pred_boxes.tensor), wanted[:, :4])
    SCORES.check(found.scores, wanted[:, 4])


def check_proposals(found: Instances, wanted: Tensor) -> None:
    """Compare proposals, row by row, with those (n, 5) of a case, whose last column is the score."""
    PROPOSALS.check(inclusive(found.proposal_boxes.tensor), wanted[:, :4])
    SCORES.check(found.objectness_logits.sigmoid(), wanted[:, 4])


def check_same_proposals(found: Instances, wanted: Tensor) -> None:
    """Compare proposals, whatever the order of those with nearly the same score, with (n, 5) of a case."""
    assert len(found) == len(wanted)
    scores = found.objectness_logits.sigmoid().cpu()
    SCORES.check(scores, wanted[:, 4].sort(descending=True).values)
    mine = {"boxes": inclusive(found.proposal_boxes.tensor).cpu(), "scores": scores}
    reference = {"boxes": wanted[:, :4].numpy(), "scores": wanted[:, 4].numpy()}
    tolerances = {"box_tolerance": PROPOSALS.absolute, "score_tolerance": SCORES.absolute}
    assert not len(unpaired(reference, mine, **tolerances))


def unpacked_masks(case: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the bitmaps (n, H, W) bool of ``<name>_packed``."""
    count, height, width = case[f"{name}_shape"].tolist()
    bits = np.unpackbits(case[f"{name}_packed"].numpy(), axis=1, count=height * width)
    return torch.from_numpy(bits.reshape(count, height, width).astype(bool))


def check_masks(
    case: Mapping[str, Tensor], name: str, found: Instances, rows: Sequence[int] | None = None
) -> None:
    """Compare bitmaps with ``<name>_packed`` of a case, those of ``rows`` if they are in another order."""
    wanted, masks = unpacked_masks(case, name), found.pred_masks.cpu()
    masks = masks if rows is None else masks[rows]
    assert masks.dtype == torch.bool and masks.shape == wanted.shape
    both, either = ((f(masks, wanted)).sum(dim=(1, 2)) for f in (torch.logical_and, torch.logical_or))
    assert ((both / either > MASK_IOU) | (either == 0)).all()


def trainable(
    case: str, device, loss_weights: Sequence[float] = (1.0,)
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the RoI heads of a case and their parameters by published name; they train on every RoI."""
    model = model_config(case)
    config = model.roi_heads
    for stage, weight in zip(config.stages, loss_weights, strict=True):
        stage.losses.get("box_losses", stage.losses).loss_weight = weight
        stage.sampler.batch_size_per_image = EVERY
    heads = instantiate(config)
    heads.box_convention = instantiate(model.box_convention)
    names = load(heads, published_weights("tsd", case))
    heads = heads.to(device).train()
    return heads, by_published_name(heads, names, "roi_heads.")


def train_once(
    heads: nn.Module, name: str, size: tuple[int, int], truth: Sequence[Instances], device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run one step of RoI heads on the proposals of a case; return maps and losses, with gradients."""
    case, count = tensors("tsd", name), len(truth)
    features = on(device, maps(name, f"{name}.train", count, size))
    features = {level: x.requires_grad_() for level, x in features.items()}
    given = proposals(size, *(case[f"in{i}_proposals"] for i in range(count)))
    given, truth = ([x.to(device) for x in each] for each in (given, truth))
    _, losses = heads(images(size, count), features, given, truth)
    sum(losses.values()).backward()
    return features, losses


def by_published_name(model: nn.Module, names: Mapping[str, str], prefix: str = "") -> dict[str, Tensor]:
    """Return the parameters of a model, or of the part of one that ``prefix`` names, by published name."""
    published = {ours: theirs for theirs, ours in names.items()}
    return {published[prefix + name]: parameter for name, parameter in model.named_parameters()}


def check_samples(
    case: Mapping[str, Tensor], stage: int, samples: Sequence[Instances], num_classes: int
) -> None:
    """Compare, in order, the samples of a stage with those of a case; which are background, too."""
    for i, found in enumerate(samples):
        positive, pixels = found.gt_classes < num_classes, inclusive(found.proposal_boxes.tensor)
        count, name = int(positive.sum()), f"train_s{stage}_img{i}"
        assert positive[:count].all()
        BOXES.check(pixels[:count], case[f"{name}_pos"])
        BOXES.check(pixels[count:], case[f"{name}_neg"])
        EXACT.check(found.gt_index[:count], case[f"{name}_pos_gt_ind"])
        EXACT.check(found.is_gt[:count], case[f"{name}_pos_is_gt"])
        EXACT.check(found.gt_classes[:count] + 1, case[f"in{i}_gt_label"][found.gt_index[:count].cpu()])


def check_losses(case: Mapping[str, Tensor], losses: Mapping[str, Tensor]) -> None:
    """Compare the losses of a step, with their weights, with those of a case, and their sum."""
    wanted = {}
    for key, value in case.items():
        if key.startswith("loss:") and key != "loss:total":
            stage, _, name = key.removeprefix("loss:").rpartition(".")
            wanted[OUR_LOSSES[name] + stage.replace("s", "_stage")] = value
    assert set(losses) == set(wanted)
    for name, value in wanted.items():
        LOSSES.check(losses[name], value)
    LOSSES.check(sum(losses.values()), case["loss:total"])


def check_gradients(name: str, found: Mapping[str, Tensor]) -> None:
    """Compare the norms of the gradients of tensors, by published name, with all those of a case.

    The rows that conversion leaves out, those of the background's box and mask, are read by no loss: the
    norm of a whole published tensor is that of ours.
    """
    case = arrays("tsd", name)
    published = [str(key) for key in case["names"]]
    assert set(published) == set(found)
    GRADIENTS.check([gradient_norm(found[key]) for key in published], case["grad_norm"])


def features_by_name(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return maps p2 ... by the names that cases call them."""
    return {f"feat.{level.upper()}": x for level, x in maps.items()}
