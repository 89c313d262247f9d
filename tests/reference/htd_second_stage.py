"""HTD's second stage as the paper and the published implementation put it, vectorised over RoIs.

Every RoI is pooled with torchvision's RoIAlign, classified in two passes of the fully connected
layers and regressed from all pyramid levels, whether it can become a detection or not. Takes the
parameters of a :class:`htd.modeling.cascade.DecoupledHead`; used for equality tests and as the
reference of the benchmark.
"""

import math

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, roi_align

STRIDES = (4, 8, 16, 32)


def level_of(boxes):
    """Level (R,) of boxes (R, 4), finest 0."""
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.floor(torch.log2(size / 56 + 1e-6)).clamp(0, 3).long()


def pool(feature, rois, stride):
    """RoIAlign (R, C, 7, 7) of rois (R, 5) on one map."""
    return roi_align(feature, rois, 7, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)


def pool_own_level(features, rois, levels):
    """RoIAlign of each RoI on its own level."""
    out = features[0].new_zeros(len(rois), features[0].shape[1], 7, 7)
    for level, (feature, stride) in enumerate(zip(features, STRIDES, strict=True)):
        rows = (levels == level).nonzero().squeeze(1)
        out = out.index_copy(0, rows, pool(feature, rois[rows], stride))
    return out


def embed(branch, x):
    """The fully connected layers on (R, C, 7, 7)."""
    x = x.flatten(1)
    for layer in branch.fcs:
        x = F.relu(layer(x))
    return x


def graph(branch, embedding, semantics, rois, levels):
    """PGraph's output (R, D), group by group."""
    out = torch.zeros_like(embedding)
    for image in rois[:, 0].unique():
        for level in range(4):
            rows = ((rois[:, 0] == image) & (levels == level)).nonzero().squeeze(1)
            if not len(rows):
                continue
            boxes, x, s = rois[rows, 1:], embedding[rows], semantics[rows]
            near = (box_iou(boxes, boxes) > 0).float()
            near = near.fill_diagonal_(1)
            root = near.sum(1).rsqrt()
            local = (root[:, None] * near * root[None, :]) @ x
            wide = ((1 - near) * (s @ s.T)).softmax(1)
            z = F.relu(branch.graph.transforms[level](wide @ local))
            out = out.index_copy(0, rows, z)
    return out


def classify(branch, features, rois, vector, classifier):
    """Second-stage logits (R, K + 1)."""
    levels = level_of(rois[:, 1:])
    x = pool_own_level(features, rois, levels)
    embedding = embed(branch, x)
    base = embed(branch, x + vector[rois[:, 0].long()][:, :, None, None])
    prototypes = torch.cat([classifier.weight, classifier.bias[:, None]], 1).detach()
    semantics = classifier(embedding).softmax(1) @ prototypes
    return branch.cls_score(base + graph(branch, embedding, semantics, rois, levels))


def regress(branch, features, rois, vector):
    """Second-stage deltas (R, 4), default fusion and terms."""
    x = pool_own_level(features, rois, level_of(rois[:, 1:]))
    every = [pool(f, rois, s) for f, s in zip(features, STRIDES, strict=True)]
    attention = branch.features.terms[0].attention
    scores = torch.stack([attention(f.mean((2, 3), keepdim=True)).flatten() for f in every])
    weights = scores.softmax(0)
    mixed = sum(w[:, None, None, None] * f for w, f in zip(weights, every, strict=True))
    border = every[0].clone()
    border[:, :, 1:6, 1:6] = 0
    x = x + vector[rois[:, 0].long()][:, :, None, None] + mixed + border
    for layer in branch.tower:
        x = F.relu(layer.norm(F.conv2d(x, layer.weight, padding=1)))
    return branch.bbox_pred(F.adaptive_avg_pool2d(x, 1).flatten(1))


def random_boxes(generator, count, height, width, smallest=12.0):
    """Boxes (count, 4) inside the image, sides log-uniform from ``smallest`` to the image's."""
    low, high = math.log(smallest), math.log(min(height, width))
    sides = torch.empty(count, 2).uniform_(low, high, generator=generator).exp()
    start = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    return torch.cat([start, start + sides], 1)
