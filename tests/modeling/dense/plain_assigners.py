"""The rules of ATSS and of task alignment again, object by object and without an allowance for speed."""

import torch
from detectron2.structures import Boxes, pairwise_iou


def plain_atss(priors, valid, gt_boxes, topk=9):
    """Return the object (P,) of each prior, -1 for background and -2 for priors that are not valid."""
    centers, iou = priors.centers, pairwise_iou(Boxes(priors.boxes), Boxes(gt_boxes))
    rows = torch.arange(len(priors))
    claims = torch.full_like(iou, -1)
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
            claims[positive, g] = iou[positive, g]
    return chosen(claims, valid)


def plain_alignment(priors, valid, gt_boxes, gt_classes, predicted, topk=13):
    """Return the object (P,) of each prior, as above, and its graded alignment (P,)."""
    iou = pairwise_iou(Boxes(predicted.boxes), Boxes(gt_boxes))
    alignment = predicted.scores[:, gt_classes] * iou**6
    rows = torch.nonzero(valid)[:, 0]
    claims = torch.full_like(iou, -1)
    for g, box in enumerate(gt_boxes):
        best = rows[alignment[rows, g].argsort(descending=True)[:topk]]
        best = best[(alignment[best, g] > 0) & is_inside(priors.centers[best], box)]
        claims[best, g] = iou[best, g]
    index, metric = chosen(claims, valid), torch.zeros(len(priors))
    for g in range(len(gt_boxes)):
        own = index == g
        if own.any():
            metric[own] = alignment[own, g] / (alignment[own, g].max() + 1e-7) * iou[own, g].max()
    return index, metric


def is_inside(points, box):
    """Return which points (n, 2) lie more than a hundredth of a pixel inside of the box (4,)."""
    return torch.cat([points - box[:2], box[2:] - points], dim=1).min(dim=1).values > 0.01


def chosen(claims, valid):
    """Return the first object of the highest claim (P, G), of those from 0 on."""
    index = torch.full((len(claims),), -1)
    if claims.shape[1]:
        best, first = claims.max(dim=1)
        index[best >= 0] = first[best >= 0]
    index[~valid] = -2
    return index
