"""Models of the configs and the key lists of published files, without values where none are needed."""

from collections.abc import Collection
from functools import lru_cache

import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from htd.checkpoint import ConversionReport, convert
from htd.checkpoint.formats import COUNTER, choose
from tests import recorded


def build(config: str, *overrides: str) -> nn.Module:
    """Return the model of a config, as in ``htd/htd_r50_fpn_1x``, on the meta device."""
    leaf = LazyConfig.load(f"configs/{config}.py")
    with torch.device("meta"):
        return instantiate(LazyConfig.apply_overrides(leaf, list(overrides)).model)


model_of = lru_cache(build)


def file_of(system: str, manifest: str, device: str = "meta") -> dict[str, torch.Tensor]:
    """Return a tensor for each name of a published file."""
    entries = recorded.manifest(system, manifest)["entries"]
    return {key: torch.zeros(shape, device=device) for key, shape in entries.items()}


def convert_one_to_one(
    weights: dict[str, torch.Tensor], config: str, constants: Collection[str] = ()
) -> tuple[dict[str, torch.Tensor], ConversionReport]:
    """Convert a file without second names; fail unless all of it but counters fills the whole model.

    ``constants`` of the file are left out besides. The config is overridden as published files need it.
    """
    form = choose(weights)
    model = model_of(config, *form.overrides)
    converted, report = convert(weights, model)
    model.load_state_dict(converted, strict=True)
    assert report.complete and not (report.counters or report.new or report.aliases)
    assert set(report.used) | set(report.ignored) == set(weights)
    assert {key for key in report.ignored if not key.endswith(COUNTER)} == set(constants)
    assert sorted(report.used.values()) == sorted(model.state_dict())  # each once, and all
    assert report.format == form.name and f"configs/{config}.py" in form.configs
    return converted, report
