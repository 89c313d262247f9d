"""SALT-Net beside GFL, and dense detectors with the SALT operator beside themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from benchmark_models import Candidate, Settings, beside_the_first, from_config
from benchmark_tables import Table
from htd.modeling.salt import SALTOperator

# Half of the extent that an anchor of these detectors has: four cells to each side.
HALF_EXTENT = 4.0
_CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_GFL, _SALT = (str(_CONFIGS / f"{name}_r50_fpn_1x.py") for name in ("baselines/gfl", "salt/salt"))
_HOSTS = {
    name: [str(_CONFIGS / f"{place}_r50_fpn_1x.py") for place in (folder + name, f"salt/salt_{name}")]
    for name, folder in {
        "retinanet": "baselines/",
        "fcos": "baselines/",
        "atss": "baselines/",
        "gfl": "baselines/",
        "tood": "tood/",
    }.items()
}
_TITLES = {"retinanet": "RetinaNet", "fcos": "FCOS", "atss": "ATSS", "gfl": "GFL", "tood": "TOOD"}


def spread(model: nn.Module) -> nn.Module:
    """Move the points of untrained operators apart, in place: near the cell they would share cached rows."""
    for operator in (part for part in model.modules() if isinstance(part, SALTOperator)):
        nn.init.constant_(operator.distances.bias, HALF_EXTENT)
        nn.init.normal_(operator.factors.bias)
    return model


def spread_from_config(path: str, overrides: Sequence[str] = ()) -> nn.Module:
    """Return the model of a config with random weights, and points apart."""
    return spread(from_config(path, overrides))


def without_operator(path: str, overrides: Sequence[str] = ()) -> nn.Module:
    """Return the model of a SALT-Net config whose predictors read the towers' own features."""
    model = from_config(path, overrides)
    model.head.towers = model.head.towers.towers
    return model


def _beside_gfl(figures: tuple[str, str], settings: Settings, overrides: Sequence[str]) -> Table:
    """SALT-Net and GFL, which have the same backbone, pyramid, anchors and post-processing."""
    given = tuple(overrides)
    candidates = [
        Candidate("GFL", partial(from_config, _GFL, given)),
        Candidate("SALT-Net", partial(spread_from_config, _SALT, given)),
    ]
    if figures[1].startswith("inference"):
        candidates.append(Candidate("SALT-Net without operator", partial(without_operator, _SALT, given)))
    return beside_the_first(candidates, figures, settings, group=len(candidates))


def _beside_hosts(figures: tuple[str, str], settings: Settings, overrides: Sequence[str]) -> Table:
    """Each dense detector and the same with the operator behind its towers."""
    given = tuple(overrides)
    candidates = []
    for name, (host, plugged) in _HOSTS.items():
        candidates.append(Candidate(_TITLES[name], partial(from_config, host, given)))
        label = f"{_TITLES[name]} + SALT"
        candidates.append(Candidate(label, partial(spread_from_config, plugged, given)))
    return beside_the_first(candidates, figures, settings, group=2)


_INFERENCE, _TRAINING = (
    ("inference_bytes", "inference_seconds"),
    ("training_bytes", "training_seconds"),
)
# name on the command line -> function(settings, overrides) -> table
MODEL_COMPONENTS: dict[str, Callable[[Settings, Sequence[str]], Table]] = {
    "salt_inference": partial(_beside_gfl, _INFERENCE),
    "salt_training": partial(_beside_gfl, _TRAINING),
    "salt_plug_ins_inference": partial(_beside_hosts, _INFERENCE),
    "salt_plug_ins_training": partial(_beside_hosts, _TRAINING),
}
