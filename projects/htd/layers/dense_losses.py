"""Losses of dense detectors for each prior: focal, quality focal and distribution focal loss.

Nearly all of the work is that of background: 22 thousand priors an image times 80 classes. One function
serves it for both focal losses; it keeps nothing for the backward pass but the logits, and a one-hot target
is never built. (fvcore's ``sigmoid_focal_loss`` needs one, keeps several more tensors of that size, has no
float64, and takes p as 1 - (1 - p), which rounds for small p.)

Symbols: "..." any leading shape; K classes. A class outside [0, K), K or a negative one, is background.
All losses are computed in at least float32, also under autocast, and reduced over classes or bins only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from htd.layers.sampling import full_precision

# Distances stay this far below the last bin, so that a bin to the right always exists.
_BELOW_LAST_BIN = 0.1


def focal_loss(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each prior, summed over its classes.

    Paper: Focal Loss for Dense Object Detection, equation 5.

    Args:
        logits (Tensor): (..., K).
        classes (Tensor): (...) int64.
        alpha (float): weight of an object's own class; all else weighs 1 - alpha.
        gamma (float): exponent of the modulating factor; 0, or at least 1.

    Returns:
        Tensor (...).
    """
    with torch.autocast(logits.device.type, enabled=False):
        own, is_object = _own_class(logits, classes)
        x = full_precision(logits.gather(-1, own)).squeeze(-1)
        positive = alpha * F.softplus(-x) * torch.sigmoid(-x) ** gamma
        negative = (1 - alpha) * _NegativeLoss.apply(logits, own, is_object, gamma)
        return negative + torch.where(is_object, positive, 0)


def quality_focal_loss(logits: Tensor, classes: Tensor, quality: Tensor, beta: float = 2.0) -> Tensor:
    """Return the quality focal loss of each prior, summed over its classes.

    For each class BCE(sigmoid(x), y) |y - sigmoid(x)|^beta, where y is the quality at the class of an object
    and 0 elsewhere. The factor is differentiated too. Paper: Generalized Focal Loss, equation 2.
    Implementations on probabilities clamp each logarithm at -100; logits need no clamp.

    Args:
        logits (Tensor): (..., K).
        classes (Tensor): (...) int64.
        quality (Tensor): (...) in [0, 1], constants; anything at background.
        beta (float): exponent; 0, or at least 1.

    Returns:
        Tensor (...).
    """
    with torch.autocast(logits.device.type, enabled=False):
        own, is_object = _own_class(logits, classes)
        x = full_precision(logits.gather(-1, own)).squeeze(-1)
        # Background has no quality, so that even a NaN there cannot reach the gradients.
        quality = torch.where(is_object, quality.detach().to(x.dtype), 0)
        distance = (quality - torch.sigmoid(x)).abs()
        positive = F.binary_cross_entropy_with_logits(x, quality, reduction="none") * distance**beta
        return _NegativeLoss.apply(logits, own, is_object, beta) + torch.where(is_object, positive, 0)


def distribution_focal_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Return the cross-entropy with the two bins around a distance, weighted by how near each is.

    Paper: Generalized Focal Loss, equation 6.

    Args:
        logits (Tensor): (..., bins) over the distances 0, 1, ..., bins - 1.
        distance (Tensor): (...) in the unit of the bins; clamped to [0, bins - 1 - 0.1].

    Returns:
        Tensor (...).
    """
    with torch.autocast(logits.device.type, enabled=False):
        last = logits.shape[-1] - 1
        log_probability = full_precision(logits).log_softmax(dim=-1)
        distance = distance.detach().to(log_probability.dtype).clamp(0, last - _BELOW_LAST_BIN)
        left = distance.long().clamp(0, last - 1)  # a distance that is NaN must not index
        above = distance - left
        pair = log_probability.gather(-1, torch.stack([left, left + 1], dim=-1))
        return -(pair[..., 0] * (1 - above) + pair[..., 1] * above)


def expected_value(logits: Tensor) -> Tensor:
    """Return the mean of the distribution over 0, 1, ..., bins - 1 with logits (..., bins), as (...)."""
    with torch.autocast(logits.device.type, enabled=False):
        probability = full_precision(logits).softmax(dim=-1)
        bins = torch.arange(logits.shape[-1], device=logits.device, dtype=probability.dtype)
        # Not a matrix product, for which a GPU may be set to round its factors.
        return (probability * bins).sum(dim=-1)


def _own_class(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return a class number in [0, K) for each prior (..., 1), and (...) whether it is that of an object."""
    is_object = (classes >= 0) & (classes < logits.shape[-1])
    return torch.where(is_object, classes, 0).unsqueeze(-1), is_object


class _NegativeLoss(Function):
    """Sum of softplus(x) sigmoid(x)^gamma over all classes but the own class of an object.

    Inputs: logits (..., K), own class (..., 1), whether that counts (...), gamma. Output: (...).
    """

    @staticmethod
    def forward(ctx, logits, own, is_object, gamma):
        ctx.save_for_backward(logits, own, is_object)
        ctx.gamma = gamma
        x = full_precision(logits)
        each = torch.sigmoid(x).pow_(gamma).mul_(F.softplus(x))
        return _without_own_(each, own, is_object).sum(dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, own, is_object = ctx.saved_tensors
        x = full_precision(logits)
        probability = torch.sigmoid(x)
        # sigmoid' = sigmoid (1 - sigmoid) and softplus' = sigmoid.
        slope = F.softplus(x).mul_(ctx.gamma).mul_(1 - probability).add_(probability)
        slope.mul_(probability.pow_(ctx.gamma)).mul_(grad.unsqueeze(-1))
        return _without_own_(slope, own, is_object).to(logits.dtype), None, None, None


def _without_own_(each: Tensor, own: Tensor, is_object: Tensor) -> Tensor:
    """Set the values (..., K) of objects at their own class to 0, in place."""
    kept = each.gather(-1, own).masked_fill_(is_object.unsqueeze(-1), 0)
    return each.scatter_(-1, own, kept)
