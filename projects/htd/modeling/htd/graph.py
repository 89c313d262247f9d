"""PGraph: each RoI is classified together with the others of its image and level.

Symbols: R RoIs, n of one image and level, K foreground classes, C channels, S side of the pooled
map, D width of the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htd.layers.sampling import full_precision
from htd.modeling.cascade import RoIs


def overlap_mask(boxes: Tensor) -> Tensor:
    """Return (n, n) float: 1 where two boxes (n, 4) overlap, and on the diagonal; else 0.

    A box without area overlaps nothing, itself included; the diagonal is set so that it still
    has one neighbor.
    """
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    # Not `fill_diagonal_`, which cannot be traced.
    itself = torch.eye(boxes.shape[0], dtype=torch.bool, device=boxes.device)
    return ((high > low).all(dim=2) | itself).to(boxes.dtype)


def spatial_aggregation(mask: Tensor, features: Tensor) -> Tensor:
    """Average features (n, D) over overlapping boxes: D^-1/2 M D^-1/2 x, D the row sums of M.

    Paper: HTD, overview figure (PGraph, local spatial aggregation), https://doi.org/10.1109/TIP.2021.3126423.

    Args:
        mask: M (n, n), symmetric, with ones on the diagonal.
        features: x (n, D).
    """
    scale = mask.sum(dim=1).rsqrt()[:, None]
    return scale * (mask @ (scale * features))


def semantic_attention(mask: Tensor, semantics: Tensor) -> Tensor:
    """Return row-stochastic weights (n, n) by the similarity of boxes that do not overlap.

    Paper: HTD, overview figure (PGraph, global semantic interaction),
    https://doi.org/10.1109/TIP.2021.3126423. As in the published implementation a masked pair has logit 0,
    not minus infinity, so it keeps the weight of exp(0). The products reach the size where half precision
    would turn the softmax into a maximum: computed in float32.

    Args:
        mask: M (n, n), 1 for pairs left out.
        semantics: (n, D).
    """
    with torch.autocast(device_type=semantics.device.type, enabled=False):
        semantics = full_precision(semantics)
        return ((1 - mask) * (semantics @ semantics.T)).softmax(dim=1)


def class_semantics(embedding: Tensor, classifier: nn.Linear) -> Tensor:
    """Return (R, D + 1): the mean class prototype of each RoI under a classifier's softmax.

    Prototypes are the rows [weight | bias] of the classifier, taken as constants; the scores that
    mix them do send gradient into the classifier, as in the published implementation. Computed in
    at least float32, also under autocast: products of two such vectors are the logits of a softmax.
    """
    weight, bias = classifier.weight, classifier.bias
    with torch.autocast(device_type=embedding.device.type, enabled=False):
        scores = F.linear(embedding.to(weight.dtype), weight, bias).softmax(dim=1)
        return scores @ torch.cat([weight, bias[:, None]], dim=1).detach()


class NoGraph(nn.Module):
    """Stands for the graph where there is none: zeros."""

    def forward(self, embedding: Tensor, rois: RoIs, classifier: nn.Linear) -> Tensor:
        """Return zeros (R, D)."""
        return torch.zeros_like(embedding)


class ProposalGraph(nn.Module):
    """Graph reasoning among the RoIs of one image and one pyramid level.

    Paper: HTD, overview figure (PGraph), https://doi.org/10.1109/TIP.2021.3126423. Features are averaged over
    overlapping RoIs first, then mixed by semantic similarity among those that do not overlap, then
    transformed by the level's own layer.

    Args:
        dim: D.
        num_levels: L.
    """

    def __init__(self, *, dim: int = 1024, num_levels: int = 4):
        super().__init__()
        self.transforms = nn.ModuleList(nn.Linear(dim, dim) for _ in range(num_levels))
        for layer in self.transforms:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, embedding: Tensor, rois: RoIs, classifier: nn.Linear) -> Tensor:
        """Return (R, D), not negative.

        Every level's layer is applied, to no rows if need be, so that all of them have a gradient.

        Args:
            embedding: (R, D).
            rois: the R RoIs; they are grouped by image and level.
            classifier: gives the semantics, see :func:`class_semantics`.
        """
        semantics = class_semantics(embedding, classifier)
        num_levels = len(self.transforms)
        key = rois.image_index * num_levels + rois.levels
        order = key.argsort(stable=True)
        keys, counts = key[order].unique_consecutive(return_counts=True)
        groups: list[list[Tensor]] = [[] for _ in range(num_levels)]
        for value, rows in zip(keys.tolist(), order.split(counts.tolist()), strict=True):
            groups[value % num_levels].append(rows)

        transformed: list[Tensor] = []
        for transform, level_groups in zip(self.transforms, groups, strict=True):
            mixed = [self.mix(rois.boxes[g], embedding[g], semantics[g]) for g in level_groups]
            transformed.append(F.relu(transform(torch.cat(mixed) if mixed else embedding[:0])))
        out = torch.cat(transformed)
        rows = [g for level_groups in groups for g in level_groups]
        return torch.zeros_like(out).index_copy(0, torch.cat(rows) if rows else order, out)

    @staticmethod
    def mix(boxes: Tensor, embedding: Tensor, semantics: Tensor) -> Tensor:
        """Return what the layer of a level is given, (n, D), for the n RoIs of one image and that level.

        Args:
            boxes: (n, 4).
            embedding: (n, D); the result is linear in it.
            semantics: (n, D + 1), see :func:`class_semantics`.
        """
        mask = overlap_mask(boxes)
        near = spatial_aggregation(mask.to(embedding.dtype), embedding)
        return semantic_attention(mask, semantics).to(near.dtype) @ near
