"""The leaves with one detector each, for what has to work with every one of them."""

from __future__ import annotations

from omegaconf import OmegaConf

from tests.configs.leaves import LEAVES, config_of
from tests.configs.reduced import reduced_model
from tests.configs.test_configs import as_text


def different_but_for_the_backbone(part: str) -> list[str]:
    """Return one leaf for each different detector that has a part of this name, such as RoI heads.

    What makes the maps is not compared: it has no say in how views are joined.
    """
    seen = {}
    for leaf in LEAVES:
        if part in config_of(leaf).model:
            model = reduced_model(leaf)
            del model["backbone"]
            seen.setdefault(OmegaConf.to_yaml(as_text(model)), leaf)
    return sorted(seen.values())
