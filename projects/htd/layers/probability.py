"""Products and roots of probabilities, taken from logits to logits in log space.

A score that is made of several probabilities, p = (p_1 ... p_n)^(1 / root), is wanted as a logit
z = log p - log(1 - p): then the losses on logits serve it, and no probability rounds to 0 or 1 on the way.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from htd.layers.sampling import full_precision

# No logit that is returned is much larger. 1 - p is 2e-35 there, so float32 still holds it, and its inverse.
_LARGEST_LOGIT = 80.0


def product_logits(*logits: Tensor, root: float = 1.0) -> Tensor:
    """Return the logit of the product of the probabilities of logits, or of a root of the product.

    Two logits and root 2 give the geometric mean by which a task-aligned head scores, three and root 3 that
    of three; root 1 multiplies. Paper: TOOD, section 3.1.

    With p the result's probability the gradient is

        dz / dl_i = dz / d log p * d log p / dl_i = 1 / (1 - p) * (1 - sigmoid(l_i)) / root.

    It lies in [0, 1] for every root >= 1: p <= sigmoid(l_i)^(1 / root) <= 1 - (1 - sigmoid(l_i)) / root, by
    Bernoulli's inequality. The quotient is formed here as a whole, so that no factor of it overflows;
    differentiating the root of a product that underflows would give 0 * inf.

    Args:
        logits (Tensor): shapes that broadcast to (...).
        root (float): at least 1.

    Returns:
        Tensor (...) in at least float32. Logits above 80 count as 80, in value and gradient.
    """
    with torch.autocast(logits[0].device.type, enabled=False):
        return _ProductLogits.apply(root, *logits)


def _logit(log_probability: Tensor) -> Tensor:
    """Return log p - log(1 - p) for log p < 0 without loss of digits near 0 or 1."""
    return torch.expm1(log_probability).neg_().log_().neg_().add_(log_probability)


class _ProductLogits(Function):
    """See `product_logits`; only the logits are kept, and what the gradient needs is computed again."""

    @staticmethod
    def forward(ctx, root, *logits):
        ctx.root = root
        ctx.save_for_backward(*logits)
        return _logit(_log_of_root(logits, root))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits = ctx.saved_tensors
        missing = torch.expm1(_log_of_root(logits, ctx.root)).mul_(-ctx.root)  # root * (1 - p)
        grads = []
        for x, wanted in zip(logits, ctx.needs_input_grad[1:], strict=True):
            slope = torch.sigmoid(-_bounded(x)) / missing if wanted else None
            grads.append(slope.mul_(grad).sum_to_size(x.shape).to(x.dtype) if wanted else None)
        return None, *grads


def _bounded(logits: Tensor) -> Tensor:
    return full_precision(logits).clamp(max=_LARGEST_LOGIT)


def _log_of_root(logits: tuple[Tensor, ...], root: float) -> Tensor:
    return reduce(torch.add, [F.logsigmoid(_bounded(x)) for x in logits]).div_(root)
