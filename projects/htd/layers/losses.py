"""Classification losses of RoIs: softmax cross-entropy and its truncated form.

Symbols: R RoIs; K foreground classes; class K, the last one, is background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class SoftmaxCrossEntropy:
    """Cross-entropy in which every RoI counts the same."""

    def __call__(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the sum over the RoIs.

        Args:
            logits (Tensor): (R, K + 1).
            classes (Tensor): (R,) int64 in [0, K].

        Returns:
            Scalar float32; 0, connected to the logits, without RoIs.
        """
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return F.cross_entropy(logits.float(), classes, reduction="sum")


class TruncatedCrossEntropy:
    """Cross-entropy that trusts little those background RoIs that look like an object.

    Many objects of OpenImages are not annotated, so a background RoI with a high foreground
    probability may well be right. The weights are constants: no gradient flows through them.
    Part of TSD's published implementation, unused by its released models, not described in the paper.

    Args:
        threshold (float): foreground probability, in [0, 1], above which a background RoI is doubted.
        decay (float): weight of a doubted RoI; all others weigh 1.
    """

    def __init__(self, *, threshold: float = 0.5, decay: float = 0.1):
        self.threshold = threshold
        self.decay = decay

    def __call__(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Return the weighted sum over the RoIs; arguments as in :class:`SoftmaxCrossEntropy`."""
        with torch.autocast(device_type=logits.device.type, enabled=False):
            logits = logits.float()
            foreground = logits.detach().softmax(dim=1)[:, :-1]
            doubted = (classes == logits.shape[1] - 1) & (foreground > self.threshold).any(dim=1)
            each = F.cross_entropy(logits, classes, reduction="none")
            return (torch.where(doubted, self.decay, 1.0) * each).sum()
