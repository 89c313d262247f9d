"""Losses of classes and boxes, and the scores and distances that they act on.

Nearly all of the work of a dense detector's classification loss is on background: 22 thousand priors an image
times 80 classes. Both focal losses share a function for it, which keeps only the logits for the backward pass
and never builds a one-hot target. (fvcore's ``sigmoid_focal_loss`` needs one, keeps several more tensors of
that size, has no float64, and takes p as 1 - (1 - p), which rounds for small p.) Box losses bound the areas
that they divide by from below, as the published detectors do; those of fvcore and torchvision add a small
number instead.

Symbols: R RoIs; "..." any leading shape; K foreground classes. For RoIs, class K, the last one, is
background; for priors any class outside [0, K) is. All losses are computed in at least float32, also under
autocast.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from htd.layers.boxes import intersection_and_union, paired_iou
from htd.layers.sampling import full_precision

# Distances stay this far below the last bin, so that there is always a bin to the right.
_BELOW_LAST_BIN = 0.1
# The largest logit of a product is about this. 1 - p is 2e-35 there: float32 still holds it, and its inverse.
_LARGEST_LOGIT = 80.0


class SoftmaxCrossEntropy:
    """Cross-entropy in which all RoIs have the same weight."""

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
    """Cross-entropy that gives less weight to background RoIs that look like an object.

    Many objects of OpenImages are not annotated, so a background RoI with a high foreground probability may
    well show one. The weights are constants: no gradient flows through them. An option of a published
    implementation, unused by its released models and not described in the paper.

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
            loss = F.cross_entropy(logits, classes, reduction="none")
            return (torch.where(doubted, self.decay, 1.0) * loss).sum()


def focal_loss(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each prior, summed over its classes.

    Paper: Focal Loss for Dense Object Detection, equation 5, https://arxiv.org/abs/1708.02002.

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
    and 0 elsewhere. The factor is differentiated too.

    Paper: Generalized Focal Loss, equation 2, https://arxiv.org/abs/2006.04388.
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
        loss = torch.sigmoid(x).pow_(gamma).mul_(F.softplus(x))
        return _without_own_(loss, own, is_object).sum(dim=-1)

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


def _without_own_(values: Tensor, own: Tensor, is_object: Tensor) -> Tensor:
    """Set the values (..., K) of objects at their own class to 0, in place."""
    kept = values.gather(-1, own).masked_fill_(is_object.unsqueeze(-1), 0)
    return values.scatter_(-1, own, kept)


def distribution_focal_loss(logits: Tensor, distance: Tensor) -> Tensor:
    """Return the cross-entropy with the two bins around a distance, weighted by how near each is.

    Paper: Generalized Focal Loss, equation 6, https://arxiv.org/abs/2006.04388.

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
        left = distance.long().clamp(0, last - 1)  # NaN must not become an index out of range
        above = distance - left
        pair = log_probability.gather(-1, torch.stack([left, left + 1], dim=-1))
        return -(pair[..., 0] * (1 - above) + pair[..., 1] * above)


def expected_value(logits: Tensor) -> Tensor:
    """Return the mean of the distribution over 0, 1, ..., bins - 1 with logits (..., bins), as (...).

    Paper: Generalized Focal Loss, equation 5, https://arxiv.org/abs/2006.04388.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability = full_precision(logits).softmax(dim=-1)
        bins = torch.arange(logits.shape[-1], device=logits.device, dtype=probability.dtype)
        # Not a matrix product, for which a GPU may be set to round its factors.
        return (probability * bins).sum(dim=-1)


def giou_loss(boxes: Tensor, targets: Tensor, eps: float = 1e-6) -> Tensor:
    """Return 1 - GIoU (...) of boxes (..., 4), each with its target (..., 4); in [0, 2].

    Paper: Generalized Intersection over Union, algorithm 1, https://arxiv.org/abs/1902.09630.

    Args:
        boxes, targets (Tensor): XYXY in any unit; boxes that are inside out have signed areas.
        eps (float): lower bound of the union and of the enclosing area, in square units of the boxes.
    """
    with torch.autocast(boxes.device.type, enabled=False):
        intersection, union = intersection_and_union(boxes, targets)
        x1, y1, x2, y2 = full_precision(boxes).unbind(dim=-1)
        u1, v1, u2, v2 = full_precision(targets).unbind(dim=-1)
        width = (torch.maximum(x2, u2) - torch.minimum(x1, u1)).clamp(min=0)
        height = (torch.maximum(y2, v2) - torch.minimum(y1, v1)).clamp(min=0)
        union, enclosure = union.clamp(min=eps), (width * height).clamp(min=eps)
        return 1 - (intersection / union - (enclosure - union) / enclosure)


def iou_loss(boxes: Tensor, targets: Tensor, eps: float = 1e-6) -> Tensor:
    """Return -log max(IoU, eps) (...), which has no gradient for disjoint boxes.

    Paper: UnitBox, equation 2 and section 3.1, https://arxiv.org/abs/1608.01471.
    """
    return -paired_iou(boxes, targets, eps).clamp(min=eps).log()


def product_logits(*logits: Tensor, root: float = 1.0) -> Tensor:
    """Return the logit of the product of the probabilities of logits, or of a root of the product.

    A score made of several probabilities, p = (p_1 ... p_n)^(1 / root), is wanted as a logit z = log p -
    log(1 - p): then the losses on logits serve it, and no probability rounds to 0 or 1 on the way. Two logits
    and root 2 give their geometric mean.

    Paper: TOOD: Task-aligned One-stage Object Detection, section 3.1, https://arxiv.org/abs/2108.07755.

    The gradient is

        dz / dl_i = dz / d log p * d log p / dl_i = 1 / (1 - p) * (1 - sigmoid(l_i)) / root.

    It lies in [0, 1] for every root >= 1: p <= sigmoid(l_i)^(1 / root) <= 1 - (1 - sigmoid(l_i)) / root, by
    Bernoulli's inequality. The quotient is formed as a whole, so that no factor of it overflows;
    differentiating the root of a product that underflows would give 0 * inf.

    Args:
        logits (Tensor): shapes that broadcast to (...).
        root (float): at least 1.

    Returns:
        Tensor (...). Logits above 80 count as 80, in value and gradient.
    """
    with torch.autocast(logits[0].device.type, enabled=False):
        return _ProductLogits.apply(root, *logits)


class _ProductLogits(Function):
    """See `product_logits`; only the logits are kept, and what the gradient needs is computed again."""

    @staticmethod
    def forward(ctx, root, *logits):
        ctx.root = root
        ctx.save_for_backward(*logits)
        log_p = _log_of_root(logits, root)
        # log p - log(1 - p) without loss of digits near 0 or 1.
        return torch.expm1(log_p).neg_().log_().neg_().add_(log_p)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits = ctx.saved_tensors
        missing = torch.expm1(_log_of_root(logits, ctx.root)).mul_(-ctx.root)  # root * (1 - p)
        grads = []
        for x, wanted in zip(logits, ctx.needs_input_grad[1:], strict=True):
            slope = torch.sigmoid(-full_precision(x).clamp(max=_LARGEST_LOGIT)) / missing if wanted else None
            grads.append(slope.mul_(grad).sum_to_size(x.shape).to(x.dtype) if wanted else None)
        return None, *grads


def _log_of_root(logits: tuple[Tensor, ...], root: float) -> Tensor:
    return reduce(
        torch.add, [F.logsigmoid(full_precision(x).clamp(max=_LARGEST_LOGIT)) for x in logits]
    ).div_(root)
