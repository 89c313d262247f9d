"""Names of a Res2Net with deep stem ("v1d", "v1b"), as OpenMMLab's files write them."""

from __future__ import annotations

from htd.checkpoint.formats.base import Rule, renumbered


def res2net_rules(prefix: str = r"backbone\.", ours: str = "backbone.bottom_up.") -> tuple[Rule, ...]:
    """Rules of a Res2Net without its classifier; in the stem and inside a stage the names are the same.

    Only the layers that predict the offsets of a deformable convolution are called otherwise. ``conv2``
    and ``bn2`` of a ResNet block have no rule: a Res2Net block has ``convs`` and ``bns``.

    Args:
        prefix, ours: as of :func:`htd.checkpoint.formats.openmmlab.resnet_rules`.
    """
    block, place = prefix + r"layer#\.(\d+)\.", ours + r"res#.\1."
    stages = {stage: stage + 1 for stage in range(1, 5)}
    return (
        Rule(prefix + r"stem\.([013467]\.\w+)", ours + r"stem.\1"),
        *renumbered(
            block + r"((?:conv[13]|bn[13]|convs\.\d+|bns\.\d+|downsample\.[12])\.\w+)", place + r"\2", stages
        ),
        *renumbered(block + r"convs\.(\d+)\.conv_offset\.(\w+)", place + r"convs.\2.offset.\3", stages),
    )
