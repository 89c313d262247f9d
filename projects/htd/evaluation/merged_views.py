"""Test-time augmentation of dense detectors: the boxes of several views, suppressed together."""

from __future__ import annotations

from dataclasses import replace

from detectron2.structures import Instances
from torch import Tensor, nn

from htd.errors import UserError
from htd.evaluation.multi_view import MultiViewDetector
from htd.evaluation.views import View, ViewFrame
from htd.layers import ContinuousBoxes
from htd.modeling.dense.postprocessing import PreNMSBoxes


class MergedViews(MultiViewDetector):
    """A dense detector that selects its detections among the boxes of several views of an image.

    The boxes of each view before the non-maximum suppression are brought into the frame of the image; those
    of all views then go through the rest of the model's own post-processing. Nothing is averaged: with hard
    NMS the best box of an object in any view is the one that stays. One view after the other goes through the
    network.

    Args:
        model: a :class:`htd.modeling.dense.OneStageDetector`; to be called in evaluation mode only.
        views: the views, at least one.

    Raises:
        UserError: there is no view, or the model is no dense detector.
    """

    def check(self, model: nn.Module) -> None:
        """Raise a ``UserError`` if the model does not offer its boxes before the NMS."""
        if not hasattr(getattr(model, "postprocessing", None), "pre_nms_boxes"):
            raise UserError(
                f"test_time_augmentation merges the boxes of a dense detector, which {type(model).__name__} "
                "is not; take averaged_views of configs/common/test_time.py for a two-stage model"
            )

    def detect(self, image: Tensor, size: tuple[float, float]) -> Instances:
        """Return the detections in an image (3, H, W) of ``size`` (height, width), in its pixels."""
        boxes_of_views = [self._pre_nms_boxes(view, image, size) for view in self.views]
        return self.model.postprocessing.select(PreNMSBoxes.cat(boxes_of_views), size)

    def _pre_nms_boxes(self, view: View, image: Tensor, size: tuple[float, float]) -> PreNMSBoxes:
        """Return the boxes of one view before the NMS, in pixels of the image."""
        images = self.model.preprocess_image([{"image": view(image)}])
        predicted = self.model.predict(images.tensor)
        (in_view,) = self.model.postprocessing.pre_nms_boxes(*predicted, images.image_sizes)
        frame = ViewFrame(size, in_view.image_size, view.mirrored, ContinuousBoxes())
        return replace(in_view, boxes=frame.leave(in_view.boxes), image_size=size)
