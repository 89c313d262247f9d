"""Two-stage detector with the post-processing of the published models."""

from __future__ import annotations

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from htd.errors import UserError
from htd.layers import ContinuousBoxes


@META_ARCH_REGISTRY.register()
class RescaleFirstRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that brings boxes to the output frame before non-maximum suppression.

    Source: the test pipeline of the published configs, which neither clips afterwards nor drops
    empty boxes. Detectron2 suppresses in the resized input, then rescales, clips and drops; but for the
    boxes that this changes the results differ in rounding alone. Semantic maps are handed to the RoI heads.

    Args:
        roi_heads: :class:`htd.modeling.cascade.StagedROIHeads` or one with the same methods.
        box_convention: clips boxes and compares them with the border of the image; continuous if None.
        sem_seg_ignore_value: label of the pixels that pad semantic maps to the size of the batch.
        rcnn: the other arguments of ``GeneralizedRCNN``.
    """

    def __init__(
        self, *, box_convention: ContinuousBoxes | None = None, sem_seg_ignore_value: int = 255, **rcnn
    ):
        super().__init__(**rcnn)
        self.box_convention = box_convention or ContinuousBoxes()
        self.proposal_generator.box_convention = self.box_convention
        self.sem_seg_ignore_value = sem_seg_ignore_value

    def forward(self, batched_inputs: list[dict]):
        """Return the losses of a batch when training, else what :meth:`inference` returns.

        Args:
            batched_inputs: Detectron2's input; for training with ``instances`` and, where there is a
                semantic branch, ``sem_seg`` (H, W) int64 at the size of the image.

        Raises:
            UserError: a semantic map has another size than its image, or only some images have one.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        sem_seg = self._pad_semantic_maps(batched_inputs, images)
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        _, losses = self.roi_heads(images, features, proposals, targets, sem_seg)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return losses | proposal_losses

    def _pad_semantic_maps(self, batched_inputs: list[dict], images: ImageList) -> Tensor | None:
        """Return the maps (N, H, W) at the padded size, None if no image has one."""
        without = [i for i, x in enumerate(batched_inputs) if "sem_seg" not in x]
        if len(without) == len(batched_inputs):
            return None
        if without:
            raise UserError(
                f"image {without[0]} of the batch ({batched_inputs[without[0]].get('file_name')}) has no "
                "semantic map (sem_seg), but others have one; give all a map, or none"
            )
        shape = (len(batched_inputs), *images.tensor.shape[-2:])
        padded = images.tensor.new_full(shape, self.sem_seg_ignore_value, dtype=torch.int64)
        found = zip(padded, batched_inputs, images.image_sizes, strict=True)
        for i, (row, item, (height, width)) in enumerate(found):
            if item["sem_seg"].shape != (height, width):
                raise UserError(
                    f"the semantic map (sem_seg) of image {i} of the batch is {tuple(item['sem_seg'].shape)} "
                    f"pixels (height, width), its image {(height, width)}; give both the same transforms"
                )
            row[:height, :width] = item["sem_seg"]
        return padded

    def inference(
        self,
        batched_inputs: list[dict],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """Detect objects.

        Args:
            batched_inputs: Detectron2's input; ``height`` and ``width`` (numbers, maybe fractional)
                name the output frame, the image's own size if they are absent.
            detected_instances: known ``pred_boxes`` and ``pred_classes`` in the resized input; then only
                masks are predicted.
            do_postprocess: bring the results to the output frame.

        Returns:
            ``[{"instances": Instances}]`` with ``pred_boxes``, ``scores`` and ``pred_classes`` in
            the output frame, best first, and, of a mask branch, ``pred_masks`` (P, height, width) bool.
            Without post-processing the ``Instances`` that the RoI heads return.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        heads = self.roi_heads
        context, _ = heads.make_context(images.image_sizes, features)
        sizes = images.image_sizes
        if do_postprocess:
            sizes = [
                (x.get("height", h), x.get("width", w))
                for x, (h, w) in zip(batched_inputs, images.image_sizes, strict=True)
            ]
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            found = zip(heads.predict(context, proposals), sizes, strict=True)
            results = [heads.selection(predicted.resized(*size)) for predicted, size in found]
        else:
            given = zip(detected_instances, sizes, strict=True)
            results = [self._resized(x.to(self.device), size) for x, size in given]
        heads.mask_branch.add_masks(context, results)
        if not do_postprocess:
            return results
        return [{"instances": heads.mask_branch.paste(x)} for x in results]

    def _resized(self, instances: Instances, size: tuple[float, float]) -> Instances:
        """Return instances with ``pred_boxes`` in a frame of ``size`` (height, width); the rest is kept."""
        convention = self.roi_heads.convention
        boxes = convention.rescale(instances.pred_boxes.tensor, instances.image_size, size)
        return Instances(size, **(instances.get_fields() | {"pred_boxes": Boxes(boxes)}))
