"""What the reference cases of SALT-Net share: its heads, and recorded outputs of a head."""

from __future__ import annotations

from torch import Tensor, nn

from tests.modeling.dense.recorded import normal_maps
from tests.modeling.dense.reference import without_backbone

R50 = "salt/salt_r50_fpn_1x"
DEFORMABLE = "salt/salt_r2_101_fpn_dcnx_2x_ms"
# The published classifiers have an output more than there are classes.
OUTPUTS = 81


def head(leaf: str, device) -> tuple[nn.Module, dict[str, str]]:
    """Return the detector of a config without its backbone, and our names of its published ones."""
    manifest = "manifest_head_dcnx" if leaf == DEFORMABLE else "manifest_head"
    return without_backbone(leaf, "salt", manifest, device, extra_classes=1)


def outputs(
    seed: int, images: int, *, logit: float, factor: float, device, channels: int = OUTPUTS
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the maps of class logits and of distributions that a case takes for a head's output.

    What is recorded takes the probabilities of the logits.
    """
    logits = [1.5 * x + logit for x in normal_maps("cls", channels, seed, images, device)]
    return logits, [factor * x for x in normal_maps("reg", 68, seed, images, device)]
