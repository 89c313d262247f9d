"""HTD's forward pass: the image vector, and the two branches of the second stage's head.

Symbols: N images, R RoIs, P of them that are regressed, K foreground classes, L pyramid levels, C channels, S
side of the pooled map, D width of an embedding, B box coordinates per RoI (see
:mod:`htd.modeling.cascade.heads`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htd.modeling.cascade import (
    ClassificationOutput,
    FCStack,
    GroundTruth,
    RoIContext,
    RoIs,
    box_predictor,
    init_predictor,
)
from htd.modeling.htd.border_aware import ConvTower

# RoIs in one pass of the regression at inference. It bounds the memory, whatever the number of RoIs, and on a
# CPU 64 at a time are a little faster than more.
ROIS_AT_ONCE = 64


class SemanticAggregation(nn.Module):
    """SFA: convolutions on a coarse map, average pooling, and multi-label classification of the image.

    Paper: HTD, overview figure (semantic feature aggregation), https://doi.org/10.1109/TIP.2021.3126423. The
    published implementation has K + 1 outputs; the one of the background is a negative in every image.

    Args:
        in_feature: name of the map.
        num_classes: K.
        channels: C of the map and of the vector.
        num_convs: 3x3 convolutions with ReLU.
        loss_weight: factor of the loss.
    """

    def __init__(
        self,
        *,
        in_feature: str,
        num_classes: int,
        channels: int = 256,
        num_convs: int = 4,
        loss_weight: float = 3.0,
    ):
        super().__init__()
        self.in_feature = in_feature
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_convs))
        self.fc = nn.Linear(channels, num_classes + 1)
        for conv in self.convs:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(
        self, features: Mapping[str, Tensor], truth: GroundTruth | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the image vectors (N, C), with their gradient, and the losses.

        Args:
            features: maps (N, C, H, W) by name.
            truth: its N ``instances`` have ``gt_classes``; None when there is nothing to learn from.

        Returns:
            ``loss_global`` is the mean binary cross-entropy over N * (K + 1) labels; an image
            without objects has no positive label. No losses without truth.
        """
        x = features[self.in_feature]
        for conv in self.convs:
            x = F.relu(conv(x))
        vector = x.mean(dim=(2, 3))
        if truth is None:
            return vector, {}
        logits = self.fc(vector).float()
        labels = torch.zeros_like(logits)
        for image_labels, target in zip(labels, truth.instances, strict=True):
            image_labels[target.gt_classes] = 1
        return vector, {"loss_global": self.loss_weight * F.binary_cross_entropy_with_logits(logits, labels)}


class DecoupledHead(nn.Module):
    """The heterogeneous head: classification and regression by two parts that share nothing.

    Paper: HTD, overview figure, https://doi.org/10.1109/TIP.2021.3126423.

    Args:
        classification: such as :class:`GraphClassification`.
        regression: such as :class:`BorderAwareRegression`.
    """

    reads_classifier = True

    def __init__(self, *, classification: nn.Module, regression: nn.Module):
        super().__init__()
        self.classification = classification
        self.regression = regression

    def classify(self, context: RoIContext, rois: RoIs, classifier: nn.Linear | None) -> ClassificationOutput:
        """Classify R RoIs; ``classifier`` is that of the stage before."""
        return self.classification(context, rois, classifier)

    def regress(self, context: RoIContext, rois: RoIs, output: ClassificationOutput, rows: Tensor) -> Tensor:
        """Return deltas (P, B) of the RoIs of ``rows`` (P,) alone."""
        return self.regression(context, rois[rows])


