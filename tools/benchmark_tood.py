"""T-Head's operators on the finest level of an image of 800x1333, and TOOD beside ATSS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from benchmark_measure import Comparison, compare
from benchmark_models import Candidate, Settings, beside_the_first, from_config
from benchmark_tables import Table
from htd.layers import sample_coordinates
from htd.modeling.tood.head import conv1x1_of_layers

FINEST, LAYERS, CHANNELS = (100, 168), 6, 256
_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_ATSS, _TOOD = (str(_CONFIGS / f"{name}_r50_fpn_1x.py") for name in ("baselines/atss", "tood/tood"))


def sampled_boxes(repeat: int, device: torch.device) -> list[Comparison]:
    """Boxes read side by side at offsets; the reference is torchvision's deformable convolution."""
    boxes = (100 * torch.rand(1, 4, *FINEST, device=device)).requires_grad_()
    offsets = torch.randn(1, 8, *FINEST, device=device).requires_grad_()
    ones = torch.ones(4, 1, 1, 1, device=device)
    functions = [partial(deform_conv2d, weight=ones), sample_coordinates]
    return _both_phases("100x168 cells", functions, [boxes, offsets], repeat, device)


def decomposition(repeat: int, device: torch.device) -> list[Comparison]:
    """What one task takes from six layers; the reference scales the joined layers, then convolves."""
    layers = [torch.randn(1, CHANNELS, *FINEST, device=device).requires_grad_() for _ in range(LAYERS)]
    weights = torch.rand(1, LAYERS, device=device).requires_grad_()
    kernel = torch.randn(CHANNELS, LAYERS * CHANNELS, 1, 1, device=device).requires_grad_()
    return _both_phases("100x168 cells", [_scaled, _folded], [weights, kernel, *layers], repeat, device)


def _scaled(weights: Tensor, kernel: Tensor, *layers: Tensor) -> Tensor:
    each = weights.repeat_interleave(CHANNELS, dim=1)[..., None, None]
    return F.conv2d(torch.cat(layers, dim=1) * each, kernel)


def _folded(weights: Tensor, kernel: Tensor, *layers: Tensor) -> Tensor:
    return conv1x1_of_layers(layers, kernel.flatten(1) * weights.repeat_interleave(CHANNELS, dim=1)[:, None])


def _both_phases(
    case: str, functions: Sequence[Callable], inputs: list[Tensor], repeat: int, device: torch.device
) -> list[Comparison]:
    rows = []
    for phase, training in (("forward", False), ("forward + backward", True)):
        runs = [partial(_run, function, inputs, training) for function in functions]
        rows.append(compare(f"{case}, {phase}", *runs, repeat, device))
    return rows


def _run(function: Callable, inputs: list[Tensor], training: bool) -> None:
    with torch.set_grad_enabled(training):
        out = function(*inputs)
        if training:
            torch.autograd.grad(out, inputs, out.detach())


def _beside_atss(
    figures: tuple[str, str], switches: Sequence[int], settings: Settings, overrides: Sequence[str]
) -> Table:
    """TOOD and ATSS, which have the same backbone, pyramid, priors and, in TOOD's initial phase, assigner."""
    given = tuple(overrides)
    candidates = [Candidate("ATSS", partial(from_config, _ATSS, given))]
    for switch in switches:
        phase = "" if len(switches) == 1 else ", aligned phase" if switch == 0 else ", initial phase"
        chosen = (*given, f"model.criterion.switch_iter={switch}")
        candidates.append(Candidate(f"TOOD{phase}", partial(from_config, _TOOD, chosen)))
    return beside_the_first(candidates, figures, settings, group=len(candidates))


# name on the command line -> function(settings, overrides) -> table
MODEL_COMPONENTS: dict[str, Callable[[Settings, Sequence[str]], Table]] = {
    "tood_inference": partial(_beside_atss, ("inference_bytes", "inference_seconds"), (0,)),
    "tood_training": partial(_beside_atss, ("training_bytes", "training_seconds"), (1, 0)),
}
