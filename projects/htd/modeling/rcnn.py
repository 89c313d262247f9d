"""Two-stage detector with the post-processing of the published models."""

from __future__ import annotations

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Instances

from htd.errors import UserError


@META_ARCH_REGISTRY.register()
class RescaleFirstRCNN(GeneralizedRCNN):
    """``GeneralizedRCNN`` that brings boxes to the output frame before non-maximum suppression.

    Source: the test pipeline of the published configs, which neither clips afterwards nor drops
    empty boxes. Detectron2 suppresses in the resized input, then rescales, clips and drops; the
    order matters where the two axes are scaled differently. Arguments are those of
    ``GeneralizedRCNN``; ``roi_heads`` needs the ``predict`` and ``selection`` of
    :class:`htd.modeling.cascade.StagedROIHeads`.
    """

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
            detected_instances: None; there are no other predictions to make for given boxes.
            do_postprocess: as in ``GeneralizedRCNN``.

        Returns:
            ``[{"instances": Instances}]`` with ``pred_boxes``, ``scores`` and ``pred_classes`` in
            the output frame, best first.

        Raises:
            UserError: ``detected_instances`` is given.
        """
        if detected_instances is not None:
            raise UserError("these RoI heads predict boxes only, so detected_instances must be None")
        if not do_postprocess:
            return super().inference(batched_inputs, do_postprocess=False)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self.proposal_generator(images, features, None)
        results = []
        predictions = self.roi_heads.predict(images, features, proposals)
        for predicted, item in zip(predictions, batched_inputs, strict=True):
            height, width = predicted.image_size
            resized = predicted.resized(item.get("height", height), item.get("width", width))
            results.append({"instances": self.roi_heads.selection(resized)})
        return results
