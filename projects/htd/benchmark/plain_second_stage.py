"""HTD's second stage as in the paper and its published code: correct, vectorized over RoIs, and slow.

Every RoI is pooled with torchvision's RoIAlign, classified in two passes through the fully connected layers,
and regressed from all pyramid levels, whether it can become a detection or not. The functions take the
parameters of HTD's branches. The benchmark measures ours against them, the tests compare values.

Symbols: R RoIs, written as rows (image, x1, y1, x2, y2); C channels; D embedding size; K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou, roi_align

STRIDES = (4, 8, 16, 32)


def classify(
    branch: nn.Module, features: list[Tensor], rois: Tensor, image_vector: Tensor, previous: nn.Linear
) -> Tensor:
    """Return the logits (R, K + 1).

    Args:
        branch: the classification branch.
        features: maps P2 to P5.
        rois: (R, 5).
        image_vector: (N, C).
        previous: the classifier of the stage before, whose weights are the class prototypes.
    """
    levels = level_of(rois[:, 1:])
    x = pool_own_level(features, rois, levels)
    embedding = embed(branch, x)
    base = embed(branch, x + image_vector[rois[:, 0].long()][:, :, None, None])
    prototypes = torch.cat([previous.weight, previous.bias[:, None]], 1).detach()
    semantics = previous(embedding).softmax(1) @ prototypes
    return branch.cls_score(base + graph(branch, embedding, semantics, rois, levels))


def regress(branch: nn.Module, features: list[Tensor], rois: Tensor, image_vector: Tensor) -> Tensor:
    """Return the deltas (R, 4) with all terms of the border-aware features added."""
    x = pool_own_level(features, rois, level_of(rois[:, 1:]))
    pooled = [pool(f, rois, s) for f, s in zip(features, STRIDES, strict=True)]
    attention = branch.features.terms[0].attention
    scores = torch.stack([attention(f.mean((2, 3), keepdim=True)).flatten() for f in pooled])
    mixed = sum(w[:, None, None, None] * f for w, f in zip(scores.softmax(0), pooled, strict=True))
    border = pooled[0].clone()
    border[:, :, 1:6, 1:6] = 0
    x = x + image_vector[rois[:, 0].long()][:, :, None, None] + mixed + border
    for layer in branch.tower:
        x = F.relu(layer.norm(F.conv2d(x, layer.weight, padding=1)))
    return branch.bbox_pred(F.adaptive_avg_pool2d(x, 1).flatten(1))


def graph(branch: nn.Module, embedding: Tensor, semantics: Tensor, rois: Tensor, levels: Tensor) -> Tensor:
    """Return PGraph's output (R, D), one group of an image and a level after the other."""
    out = torch.zeros_like(embedding)
    for image in rois[:, 0].unique():
        for level in range(len(STRIDES)):
            index = ((rois[:, 0] == image) & (levels == level)).nonzero().squeeze(1)
            if not len(index):
                continue
            boxes, x, s = rois[index, 1:], embedding[index], semantics[index]
            overlap = (box_iou(boxes, boxes) > 0).float().fill_diagonal_(1)
            root = overlap.sum(1).rsqrt()
            local = (root[:, None] * overlap * root[None, :]) @ x
            attention = ((1 - overlap) * (s @ s.T)).softmax(1)
            out = out.index_copy(0, index, F.relu(branch.graph.transforms[level](attention @ local)))
    return out


def embed(branch: nn.Module, x: Tensor) -> Tensor:
    """Apply the fully connected layers to (R, C, 7, 7)."""
    x = x.flatten(1)
    for layer in branch.fcs:
        x = F.relu(layer(x))
    return x


def level_of(boxes: Tensor) -> Tensor:
    """Return the level (R,) of boxes (R, 4), 0 for P2."""
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return torch.floor(torch.log2(size / 56 + 1e-6)).clamp(0, 3).long()


def pool(feature: Tensor, rois: Tensor, stride: int) -> Tensor:
    """Return RoIAlign (R, C, 7, 7) of all RoIs on one map."""
    return roi_align(feature, rois, 7, spatial_scale=1 / stride, sampling_ratio=0, aligned=True)


def pool_own_level(features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
    """Return RoIAlign (R, C, 7, 7) of each RoI on its own level."""
    out = features[0].new_zeros(len(rois), features[0].shape[1], 7, 7)
    for level, (feature, stride) in enumerate(zip(features, STRIDES, strict=True)):
        index = (levels == level).nonzero().squeeze(1)
        out = out.index_copy(0, index, pool(feature, rois[index], stride))
    return out
