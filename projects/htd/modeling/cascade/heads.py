"""Heads that a stage of a cascade is built from.

A head answers two questions apart, so that the second is asked only where its answer is needed:

* ``classify(context, rois, previous) -> Classified`` for all RoIs, ``previous`` being the answer
  of the stage before (None at the first stage);
* ``regress(context, rois, classified, rows) -> deltas`` for the RoIs named by ``rows``.

Symbols: R RoIs, P rows that are regressed, K foreground classes, C channels, S side of the pooled
map, B box coordinates: 4 (class-agnostic), 4K, or 4K + 4 where the background has a box, too. "logits" are
(R, K + 1), background last; "deltas" are (P, B) as in Detectron2's ``Box2BoxTransform``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from htd.errors import UserError
from htd.modeling.cascade.rois import RoIContext, RoIs


@dataclass(frozen=True)
class Classified:
    """What a head knows after classification.

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
    """Return B: 4 for one box a RoI, or 4 for each class, the background being one of them or not.

    Raises:
        UserError: a box for the background, but none for each class.
    """
    if class_agnostic and background_box:
        raise UserError("background_box=True needs a box for each class; set class_agnostic=False")
    return 4 if class_agnostic else 4 * (num_classes + background_box)


def box_predictor(
    in_features: int, num_classes: int, class_agnostic: bool, background_box: bool = False
) -> nn.Linear:
    """Return the layer that gives the B box coordinates, see :func:`box_dim`."""
    size = box_dim(num_classes, class_agnostic, background_box)
    return init_predictor(nn.Linear(in_features, size), std=0.001)


def flat_features(x: Tensor, size: int) -> Tensor:
    """Flatten RoI features (R, C, S, S) to (R, ``size``).

    Raises:
        UserError: they are of another size.
    """
    flat = x.flatten(1)
    if flat.shape[1] != size:
        raise UserError(
            f"a head pools RoI features of {tuple(x.shape[1:])}, but its layers are for {size} numbers: let "
            "its channels and resolution agree with its poolers' output_size"
        )
    return flat


class FCStack(nn.ModuleList):
    """Fully connected layers with ReLU on flattened (C, S, S) maps.

    Args:
        channels: C.
        resolution: S.
        dims: width of each layer.
        init: draws the weights of a layer in place; biases start at zero.

    Raises:
        UserError: there is no layer.
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
            raise UserError("fc_dims of a head is empty; give the width of one layer at least")
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
        """Map (R, C, S, S), or the same flattened, to (R, D).

        Raises:
            UserError: the features are of another size than the layers are for.
        """
        return self._after_first(self[0](flat_features(x, self[0].in_features)))

    def forward_with_vector(self, x: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs (R, D) for x (R, C, S, S) and for x + vector (R, C) in every cell.

        The first layer is linear and the vector the same in all cells, so one large product
        serves both: W(x + v) = Wx + (W summed over the cells) v.
        """
        first = self[0](flat_features(x, self[0].in_features))
        over_cells = self[0].weight.view(self[0].out_features, x.shape[1], -1).sum(dim=2)
        return self._after_first(first), self._after_first(first + F.linear(vector, over_cells))

    def _after_first(self, first: Tensor) -> Tensor:
        x = F.relu(first)
        for layer in list(self)[1:]:
            x = F.relu(layer(x))
        return x


class SharedFCHead(nn.Module):
    """Fully connected layers that both tasks share (Feature Pyramid Networks, section 4.2).

    Args:
        features: gives RoI features (R, C, S, S), see :mod:`htd.modeling.cascade.pooling`.
        num_classes: K.
        channels, resolution, fc_dims: C, S and the widths of the layers.
        class_agnostic: one box a RoI (B = 4) instead of one a class.
        background_box: the background is a class with a box, too (B = 4K + 4).
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
        background_box: bool = False,
    ):
        super().__init__()
        self.features = features
        self.fcs = FCStack(channels=channels, resolution=resolution, dims=fc_dims)
        self.cls_score = init_predictor(nn.Linear(self.fcs.out_features, num_classes + 1), std=0.01)
        self.bbox_pred = box_predictor(self.fcs.out_features, num_classes, class_agnostic, background_box)

    def classify(self, context: RoIContext, rois: RoIs, previous: Classified | None) -> Classified:
        """Return the logits of R RoIs; ``previous`` is not read."""
        hidden = self.fcs(self.features(context, rois))
        return Classified(self.cls_score(hidden), self.cls_score, hidden, rois.boxes)

    def regress(self, context: RoIContext, rois: RoIs, classified: Classified, rows: Tensor) -> Tensor:
        """Return deltas (P, B) from the features of the classification."""
        return self.bbox_pred(classified.features[rows])


class FCRegression(nn.Module):
    """Regression by fully connected layers of its own.

    Args:
        features, num_classes, channels, resolution, fc_dims, class_agnostic: as in :class:`SharedFCHead`.
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


class DecoupledHead(nn.Module):
    """Classification and regression by two parts that share nothing.

    Args:
        classification: called with (context, rois, previous), returns :class:`Classified`.
        regression: called with (context, rois), returns deltas.
    """

    def __init__(self, *, classification: nn.Module, regression: nn.Module):
        super().__init__()
        self.classification = classification
        self.regression = regression

    def classify(self, context: RoIContext, rois: RoIs, previous: Classified | None) -> Classified:
        """Ask the classification part."""
        return self.classification(context, rois, previous)

    def regress(self, context: RoIContext, rois: RoIs, classified: Classified, rows: Tensor) -> Tensor:
        """Ask the regression part for the RoIs of ``rows`` alone; returns deltas (P, B)."""
        return self.regression(context, rois[rows])
