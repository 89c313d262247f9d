"""What the reference cases of GFL and SALT-Net share: tolerances, recorded outputs of a head, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from htd.modeling.dense import DensePredictions
from htd.modeling.dense.losses import DenseTargets
from tests.modeling.dense.reference import Priced, decoded, shapes
from tests.modeling.reference import EXACT, Tolerance
from tests.recorded import random_input

# The least difference that is allowed in maps, losses and their gradients, whatever the values are.
LEAST = 1e-6
BOXES, SCORES = Tolerance(absolute=0.02), Tolerance(absolute=1e-4)
BATCH_SIZE = (256, 320)
# Sizes of the images of the losses, and of the detections with what those were enlarged by.
TRAINED = [(250, 310), (256, 320), (190, 250)]
DETECTED = [((250, 310), (0.505, 0.5)), ((200, 320), (1.25, 1.25))]


def check(found: Tensor, wanted: Tensor) -> None:
    """Compare maps, losses, or gradients of losses for a head's outputs."""
    Tolerance(max(1e-5 * wanted.abs().max().item(), LEAST), 1e-4).check(found, wanted)


def check_gradient(found: Tensor, wanted: Tensor) -> None:
    """Compare the whole gradient of a parameter."""
    Tolerance(1e-4 * wanted.abs().max().item(), 1e-3).check(found, wanted)


def check_gradient_norms(found: Sequence[Tensor], wanted: Tensor) -> None:
    """Compare the norms of gradients."""
    limit = 1e-6 * wanted.max().item()
    Tolerance(limit, 2e-3).check([g.double().norm().item() for g in found], wanted)


def normal_maps(name: str, channels: int, seed: int, images: int, device) -> list[Tensor]:
    """Return the standard normal maps of the five levels that an output of a head is made of."""
    sizes = enumerate(shapes(*BATCH_SIZE))
    return [random_input(f"{name}{i}", (images, channels, *size), seed).to(device) for i, size in sizes]


def as_rows(maps: Sequence[Tensor]) -> Tensor:
    """Return maps (N, D, H, W) of all levels as rows (N, P, D)."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def objects(case: Mapping[str, Tensor], sizes: Sequence[tuple[int, int]], device) -> list[Instances]:
    """Return the objects of the images of a case; an image that none are recorded of has none."""
    found = []
    for i, size in enumerate(sizes):
        boxes = case.get(f"gt_boxes{i}", torch.zeros(0, 4))
        classes = case.get(f"gt_classes{i}", torch.zeros(0)).long()
        found.append(Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes).to(device))
    return found


def check_targets(case: Mapping[str, Tensor], matched: DenseTargets, truth: Sequence[Instances]) -> None:
    """Compare which objects anchors have: -2 for those of the padding alone, 0 for none."""
    EXACT.check(matched.priors.boxes, case["anchors"])
    # Background is the number of classes, here of the outputs, of which there may be more.
    EXACT.check(matched.gt_classes.where(matched.positive, 80), case["labels"])
    assert (matched.gt_classes[~matched.positive] == matched.predictions.logits.shape[-1]).all()
    EXACT.check(matched.counted, case["label_weights"])
    EXACT.check(torch.where(matched.positive[..., None], matched.gt_boxes, 0), case["bbox_targets"])
    EXACT.check(matched.counted, case["gt_inds"] != -2)
    EXACT.check(matched.positive, case["gt_inds"] > 0)
    for i, target in enumerate(truth):
        rows = case["gt_inds"][i] > 0
        boxes = target.gt_boxes.tensor.cpu()[case["gt_inds"][i][rows] - 1]
        EXACT.check(matched.gt_boxes[i][rows.to(matched.gt_boxes.device)], boxes)
    EXACT.check((matched.counted & ~matched.positive).sum(), case["num_total_neg"])


def check_normalizers(case: Mapping[str, Tensor], found: Priced) -> None:
    """Compare the count of the class loss, and the sum of scores, each level's, of all other losses."""
    EXACT.check(found.norms["loss_cls"], case["num_total_pos"])
    matched = found.targets
    score = matched.predictions.logits.detach().amax(dim=-1).sigmoid() * matched.positive
    check(torch.stack([x.sum() for x in matched.priors.split(score, dim=1)]), case["weight_sum"])
    for name in set(found.norms) - {"loss_cls"}:
        check(found.norms[name], case["weight_sum"].sum())


@torch.no_grad()
def check_recorded_detections(
    case: Mapping[str, Tensor], model: nn.Module, logits: Sequence[Tensor], sides: Sequence[Tensor], images
) -> list[Instances]:
    """Compare the detections of recorded outputs, and return them.

    Args:
        case: its arrays.
        model: what decodes and post-processes.
        logits, sides: maps of the head's outputs.
        images: size of each image, and what it was enlarged by.
    """
    sizes = [size for size, _ in images]
    predicted = decoded(model.eval(), logits, DensePredictions(as_rows(logits), as_rows(sides)))
    each, all_found = model.postprocessing.pre_nms_boxes(*predicted, sizes), []
    for i, (candidates, (size, factors)) in enumerate(zip(each, images, strict=True)):
        assert len(candidates) == case[f"num_candidates{i}"]
        frame = tuple(side / factor for side, factor in zip(size, factors, strict=True))
        found = model.postprocessing.select(candidates, frame)
        EXACT.check(found.pred_classes, case[f"labels{i}"])
        SCORES.check(found.scores, case[f"dets{i}"][:, 4])
        BOXES.check(found.pred_boxes.tensor, case[f"dets{i}"][:, :4])
        all_found.append(found)
    return all_found