class GraphClassification(nn.Module):
    """The classification branch of HTD's second stage: two fully connected layers and the graph.

    Paper: HTD, overview figure (classification), https://doi.org/10.1109/TIP.2021.3126423. In the published
    implementation the image vector is added to the RoI's features and passed through the same
    layers a second time; the graph sees the features without it.

    Args:
        features: gives RoI features (R, C, S, S) without the image vector.
        graph: :class:`ProposalGraph` or :class:`NoGraph`.
        num_classes: K.
        channels, resolution, fc_dims: C, S, widths of the layers; the last is D.
    """

    def __init__(
        self,
        *,
        features: nn.Module,
        graph: nn.Module,
        num_classes: int,
        channels: int = 256,
        resolution: int = 7,
        fc_dims: Sequence[int] = (1024, 1024),
    ):
        super().__init__()
        self.features = features
        self.graph = graph
        self.fcs = FCStack(channels=channels, resolution=resolution, dims=fc_dims)
        self.cls_score = init_predictor(nn.Linear(self.fcs.out_features, num_classes + 1), std=0.01)

    def forward(self, context: RoIContext, rois: RoIs, classifier: nn.Linear) -> ClassificationOutput:
        """Classify R RoIs; the weights of ``classifier``, of the stage before, are the class prototypes."""
        x = self.features(context, rois)
        embedding, embedding_of_sum = self.fcs.forward_with_vector(x, context.image_vectors(rois))
        features = embedding_of_sum + self.graph(embedding, rois, classifier)
        return ClassificationOutput(self.cls_score(features), self.cls_score, features, rois.boxes)


class BorderAwareRegression(nn.Module):
    """The regression branch of HTD's second stage: border-aware features and a tower of convolutions.

    Paper: HTD, overview figure (regression), https://doi.org/10.1109/TIP.2021.3126423. The published
    implementation adds the image vector and the border-aware features to the single-level features of the
    RoI, which are those of one of the levels and so need not be pooled again.

    Args:
        pooler: gives the RoIs' features on every level (L, R, C, S, S).
        features: :class:`BorderAwareFeatures`.
        fusion: joins them with the single-level features.
        tower: :class:`ConvTower`.
        num_classes: K.
        class_agnostic: one box per RoI (B = 4) instead of one per class (B = 4K).
    """

    def __init__(
        self,
        *,
        pooler: nn.Module,
        features: nn.Module,
        fusion,
        tower: ConvTower,
        num_classes: int,
        class_agnostic: bool = True,
    ):
        super().__init__()
        self.pooler = pooler
        self.features = features
        self.fusion = fusion
        self.tower = tower
        self.bbox_pred = box_predictor(tower.out_channels, num_classes, class_agnostic)

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return deltas (R, B)."""
        every = torch.arange(len(rois.boxes), device=rois.boxes.device)
        num_parts = 1 if torch.is_grad_enabled() else math.ceil(len(every) / ROIS_AT_ONCE)
        deltas = []
        for rows in every.chunk(max(num_parts, 1)):
            part = rois[rows]
            levels = self.pooler(context, part)
            single = levels[part.levels, every[: len(rows)]]
            single = single + context.image_vectors(part)[:, :, None, None]
            fused = self.fusion(single, self.features(levels))
            deltas.append(self.bbox_pred(self.tower(fused).mean(dim=(2, 3))))
        return torch.cat(deltas)


class FCRegression(nn.Module):
    """Regression by fully connected layers of its own: the branch without border-aware features (ablation).

    Args:
        features: pools RoI features (R, C, S, S).
        num_classes: K.
        channels, resolution, fc_dims: C, S and the widths of the layers.
        class_agnostic: one box per RoI (B = 4) instead of one per class (B = 4K).
    """

    def __init__(
        self,
        *,
        features: nn.Module,
        num_classes: int,
        channels: int = 256,
        resolution: int = 7,
        fc_dims: Sequence[int] = (1024, 1024),
        class_agnostic: bool = True,
    ):
        super().__init__()
        self.features = features
        self.fcs = FCStack(channels=channels, resolution=resolution, dims=fc_dims)
        self.bbox_pred = box_predictor(self.fcs.out_features, num_classes, class_agnostic)

    def forward(self, context: RoIContext, rois: RoIs) -> Tensor:
        """Return deltas (R, B)."""
        return self.bbox_pred(self.fcs(self.features(context, rois)))
