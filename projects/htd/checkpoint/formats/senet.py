"""Names of ImageNet's SENet-154, as pretrained-models and timm write them."""

from __future__ import annotations

from htd.checkpoint.formats.base import Rule, renumbered


def senet_rules(prefix: str = "", ours: str = "backbone.bottom_up.") -> tuple[Rule, ...]:
    """Rules of a SENet-154 without its classifier; inside a stage the names are the same.

    Args:
        prefix: regular expression before the names of the published network.
        ours: what stands before ours.
    """
    stages = {stage: stage + 1 for stage in range(1, 5)}
    return (
        Rule(prefix + r"layer0\.((?:conv|bn)\d\.\w+)", ours + r"stem.\1"),
        *renumbered(
            prefix + r"layer#\.(\d+\.(?:conv\d|bn\d|se_module\.fc\d|downsample\.\d)\.\w+)",
            ours + r"res#.\1",
            stages,
        ),
    )
