"""What an assigner says about the priors of one image.

Symbols: P priors, G objects of the image, K classes. Boxes are XYXY in pixels of the resized input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from htd.modeling.dense.priors import Priors

BACKGROUND = -1
UNUSED = -2


@dataclass(frozen=True)
class Assignment:
    """Which object each prior is to find.

    Attributes:
        gt_index: (P,) int64, the object in [0, G); ``BACKGROUND``; or ``UNUSED`` for priors that take no part
            in the classification loss.
        metric: (P,) float32, how well a prior suits its object, which the losses may read; 1 for all priors
            with an object where the assigner does not grade them, and 0 for all others.
    """

    gt_index: Tensor
    metric: Tensor

    @classmethod
    def ungraded(cls, gt_index: Tensor, valid: Tensor) -> Assignment:
        """Return an assignment without grades.

        Args:
            gt_index: (P,), as above.
            valid: (P,) bool, which priors may take part; the others become ``UNUSED``.
        """
        gt_index = torch.where(valid, gt_index, UNUSED)
        return cls(gt_index, (gt_index >= 0).float())


@dataclass(frozen=True)
class Predicted:
    """What a model predicts at the priors of one image, without gradients.

    Attributes:
        scores: (P, K), probabilities.
        boxes: (P, 4).
    """

    scores: Tensor
    boxes: Tensor


class Assigner:
    """Assigns the objects of one image to priors; called as below, stateless.

    Inputs in half precision are computed with in float32, also under autocast. Nothing waits for the device:
    what is found are masks over all priors, or over a fixed number of priors for each object. Objects are
    taken a few at a time, ``pairs_at_once`` pairs of prior and object: 2000 objects in an image of 800 x 1333
    pixels take less than 400 MB.

    Attributes:
        reads_predictions: whether a call needs what the model predicts.
    """

    reads_predictions = False

    def __call__(
        self,
        priors: Priors,
        valid: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        predicted: Predicted | None = None,
    ) -> Assignment:
        """Assign.

        Args:
            priors: of the batch, in any order of levels.
            valid: (P,) bool, which priors may take part; others get ``UNUSED``.
            gt_boxes: (G, 4).
            gt_classes: (G,) int64 in [0, K).
            predicted: at the priors; given where ``reads_predictions``.

        Note: without objects all valid priors are background.
        """
        raise NotImplementedError
