"""What the reference cases of HTC and the baselines share: tolerances, parts with weights, comparisons."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.checkpoint import convert
from tests.modeling.reference import Tolerance, detections, gradient_norm, on, passes_of
from tests.recorded import arrays, feature_maps, partners, published_weights

SIZE_OF_MASK = 28


FEATURES = Tolerance(absolute=1e-3, relative=1e-4)
BOXES = Tolerance(absolute=0.02)
SCORES = Tolerance(absolute=1e-4)
PROBABILITIES = Tolerance(absolute=5e-4)
AREAS = Tolerance(absolute=4, relative=0.005)
# At most this share of the pixels of masks, and this many cells of a mask target, may differ.
BIT_SHARE = Tolerance(absolute=0.002)
TARGET_BITS = Tolerance(absolute=2)
LOSSES = Tolerance(relative=1e-4, least=1e-6)
GRADIENTS = Tolerance(relative=1e-3, least=1e-6)
# Detections with scores closer than this may be in either order; one of a hundred may be missing.
SCORE_TIE = 1e-5
MISSING_SHARE = 0.01


def with_weights(part: nn.Module, name: str, device, prefix: str = "") -> nn.Module:
    """Return a detector or a part of one on a device, with the weights of a manifest."""
    weights, _ = convert(published_weights("htc", name, prefix), part)
    part.load_state_dict(weights, strict=True)
    return part.to(device)


def maps_of(name: str, seed: int, batch_size_hw, device, *, grad: bool = False) -> dict[str, torch.Tensor]:
    """Return the maps p2..p6 of the two images of a case."""
    maps = on(device, feature_maps(seed, 2, *batch_size_hw.tolist(), prefix=f"{name}."))
    return {level: x.requires_grad_(grad) for level, x in maps.items()}


def proposals_of(case: dict, device) -> list[Instances]:
    """Return the proposals that a case gives."""
    return [
        Instances(tuple(size), proposal_boxes=Boxes(case[f"proposals_{i}"].to(device)))
        for i, size in enumerate(case["image_sizes"].tolist())
    ]


def joined(instances: list[Instances]) -> torch.Tensor:
    """Return the RoIs of all images (R, 5): image index, box."""
    boxes = torch.cat([x.proposal_boxes.tensor for x in instances])
    counts = torch.tensor([len(x) for x in instances], device=boxes.device)
    index = torch.arange(len(instances), device=boxes.device).repeat_interleave(counts)
    return torch.cat([index[:, None].to(boxes.dtype), boxes], dim=1)


def unpacked(bits: torch.Tensor, width: int) -> torch.Tensor:
    """Return bitmaps (..., H, W) bool of rows packed eight pixels to a byte."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), axis=-1)[..., :width].astype(bool))


def run_stages(heads: nn.Module, context, boxes: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return logits (S, R, K + 1), deltas (S, R, B) and entering RoIs (S, R, 5) of all S stages."""
    outputs = (
        (p.classified.logits, p.deltas, p.rows(p.rois.boxes)) for p in passes_of(heads, context, boxes)
    )
    return [torch.stack(each) for each in zip(*outputs, strict=True)]


@torch.no_grad()
def last_head_probabilities(branch: nn.Module, context, boxes: list[torch.Tensor], classes: torch.Tensor):
    """Return the masks (P, M, M) of boxes in the resized input by the last mask head alone."""
    x = branch.features(context, context.rois(boxes))
    features = branch.flow.last([head.extract for head in branch.heads], x)
    return branch.heads[-1].predict(features, classes).sigmoid()


def check_detections(case: dict, image: int, found: Instances, *, boxes: str = "det_boxes") -> np.ndarray:
    """Compare the detections of an image; return the row of ``found`` for each of the case, -1 for none."""
    reference = {
        "boxes": case[f"{boxes}_{image}"].numpy(),
        "scores": case[f"det_scores_{image}"].numpy(),
        "labels": case[f"det_labels_{image}"].numpy(),
    }
    total = len(reference["scores"])
    assert len(found) == total
    rows = partners(
        reference, detections(found), box_tolerance=BOXES.absolute, score_tolerance=SCORES.absolute
    )
    paired = np.flatnonzero(rows >= 0)
    assert total - len(paired) <= MISSING_SHARE * total
    scores = reference["scores"][paired]
    group = np.cumsum(np.concatenate([[0], np.abs(np.diff(scores)) >= SCORE_TIE]))
    rank = rows[paired].argsort().argsort()
    assert (group[rank] == group).all()
    BOXES.check(found.pred_boxes.tensor[rows[paired]], reference["boxes"][paired])
    SCORES.check(found.scores[rows[paired]], scores)
    return rows


def check_masks(case: dict, image: int, rows: np.ndarray, soft: torch.Tensor, pasted: torch.Tensor) -> None:
    """Compare masks of the detections that ``rows`` (of :func:`check_detections`) names.

    Args:
        case: with ``mask_prob``, ``mask_area`` and, of one image, ``mask_bits``.
        image: its index.
        rows: the row here of every detection of the case, -1 for none.
        soft: probabilities (P, 28, 28) in the frame of each box.
        pasted: bitmaps (P, H, W) of the output frame.
    """
    height, width = case["output_sizes"][image].tolist()
    assert pasted.dtype == torch.bool and pasted.shape[1:] == (height, width)
    soft, pasted = soft.cpu(), pasted.cpu()

    def both(mine, name, count):
        kept = rows[:count] >= 0
        return mine[rows[:count][kept]], case[f"{name}_{image}"][kept]

    PROBABILITIES.check(*both(soft, "mask_prob", len(case[f"mask_prob_{image}"])))
    AREAS.check(*both(pasted.sum(dim=(1, 2)), "mask_area", len(rows)))
    if f"mask_bits_{image}" in case:
        mine, bits = both(pasted, "mask_bits", len(case[f"mask_bits_{image}"]))
        BIT_SHARE.check((mine != unpacked(bits, width)).float().mean(), 0.0)


def check_last_head(case: dict, image: int, rows: np.ndarray, soft: torch.Tensor, last: torch.Tensor) -> None:
    """Compare the last head's masks of the first detections, and see that they are not what is given out."""
    wanted = case[f"mask_prob_laststage_{image}"]
    PROBABILITIES.check(last, wanted)
    assert (rows[: len(wanted)] >= 0).all()
    given = soft[rows[: len(wanted)]].cpu()
    assert ((given - wanted).abs().amax(dim=(1, 2)) > 10 * PROBABILITIES.absolute).all()


def check_gradients(name: str, part: nn.Module, maps: dict[str, torch.Tensor]) -> None:
    """Compare the norms of the gradients of all parameters of a part and of the maps p2..p6."""
    wanted = arrays("htc", name)
    published = [str(key) for key in wanted["grad_names"]]
    _, report = convert(published_weights("htc", name), part)
    parameters = dict(part.named_parameters())
    assert set(report.used) == set(published) and set(report.used.values()) == set(parameters)
    norms = [gradient_norm(parameters[report.used[key]]) for key in published]
    GRADIENTS.check(norms, wanted["grad_norms"])
    GRADIENTS.check([gradient_norm(x) for x in maps.values()], wanted["input_grad_norms"])
