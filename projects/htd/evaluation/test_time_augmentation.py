"""Test-time augmentation: what a detector finds in several views of an image, averaged.

Symbols: V views, R proposals, K foreground classes, P detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from htd.errors import UserError
from htd.evaluation.multi_view import MultiViewDetector
from htd.evaluation.views import View, ViewFrame
from htd.layers import FeatureTable, HardNMS
from htd.modeling.cascade import RoIContext, RoIPredictions


@dataclass(frozen=True)
class SeenView:
    """What a model has computed of one view.

    Attributes:
        frame: how boxes get into the view and back.
        context: what the RoI heads share about it, a batch of one image.
        proposals: ``proposal_boxes`` and ``objectness_logits``, in pixels of the view.
    """

    frame: ViewFrame
    context: RoIContext
    proposals: Instances

    def fresh_context(self) -> RoIContext:
        """Return the context with a table of its own.

        What a table makes of its maps at the first use is as large as they are, and goes with it: kept for
        all views it would double the memory.
        """
        table = self.context.table
        return replace(self.context, table=FeatureTable(table.maps, table.strides))


class AveragedViews(MultiViewDetector):
    """An R-CNN that averages, for each proposal, the boxes and scores that it finds in several views.

    Source: the multi-view test of the published configs. The proposals of all views are brought into the
    image and suppressed together; those left are brought into each view, where all stages run; their boxes,
    clipped there and brought back, and their scores are averaged, and from the averages the detections are
    selected. Masks, if there is a mask branch, are predicted for the detections in each view and averaged
    as probabilities, too.

    One view after the other goes through the network; the feature maps of all views of one image are kept
    meanwhile.

    Args:
        model: a detector of this project; to be called in evaluation mode only.
        views: the views, one at least.
        proposal_nms: suppresses among the proposals of all views, as if they were of one class.
        max_proposals: the best that are kept of them.

    Raises:
        UserError: there is no view, ``max_proposals`` is not at least 1, or the model's RoI heads have no
            ``predict``.
    """

    def __init__(
        self, *, model: GeneralizedRCNN, views: Sequence[View], proposal_nms: HardNMS, max_proposals: int
    ):
        if max_proposals < 1:
            raise UserError(
                f"test_time_augmentation.max_proposals is {max_proposals}; it has to be at least 1"
            )
        super().__init__(model=model, views=views)
        self.proposal_nms = proposal_nms
        self.max_proposals = max_proposals

    def check(self, model: nn.Module) -> None:
        """Raise a ``UserError`` if the model's RoI heads are not those of this project."""
        if not hasattr(getattr(model, "roi_heads", None), "predict"):
            raise UserError(
                f"test_time_augmentation averages what the RoI heads of this project predict, and a "
                f"{type(model).__name__} has none: take merged_views of configs/common/test_time.py for a "
                "dense detector of this project, or set test_time_augmentation=null"
            )

    def detect(self, image: Tensor, size: tuple[float, float]) -> Instances:
        """Return the detections in an image (3, H, W) of ``size`` (height, width), in its pixels."""
        seen = [self._look(view, image, size) for view in self.views]
        frames = [one.frame for one in seen]
        boxes, _ = merged_proposals(
            [one.proposals for one in seen], frames, self.proposal_nms, self.max_proposals
        )
        heads = self.model.roi_heads
        predictions = averaged(predicted_in_views(heads, seen, boxes), frames)
        (detections,) = heads.select([predictions])
        add_averaged_masks(heads, seen, detections)
        return heads.mask_branch.paste(detections)

    def _look(self, view: View, image: Tensor, size: tuple[float, float]) -> SeenView:
        model, heads = self.model, self.model.roi_heads
        images = model.preprocess_image([{"image": view(image)}])
        features = model.backbone(images.tensor)
        (proposals,), _ = model.proposal_generator(images, features, None)
        context, _ = heads.make_context(images.image_sizes, features)
        view_size = tuple(images.image_sizes[0])
        return SeenView(ViewFrame(size, view_size, view.mirrored, context.box_convention), context, proposals)


def merged_proposals(
    proposals: Sequence[Instances], frames: Sequence[ViewFrame], nms: HardNMS, at_most: int
) -> tuple[Tensor, Tensor]:
    """Join the proposals of V views of an image.

    Args:
        proposals: V items with ``proposal_boxes`` and ``objectness_logits``, in pixels of each view.
        frames: of the V views.
        nms: suppresses among all of them.
        at_most: the best that are kept.

    Returns:
        Boxes (R, 4) in pixels of the image and their objectness (R,), best first.
    """
    boxes = torch.cat([f.leave(p.proposal_boxes.tensor) for p, f in zip(proposals, frames, strict=True)])
    scores = torch.cat([p.objectness_logits for p in proposals])
    keep, kept_scores = nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64))
    return boxes[keep[:at_most]], kept_scores[:at_most]


def predicted_in_views(heads: nn.Module, seen: Sequence[SeenView], boxes: Tensor) -> list[RoIPredictions]:
    """Return what the RoI heads predict in each view, in its pixels, for boxes (R, 4) of the image.

    Row r of each is that of box r: no RoI is left out.
    """
    return [
        heads.predict(
            one.fresh_context(),
            [Instances(one.frame.view_size, proposal_boxes=Boxes(one.frame.enter(boxes)))],
            every_roi=True,
        )[0]
        for one in seen
    ]


def averaged(predictions: Sequence[RoIPredictions], frames: Sequence[ViewFrame]) -> RoIPredictions:
    """Return the mean boxes, in pixels of the image, and the mean scores of V views, row by row."""
    found = zip(predictions, frames, strict=True)
    boxes = torch.stack([f.leave(p.boxes.float().unflatten(1, (-1, 4))) for p, f in found])
    scores = torch.stack([p.scores.float() for p in predictions])
    return replace(
        predictions[0],
        boxes=boxes.mean(dim=0).flatten(1),
        scores=scores.mean(dim=0),
        image_size=frames[0].original_size,
    )


def add_averaged_masks(heads: nn.Module, seen: Sequence[SeenView], detections: Instances) -> None:
    """Give detections, whose boxes are in pixels of the image, the mean of their masks in all views.

    ``pred_masks`` (P, 1, M, M) are probabilities in the frame of each box; without a mask branch there
    are none.
    """
    masks = []
    for one in seen:
        boxes = Boxes(one.frame.enter(detections.pred_boxes.tensor))
        placed = Instances(one.frame.view_size, pred_boxes=boxes, pred_classes=detections.pred_classes)
        heads.add_masks(one.fresh_context(), [placed])
        if placed.has("pred_masks"):
            masks.append(one.frame.upright(placed.pred_masks))
    if masks:
        detections.pred_masks = torch.stack(masks).mean(dim=0)
