"""Two-stage detector with the post-processing of the published models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from htd.layers import ContinuousBoxes


@META_ARCH_REGISTRY.register()
class RescaleFirstRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that brings boxes to the output frame before non-maximum suppression.

    So does the test pipeline of the published configs, which neither clips afterwards nor drops
    empty boxes. Detectron2 suppresses in the resized input, then rescales, clips and drops; but for the
    boxes that this changes the results differ in rounding alone. Semantic maps are handed to the RoI heads.

    Args:
        backbone, proposal_generator, pixel_mean, pixel_std, input_format: as in ``GeneralizedRCNN``.
        roi_heads: :class:`htd.modeling.cascade.StagedROIHeads`.
        box_convention: what the corners of boxes mean, for the proposal generator and the RoI heads, see
            :mod:`htd.layers.boxes`; continuous if None.
        sem_seg_ignore_value: label of the pixels that pad semantic maps to the size of the batch.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str | None = None,
        box_convention: ContinuousBoxes | None = None,
        sem_seg_ignore_value: int = 255,
    ):
        super().__init__(
            backbone=backbone,
            proposal_generator=proposal_generator,
            roi_heads=roi_heads,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            input_format=input_format,
        )
        self.box_convention = box_convention or ContinuousBoxes()
        proposal_generator.box_convention = self.box_convention
        roi_heads.box_convention = self.box_convention
        self.sem_seg_ignore_value = sem_seg_ignore_value
        anchors = getattr(proposal_generator.anchor_generator, "box_convention", ContinuousBoxes)
        if anchors is not type(self.box_convention):
            raise ValueError(
                f"box_convention is {type(self.box_convention).__name__}, but the anchor generator makes "
                f"anchors for {anchors.__name__}"
            )

    def forward(self, batched_inputs: list[dict]):
        """Return the losses of a batch when training, else what :meth:`inference` returns.

        Args:
            batched_inputs: Detectron2's input; for training with ``instances`` and, where there is a
                semantic branch, ``sem_seg`` (H, W) int64 at the size of the image.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        sem_seg = self._pad_semantic_maps(batched_inputs, images)
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        _, losses = self.roi_heads(images, features, proposals, targets, sem_seg)
        return losses | proposal_losses

    def _pad_semantic_maps(self, batched_inputs: list[dict], images: ImageList) -> Tensor | None:
        """Return the maps (N, H, W) at the padded size, None if no image has one."""
        without = [i for i, x in enumerate(batched_inputs) if "sem_seg" not in x]
        if len(without) == len(batched_inputs):
            return None
        if without:
            raise ValueError(
                f"image {without[0]} of the batch ({batched_inputs[without[0]].get('file_name')}) has no "
                "semantic map (sem_seg), but others have one; give all images a map, or none"
            )
        shape = (len(batched_inputs), *images.tensor.shape[-2:])
        padded = images.tensor.new_full(shape, self.sem_seg_ignore_value, dtype=torch.int64)
        for i, (item, (height, width)) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            if item["sem_seg"].shape != (height, width):
                raise ValueError(
                    f"the semantic map (sem_seg) of image {i} of the batch is {tuple(item['sem_seg'].shape)} "
                    f"pixels (height, width), its image {(height, width)}; give both the same transforms"
                )
            padded[i, :height, :width] = item["sem_seg"]
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
        sizes = None
        if do_postprocess:
            sizes = [
                (x.get("height", h), x.get("width", w))
                for x, (h, w) in zip(batched_inputs, images.image_sizes, strict=True)
            ]
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, output_sizes=sizes)
        else:
            given = [x.to(self.device) for x in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, given, output_sizes=sizes)
        return [{"instances": x} for x in results] if do_postprocess else results
