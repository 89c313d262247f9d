"""Priors and objects to assign, and the rules of two assigners again as plain loops."""

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from htd.modeling.dense.assigners import Predicted
from htd.modeling.dense.boxes import Priors
from htd.modeling.dense.criterion import assign_targets
from htd.modeling.dense.head import DensePredictions
from tests.recorded import tensors

STRIDES = (8, 16, 32, 64, 128)


def priors_of(shapes, strides=STRIDES, side=8, offset=0.0):
    """Return square anchors of ``side`` cells, their middles ``offset`` cells from the cells' corners."""
    boxes = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        middle = (torch.stack([x, y, x, y], dim=-1).view(-1, 4) + offset) * stride
        boxes.append(middle + torch.tensor([-1.0, -1, 1, 1]) * side * stride / 2)
    return Priors(torch.cat(boxes), tuple(shapes), tuple(strides))


def priors_in(height, width, **settings):
    """Return the priors of an image of this size in pixels."""
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return priors_of(shapes, **settings)


def recorded_case(name, prefix):
    """Return a reference case without the prefix of its arrays, and its priors."""
    case = tensors("tood", name)
    case |= {key.removeprefix(prefix): case[key] for key in case if prefix and key.startswith(prefix)}
    return case, Priors(case["anchors"], tuple(map(tuple, case["level_sizes"].tolist())), STRIDES)


def matched_case(assigner, name, prefix):
    """Return a reference case, and what the losses of its only image would read."""
    case, priors = recorded_case(name, prefix)
    truth = Instances(
        (2**14, 2**14),  # so that no prior lies in padding
        gt_boxes=Boxes(case["gt_boxes"]),
        gt_classes=case["gt_labels"].long(),
    )
    predictions = DensePredictions(case["pred_scores"].logit()[None], torch.zeros(1, len(priors), 4))
    return case, assign_targets(assigner, priors, predictions, case["pred_boxes"][None], [truth], 32)


def everywhere(priors):
    """Return that all priors take part."""
    return torch.ones(len(priors), dtype=torch.bool)


def random_objects(count, height, width, seed, num_classes=8):
    """Return boxes (count, 4) of 8 to 250 pixels, which may reach beyond the image, and classes (count,)."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    side = 8 * torch.exp(torch.rand(count, 2, generator=generator) * 3.4)
    return torch.cat([low, low + side], dim=1), torch.randint(num_classes, (count,), generator=generator)


def random_predictions(priors, seed, num_classes=8):
    """Return random scores and boxes that lie near the priors' own."""
    generator = torch.Generator().manual_seed(seed)
    moved = priors.boxes + 6 * torch.randn(len(priors), 4, generator=generator)
    low, high = torch.minimum(moved[:, :2], moved[:, 2:]), torch.maximum(moved[:, :2], moved[:, 2:])
    scores = torch.rand(len(priors), num_classes, generator=generator)
    return Predicted(scores, torch.cat([low, high], dim=1))


def at_priors(values, candidates, gt_index):
    """Return ``values`` (G, k) of candidates at the priors (P,) that their objects have, 0 elsewhere."""
    table = values.new_zeros(len(values), len(gt_index)).scatter(1, candidates.prior, values)
    own = torch.arange(len(values))[:, None] == gt_index
    return torch.where(own, table, 0).sum(dim=0)


def same(found, wanted):
    """Fail unless two assignments are equal; a metric's last digit depends on where in memory it stands."""
    assert torch.equal(found.gt_index, wanted.gt_index)
    torch.testing.assert_close(found.metric, wanted.metric, rtol=1e-6, atol=1e-7)


# -- the rules object by object, without an allowance for speed


def plain_atss(priors, valid, gt_boxes, topk=9):
    """Return the object (P,) of each prior, -1 for background and -2 for priors that are not valid."""
    centers, iou = priors.centers, pairwise_iou(Boxes(priors.boxes), Boxes(gt_boxes))
    rows = torch.arange(len(priors))
    overlaps = torch.full_like(iou, -1)
    for g, box in enumerate(gt_boxes):
        candidates = []
        for level in priors.split(rows):
            own = level[valid[level]]
            distance = (centers[own] - (box[:2] + box[2:]) / 2).norm(dim=1)
            candidates.append(own[distance.argsort()[:topk]])
        candidates = torch.cat(candidates)
        values = iou[candidates, g].double()
        if len(candidates) > 1:
            positive = candidates[values >= values.mean() + values.std()]
            positive = positive[is_inside(centers[positive], box)]
            overlaps[positive, g] = iou[positive, g]
    return chosen(overlaps, valid)


def plain_alignment(priors, valid, gt_boxes, gt_classes, predicted, topk=13):
    """Return the object (P,) of each prior, as above, and its scaled alignment (P,)."""
    iou = pairwise_iou(Boxes(predicted.boxes), Boxes(gt_boxes))
    alignment = predicted.scores[:, gt_classes] * iou**6
    rows = torch.nonzero(valid)[:, 0]
    overlaps = torch.full_like(iou, -1)
    for g, box in enumerate(gt_boxes):
        best = rows[alignment[rows, g].argsort(descending=True)[:topk]]
        best = best[(alignment[best, g] > 0) & is_inside(priors.centers[best], box)]
        overlaps[best, g] = iou[best, g]
    index, metric = chosen(overlaps, valid), torch.zeros(len(priors))
    for g in range(len(gt_boxes)):
        own = index == g
        if own.any():
            metric[own] = alignment[own, g] / (alignment[own, g].max() + 1e-7) * iou[own, g].max()
    return index, metric


def is_inside(points, box):
    """Return which points (n, 2) lie more than a hundredth of a pixel inside of the box (4,)."""
    return torch.cat([points - box[:2], box[2:] - points], dim=1).min(dim=1).values > 0.01


def chosen(overlaps, valid):
    """Return the first object of the highest overlap (P, G), of those from 0 on."""
    index = torch.full((len(overlaps),), -1)
    if overlaps.shape[1]:
        best, first = overlaps.max(dim=1)
        index[best >= 0] = first[best >= 0]
    index[~valid] = -2
    return index
