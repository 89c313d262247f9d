"""Heads that a stage of a cascade is built from.

A head answers two questions apart, so that the second is asked only where its answer is needed:

* ``classify(context, rois) -> ClassificationOutput`` for all RoIs; a head that ``reads_classifier`` is also
  given the linear classifier of the stage before (None at the first stage);
* ``regress(context, rois, output, rows) -> deltas`` for the RoIs named by ``rows``.

Symbols: R RoIs, P rows that are regressed, K foreground classes, C channels, S side of the pooled
map, B box coordinates: 4 (class-agnostic), 4K, or 4K + 4 where the background has a box, too. "logits" are
(R, K + 1), background last; "deltas" are (P, B) as in Detectron2's ``Box2BoxTransform``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from htd.modeling.cascade.rois import RoIContext, RoIs


@dataclass(frozen=True)
class ClassificationOutput:
    """Output of the classification branch of a head.

    Attributes:
        logits: (R, K + 1).
        classifier: the linear layer that gave them; its rows serve as prototypes of the classes.
        features: (R, D), the classifier's input.
        boxes: (R, 4), what the deltas of the regression refer to: the RoIs, unless the head has moved them.
    """

    logits: Tensor
    classifier: nn.Linear
    features: Tensor
    boxes: Tensor


def init_predictor(layer: nn.Linear, std: float) -> nn.Linear:
    """Draw the weights from N(0, std) and set the bias to zero."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer


def box_dim(num_classes: int, class_agnostic: bool, background_box: bool = False) -> int:
    """Return B: 4 for one box per RoI, else 4 per class; the background may be one of the classes."""
    if class_agnostic and background_box:
        raise ValueError("background_box=True needs a box for each class; set class_agnostic=False")
    return 4 if class_agnostic else 4 * (num_classes + background_box)


def box_predictor(
    in_features: int, num_classes: int, class_agnostic: bool, background_box: bool = False
) -> nn.Linear:
    """Return the layer that predicts the B deltas, see :func:`box_dim`."""
    size = box_dim(num_classes, class_agnostic, background_box)
    return init_predictor(nn.Linear(in_features, size), std=0.001)


class FCStack(nn.ModuleList):
    """Fully connected layers with ReLU on flattened (C, S, S) maps.

    Args:
        channels: C.
        resolution: S.
        dims: width of each layer.
        init: draws the weights of a layer in place; biases start at zero.
    """

    def __init__(
        self,
        *,
        channels: int,
        resolution: int,
        dims: Sequence[int],
        init: Callable[[Tensor], Tensor] = nn.init.xavier_uniform_,
    ):
        if not len(dims):
            raise ValueError("fc_dims is empty; give the width of at least one layer")
        sizes = [channels * resolution**2, *dims]
        super().__init__(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))
        for layer in self:
            init(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def out_features(self) -> int:
        """Width of the last layer."""
        return self[-1].out_features

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, S, S), or the same flattened, to (R, D)."""
        x = x.flatten(1)
        for layer in self:
            x = F.relu(layer(x))
        return x

    def forward_with_vector(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs (R, D) for x (R, C, S, S) and for x + vector (R, C) in every cell.

        The first layer is linear and the vector the same in all cells, so one large product
        serves both: W(x + v) = Wx + (W summed over the cells) v.
        """
        first = self[0](x.flatten(1))
        over_cells = self[0].weight.view(self[0].out_features, x.shape[1], -1).sum(dim=2)
        outputs = F.relu(first), F.relu(first + F.linear(vector, over_cells))
        for layer in list(self)[1:]:
            outputs = tuple(F.relu(layer(x)) for x in outputs)
        return outputs


class SharedFCHead(nn.Module):
    """Fully connected layers that both tasks share.

    Paper: Feature Pyramid Networks, section 4.2, https://arxiv.org/abs/1612.03144.

    Args:
        features: pools RoI features (R, C, S, S), see :mod:`htd.modeling.cascade.rois`; None for a head
            whose features another head pools.
        num_classes: K.
        channels, resolution, fc_dims: C, S and the widths of the layers.
        class_agnostic: one box per RoI (B = 4) instead of one per class.
        background_box: the background is a class with a box, too (B = 4K + 4).
        init: draws the weights of a shared layer in place.
    """

    reads_classifier = False

    def __init__(
        self,
        *,
        features: nn.Module | None,
        num_classes: int,
        channels: int = 256,
        resolution: int = 7,
        fc_dims: Sequence[int] = (1024, 1024),
        class_agnostic: bool = True,
        background_box: bool = False,
        init: Callable[[Tensor], Tensor] = nn.init.xavier_uniform_,
    ):
        super().__init__()
        self.features = features
        self.fcs = FCStack(channels=channels, resolution=resolution, dims=fc_dims, init=init)
        self.cls_score = init_predictor(nn.Linear(self.fcs.out_features, num_classes + 1), std=0.01)
        self.bbox_pred = box_predictor(self.fcs.out_features, num_classes, class_agnostic, background_box)

    def classify(self, context: RoIContext, rois: RoIs) -> ClassificationOutput:
        """Classify R RoIs."""
        return self.classify_features(self.features(context, rois), rois)

    def classify_features(self, x: Tensor, rois: RoIs) -> ClassificationOutput:
        """Classify R RoIs by their features x, (R, C, S, S) or flattened."""
        hidden = self.fcs(x)
        return ClassificationOutput(self.cls_score(hidden), self.cls_score, hidden, rois.boxes)

    def regress(self, context: RoIContext, rois: RoIs, output: ClassificationOutput, rows: Tensor) -> Tensor:
        """Return deltas (P, B) from the features of the classification."""
        return self.bbox_pred(output.features[rows])
