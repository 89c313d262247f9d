"""Test-time augmentation of dense detectors: what they find in several views, suppressed together."""

from __future__ import annotations

from dataclasses import replace

from detectron2.structures import Instances
from torch import Tensor, nn

from htd.errors import UserError
from htd.evaluation.multi_view import MultiViewDetector
from htd.evaluation.views import View, ViewFrame
from htd.layers import ContinuousBoxes
from htd.modeling.dense.candidates import Candidates


class MergedViews(MultiViewDetector):
    """A dense detector that suppresses, together, the candidates that it finds in several views of an image.

    The boxes of each view before non-maximum suppression are brought into the image; those of all views go
    through the model's own post-processing from there on. Nothing is averaged: with Hard-NMS the best box of
    an object in any view is the one that stays. One view after the other goes through the network.

    Args:
        model: a detector with ``candidates`` and ``postprocessing``, such as
            :class:`htd.modeling.dense.detector.OneStageDetector`; to be called in evaluation mode only.
        views: the views, one at least.

    Raises:
        UserError: there is no view, or the model has no ``candidates``.
    """

    def check(self, model: nn.Module) -> None:
        """Raise a ``UserError`` if the model has no candidates to offer."""
        if not (hasattr(model, "candidates") and hasattr(model, "postprocessing")):
            raise UserError(
                f"test_time_augmentation merges the candidates of a dense detector, and a "
                f"{type(model).__name__} has none: take averaged_views of configs/common/test_time.py for a "
                "two-stage model of this project, or set test_time_augmentation=null"
            )

    def detect(self, image: Tensor, size: tuple[float, float]) -> Instances:
        """Return the detections in an image (3, H, W) of ``size`` (height, width), in its pixels."""
        merged = Candidates.joined([self._look(view, image, size) for view in self.views])
        return self.model.postprocessing.detections(merged, size)

    def _look(self, view: View, image: Tensor, size: tuple[float, float]) -> Candidates:
        """Return the candidates of one view, in pixels of the image."""
        (found,) = self.model.candidates([{"image": view(image)}])
        frame = ViewFrame(size, found.image_size, view.mirrored, ContinuousBoxes())
        return replace(found, boxes=frame.leave(found.boxes), image_size=size)
