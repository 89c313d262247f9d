"""The meta-architecture of dense detectors; what distinguishes them are the parts that it is built from.

Symbols: N images, P priors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from htd.modeling.dense.boxes import Decoder, Priors
from htd.modeling.dense.head import DenseHead, DensePredictions
from htd.modeling.dense.postprocessing import DensePostProcessing


@META_ARCH_REGISTRY.register()
class OneStageDetector(nn.Module):
    """Predicts classes and boxes at every cell of a pyramid.

    Args:
        backbone: gives feature maps by name.
        head_in_features: names of the maps that the head works on, finest first.
        head: from these maps to :class:`DensePredictions`.
        anchor_generator: Detectron2's; points are the centers of anchors.
        decoder: from what is predicted for boxes to boxes.
        criterion: from predictions, boxes and ground truth to the losses.
        postprocessing: from predictions and boxes to detections.
        num_classes: K; not read here, stated once for the parts to refer to.
        pixel_mean, pixel_std: of each channel of the input.
        input_format: order of the input's channels, for drawing.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head_in_features: Sequence[str],
        head: DenseHead,
        anchor_generator: nn.Module,
        decoder: Decoder,
        criterion: nn.Module,
        postprocessing: DensePostProcessing,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
    ):
        super().__init__()
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(f"there are {len(pixel_mean)} pixel means and {len(pixel_std)} deviations")
        if not all(deviation > 0 for deviation in pixel_std):
            raise ValueError(f"pixel_std is {list(pixel_std)}; deviations have to be above 0")
        self.backbone = backbone
        self.head_in_features = list(head_in_features)
        self.head = head
        self.anchor_generator = anchor_generator
        self.decoder = decoder
        self.criterion = criterion
        self.postprocessing = postprocessing
        self.num_classes = num_classes
        self.input_format = input_format
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(-1, 1, 1), persistent=False)
        self._check_compatibility()

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]):
        """Return the losses of a batch when training, else its detections.

        Args:
            batched_inputs: Detectron2's input: ``image`` (3, H, W); for training ``instances`` with
                ``gt_boxes`` and ``gt_classes`` in pixels of the image; ``height`` and ``width`` (numbers,
                not necessarily integers) of the output frame, by default the image's own size.

        Returns:
            Losses by name, see the criterion; or ``[{"instances": Instances}]`` with ``pred_boxes``,
            ``scores`` and ``pred_classes`` in the output frame, best first.
        """
        images = self.preprocess_image(batched_inputs)
        priors, predictions, boxes = self.predict(images.tensor)
        if self.training:
            if not all("instances" in x for x in batched_inputs):
                raise ValueError("in training mode every input needs instances; call eval() to detect")
            gt_instances = [x["instances"].to(boxes.device) for x in batched_inputs]
            return self.criterion(priors, predictions, boxes, gt_instances)
        pre_nms = self.postprocessing.pre_nms_boxes(priors, predictions, boxes, images.image_sizes)
        detections = []
        for x, pre_nms_boxes, (height, width) in zip(
            batched_inputs, pre_nms, images.image_sizes, strict=True
        ):
            size = x.get("height", height), x.get("width", width)
            detections.append({"instances": self.postprocessing.select(pre_nms_boxes, size)})
        return detections

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalize, pad and batch the images, to (N, 3, H, W)."""
        images = [
            (x["image"].to(self.pixel_mean.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def predict(self, images: Tensor) -> tuple[Priors, DensePredictions, Tensor]:
        """Return the priors of images (N, 3, H, W), the predictions at them, and their boxes (N, P, 4)."""
        maps = self.backbone(images)
        features = [maps[name] for name in self.head_in_features]
        predictions = self.head(features)
        priors = self.priors(features)
        return priors, predictions, self.decoder(predictions.regression, priors)

    def priors(self, features: Sequence[Tensor]) -> Priors:
        """Return the priors of the head's maps (N, C, H_l, W_l)."""
        boxes = torch.cat([anchors.tensor for anchors in self.anchor_generator(list(features))])
        shapes = [tuple(x.shape[-2:]) for x in features]
        per_cell = len(boxes) // sum(height * width for height, width in shapes)
        return Priors(boxes, shapes, self.anchor_generator.strides, per_cell)

    def _check_compatibility(self) -> None:
        """Raise a ``ValueError`` if parts would not work together, or would silently give wrong boxes.

        Parts of other classes than this package's may be anything.
        """
        if isinstance(self.backbone, Backbone):
            # Detectron2's generator makes anchors for as many maps as it has strides, and never compares them
            # with those of the maps: detections would be in wrong places.
            maps, wanted = self.backbone.output_shape(), list(self.anchor_generator.strides)
            strides = [maps[name].stride for name in self.head_in_features]
            if strides != wanted:
                raise ValueError(f"the strides of the feature maps are {strides}, of the anchors {wanted}")
        if not isinstance(self.head, DenseHead):
            return
        predictors, made = self.head.predictors, set(self.anchor_generator.num_anchors)
        if made != {predictors.num_anchors}:
            raise ValueError(
                f"the anchor generator makes {sorted(made)} anchors per cell, the predictors are made for "
                f"{predictors.num_anchors}"
            )
        levels = len(self.anchor_generator.strides)
        for part in (self.head.towers, predictors):
            if part.num_levels not in (None, levels):
                raise ValueError(f"the head is made for {part.num_levels} levels, but there are {levels}")
        if isinstance(self.decoder, Decoder) and not self.decoder.reads(predictors.regression_dim):
            raise ValueError(
                f"{type(self.decoder).__name__} cannot decode a box from the {predictors.regression_dim} "
                "numbers that are predicted for it"
            )
        missing = getattr(self.criterion, "reads", set()) - self.head.gives
        if missing:
            raise ValueError(f"a loss reads {', '.join(sorted(missing))}, which the head does not predict")
        classes, extra = predictors.num_classes, predictors.extra_classes
        kept = self.postprocessing.num_classes
        if kept != classes and (extra or kept is not None):
            raise ValueError(
                f"the predictors have {classes} classes and {extra} extra, the post-processing keeps {kept}"
            )
