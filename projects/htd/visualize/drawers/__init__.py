"""One drawer per system: it finds parts of a model by name and draws what went through them.

A new system gets a file here with a :class:`Drawer`, and a place in ``DRAWERS``.
"""

from __future__ import annotations

from torch import nn

from htd.visualize.drawers.base import Call, DetectionsDrawer, Drawer, Scene, recorded
from htd.visualize.drawers.htc import HTCDrawer
from htd.visualize.drawers.htd import HTDDrawer
from htd.visualize.drawers.salt import SALTDrawer
from htd.visualize.drawers.tood import TOODDrawer
from htd.visualize.drawers.tsd import TSDDrawer

DRAWERS: tuple[type[Drawer], ...] = (
    DetectionsDrawer,
    HTDDrawer,
    HTCDrawer,
    TSDDrawer,
    TOODDrawer,
    SALTDrawer,
)

__all__ = ["DRAWERS", "Call", "Drawer", "Scene", "drawers_of", "recorded"]


def drawers_of(model: nn.Module) -> list[Drawer]:
    """Return the drawers that have something to draw of a model."""
    drawers = (drawer.of(model) for drawer in DRAWERS)
    return [drawer for drawer in drawers if drawer is not None]
