"""Weights, inputs and comparisons for the reference arrays under ``tests/golden``.

A reference case stores no weights: parameters follow from their published names, their shapes and
a seed, so that the same tensors can be drawn here and taken through the checkpoint converter.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "golden"
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


def arrays(system: str, case: str) -> dict[str, np.ndarray]:
    """Return every array of one reference case."""
    with np.load(DATA / system / f"{case}.npz") as file:
        return {name: file[name] for name in file.files}


def tensors(system: str, case: str) -> dict[str, torch.Tensor]:
    """Return every array of numbers of one reference case as a tensor."""
    numbers = {name: np.asarray(x) for name, x in arrays(system, case).items() if x.dtype.kind != "U"}
    return {name: torch.from_numpy(value) for name, value in numbers.items()}


def manifest(system: str, name: str) -> dict:
    """Return a manifest: parameter names and shapes of one published checkpoint."""
    return json.loads((DATA / system / f"{name}.json").read_text())


def _generator(key: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(key.encode()))


def _parameter(name: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    rng = _generator(f"{seed}:{name}")
    if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
        values = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("running_mean"):
        values = 0.1 * rng.standard_normal(shape)
    elif len(shape) <= 1:
        values = 0.05 * gain * rng.standard_normal(shape)
        values = values + 1.0 if name.endswith("scale") else values
    else:
        values = gain * rng.standard_normal(shape) * math.sqrt(2.0 / math.prod(shape[1:]))
    return np.asarray(values, np.float32)


@lru_cache(maxsize=2)
def published_weights(system: str, name: str, prefix: str | tuple[str, ...] = "") -> dict[str, torch.Tensor]:
    """Return the state dict of a manifest under its published names, restricted to prefixes."""
    spec = manifest(system, name)
    gains = [(re.compile(pattern), gain) for pattern, gain in spec.get("gain", {}).items()]
    alias = spec.get("alias", {})
    weights = {}
    for key, shape in spec["entries"].items():
        if key.startswith(prefix):
            source = alias.get(key, key)
            gain = next((value for pattern, value in gains if pattern.search(source)), 1.0)
            weights[key] = torch.from_numpy(_parameter(source, tuple(shape), spec.get("seed", 0), gain))
    for key, values in spec.get("constants", {}).items():
        if key in weights:
            weights[key] = torch.tensor(values, dtype=torch.float32).reshape(spec["entries"][key])
    return weights


def random_input(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return the standard normal input ``name``."""
    return torch.from_numpy(_generator(f"{seed}:input:{name}").standard_normal(shape).astype(np.float32))


def feature_maps(seed: int, batch: int, height: int, width: int, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return maps p2..p6 (batch, 256, H/stride, W/stride) of a padded batch of the given size.

    ``prefix`` is what stands before ``p2`` in the names that the maps were drawn under.
    """
    maps, size = {}, (height // 4, width // 4)
    for name in ("p2", "p3", "p4", "p5", "p6"):
        maps[name] = random_input(prefix + name, (batch, 256, *size), seed)
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    return maps


def image(name: str, height: int, width: int, seed: int) -> np.ndarray:
    """Return a uint8 RGB image (height, width, 3) of rectangles and ellipses on a gradient."""
    rng = _generator(f"{seed}:image:{name}")
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    base, slope = rng.uniform(0, 255, 3), rng.uniform(-80, 80, (2, 3))
    picture = base + slope[0] * (rows / height)[..., None] + slope[1] * (columns / width)[..., None]
    for _ in range(12):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        h, w = rng.uniform(0.05, 0.4) * height, rng.uniform(0.05, 0.4) * width
        color = rng.uniform(0, 255, 3)
        if rng.random() < 0.5:
            inside = (np.abs(rows - cy) < h / 2) & (np.abs(columns - cx) < w / 2)
        else:
            inside = ((rows - cy) / (h / 2)) ** 2 + ((columns - cx) / (w / 2)) ** 2 < 1
        picture[inside] = color
    return np.clip(picture, 0, 255).astype(np.uint8)


def network_input(picture: np.ndarray, divisor: int = 32) -> torch.Tensor:
    """Return the normalized, zero-padded batch (1, 3, H, W) of one RGB image."""
    values = (picture.astype(np.float32) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    padding = [(0, -side % divisor) for side in picture.shape[:2]]
    return torch.from_numpy(np.pad(values, [*padding, (0, 0)]).transpose(2, 0, 1)[None].copy())


def close(found: torch.Tensor, wanted: torch.Tensor, atol: float, rtol: float = 0.0) -> None:
    """Fail unless two tensors, on any devices, with or without a gradient, are equal within tolerances."""
    found, wanted = (t.detach().cpu().numpy() for t in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=rtol)


def partners(reference: dict, found: dict, *, box_tolerance: float, score_tolerance: float) -> np.ndarray:
    """Pair two sets of scored boxes and return the row of ``found`` for each of the reference, -1 for none.

    Both arguments hold ``boxes`` (n, 4), ``scores`` (n,) and maybe ``labels`` (n,). Each row of
    ``found`` is used once; among the fitting rows the one with the nearest box is taken.
    """
    boxes, scores = np.asarray(found["boxes"]), np.asarray(found["scores"])
    labels = np.asarray(found["labels"]) if "labels" in reference else None
    free, rows = np.ones(len(scores), bool), np.full(len(reference["scores"]), -1)
    for row, (box, score) in enumerate(zip(reference["boxes"], reference["scores"], strict=True)):
        distance = np.abs(boxes - np.asarray(box)).max(axis=1) if len(boxes) else np.zeros(0)
        fits = free & (distance <= box_tolerance) & (np.abs(scores - score) <= score_tolerance)
        if labels is not None:
            fits &= labels == reference["labels"][row]
        if fits.any():
            rows[row] = np.flatnonzero(fits)[np.argmin(distance[fits])]
            free[rows[row]] = False
    return rows


def unpaired(reference: dict, found: dict, *, box_tolerance: float, score_tolerance: float) -> np.ndarray:
    """Return the indices of the reference rows without a partner, see :func:`partners`."""
    rows = partners(reference, found, box_tolerance=box_tolerance, score_tolerance=score_tolerance)
    return np.flatnonzero(rows < 0)


def extents(pixels: torch.Tensor) -> torch.Tensor:
    """Return boxes (..., 4) that name their first and last pixels as the areas that our models keep."""
    return pixels + pixels.new_tensor([0, 0, 1, 1])


def inclusive(boxes: torch.Tensor) -> torch.Tensor:
    """Return the first and last pixels of boxes (..., 4) of our models: the inverse of :func:`extents`."""
    return boxes - boxes.new_tensor([0, 0, 1, 1])
