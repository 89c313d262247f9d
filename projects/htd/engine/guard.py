"""Stops a training whose loss is not finite, with the name of what made it so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.utils import comm
from torch import nn

from htd.errors import UserError
from htd.files import write_file


class NonFiniteLossError(UserError, FloatingPointError):
    """A loss became infinite or not a number; one line says when, which, and for which images."""


def refuse_non_finite(
    *,
    iteration: int,
    losses: dict[str, float],
    batch: Sequence[dict],
    rates: Sequence[float],
    forward: Callable[[], object],
    model: nn.Module,
    output_dir: str,
) -> None:
    """Write down what led to a non-finite loss and raise; every rank has to call it in the same step.

    Args:
        iteration: the iteration that failed.
        losses: this rank's values of each loss (and of the gradients' norm, where it is computed).
        batch: this rank's images.
        rates: learning rates of the parameter groups.
        forward: repeats the forward pass on ``batch``; used to find the first module with a non-finite
            output.
        model: the model, not wrapped for several processes.
        output_dir: where ``nonfinite_<iteration>.json`` is written.

    Raises:
        NonFiniteLossError: always.
    """
    mine = {
        "rank": comm.get_rank(),
        "losses": losses,
        "non_finite": [name for name, value in losses.items() if not math.isfinite(value)],
        "first_non_finite_module": first_non_finite_module(model, forward),
        "images": [describe_image(image) for image in batch],
    }
    reports = comm.all_gather(mine)
    file = Path(output_dir) / f"nonfinite_{iteration:07d}.json"
    if comm.is_main_process():
        record = {"iteration": iteration, "learning_rates": sorted(set(rates)), "ranks": reports}
        write_file(file, json.dumps(record, indent=1))
    guilty = [report for report in reports if report["non_finite"]] or reports
    terms = sorted({name for report in guilty for name in report["non_finite"]})
    images = [_short(image) for report in guilty for image in report["images"]]
    modules = sorted({report["first_non_finite_module"] for report in guilty} - {""})
    raise NonFiniteLossError(
        f"{', '.join(terms) or 'a value'} not finite at iteration {iteration}, "
        f"images {', '.join(images[:8])}{' ...' if len(images) > 8 else ''}, "
        f"learning rate {max(rates):g}, "
        f"first non-finite output: {', '.join(modules) or 'none of a module, the loss itself'}; "
        f"batch described in {file}; check these images' annotations, lower optimizer.lr or "
        "set train.clip_grad_norm"
    )


def describe_image(image: dict) -> dict[str, Any]:
    """Return what identifies one input of the model, and its boxes' extreme sizes, for a person to read."""
    wanted = ("file_name", "image_id", "height", "width")
    described: dict[str, Any] = {key: image[key] for key in wanted if key in image}
    if isinstance(image.get("image"), torch.Tensor):
        pixels = image["image"].float()
        described["input_shape"] = list(pixels.shape)
        described["input_finite"] = bool(torch.isfinite(pixels).all())
    if "instances" in image and image["instances"].has("gt_boxes"):
        boxes = image["instances"].gt_boxes.tensor
        described["num_boxes"] = len(boxes)
        described["boxes_finite"] = bool(torch.isfinite(boxes).all())
        if len(boxes):
            sides = torch.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
            described["smallest_side"] = float(sides.min())
    return described


def first_non_finite_module(model: nn.Module, forward: Callable[[], object]) -> str:
    """Run ``forward``; return the name of the first module with a non-finite output, or "" for none."""
    found: list[str] = []
    hooks = [
        module.register_forward_hook(partial(_note, found, name))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            forward()
    except FloatingPointError:
        pass  # Detectron2's proposals refuse non-finite input; the module before them has been noted
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ""


def _note(found: list[str], name: str, module: nn.Module, inputs: object, output: object) -> None:
    if not found and not _finite(output):
        found.append(name)


def _finite(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    return True


def _short(image: dict[str, Any]) -> str:
    name = Path(str(image.get("file_name", "?"))).name
    return f"{name} (id {image['image_id']})" if "image_id" in image else name
