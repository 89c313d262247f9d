"""One meta-architecture for dense detectors: what distinguishes them are the parts that it is built from.

Symbols: N images, P priors, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from htd.errors import UserError
from htd.modeling.dense.checks import check_pixels
from htd.modeling.dense.decoders import Decoder
from htd.modeling.dense.misfits import check_parts
from htd.modeling.dense.postprocessing import Candidates, DensePostProcessing
from htd.modeling.dense.predictions import DensePredictions
from htd.modeling.dense.priors import Priors


@META_ARCH_REGISTRY.register()
class OneStageDetector(nn.Module):
    """Predicts classes and boxes at every cell of a pyramid.

    Its methods have the names and the arguments of those of ``DenseDetector``, which older versions of
    Detectron2 lack.

    Args:
        backbone: gives feature maps by name.
        head_in_features: names of the maps that the head works on, finest first.
        head: see :class:`htd.modeling.dense.head.DenseHead`.
        anchor_generator: Detectron2's; points are anchors whose middles they are.
        decoder: see :mod:`htd.modeling.dense.decoders`.
        supervision: see :mod:`htd.modeling.dense.supervision`.
        postprocessing: see :mod:`htd.modeling.dense.postprocessing`.
        num_classes: K; not read here, stated once for the parts to refer to.
        pixel_mean, pixel_std: of each channel of the input, deviations above 0.
        input_format: order of the input's channels, for drawing.

    Raises:
        UserError: parts do not fit together, see :func:`htd.modeling.dense.misfits.check_parts`, or there is
            not one mean and one deviation for each channel.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head_in_features: Sequence[str],
        head: nn.Module,
        anchor_generator: nn.Module,
        decoder: Decoder,
        supervision: nn.Module,
        postprocessing: DensePostProcessing,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "RGB",
    ):
        super().__init__()
        check_parts(backbone, head_in_features, head, anchor_generator, decoder, supervision, postprocessing)
        check_pixels(pixel_mean, pixel_std)
        self.backbone = backbone
        self.head_in_features = list(head_in_features)
        self.head = head
        self.anchor_generator = anchor_generator
        self.decoder = decoder
        self.supervision = supervision
        self.postprocessing = postprocessing
        self.num_classes = num_classes
        self.input_format = input_format
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]):
        """Return the losses of a batch when training, else its detections.

        Args:
            batched_inputs: Detectron2's input: ``image`` (3, H, W); for training ``instances`` with
                ``gt_boxes`` and ``gt_classes`` in pixels of the image; ``height`` and ``width`` (numbers,
                maybe fractional) name the output frame, the image's own size if they are absent.

        Returns:
            Losses by name, see the supervision; or ``[{"instances": Instances}]`` with ``pred_boxes``,
            ``scores`` and ``pred_classes`` in the output frame, best first.

        Raises:
            UserError: an input to train on has no ``instances``.
        """
        images = self.preprocess_image(batched_inputs)
        features = self._features(images)
        predictions = self.head(features)
        if self.training:
            targets = self._targets(batched_inputs)
            return self.forward_training(images, features, predictions, targets)
        sizes = zip(batched_inputs, images.image_sizes, strict=True)
        frames = [(x.get("height", h), x.get("width", w)) for x, (h, w) in sizes]
        found = zip(self.forward_inference(images, features, predictions), frames, strict=True)
        return [{"instances": self.postprocessing.detections(*one)} for one in found]

    def forward_training(
        self,
        images: ImageList,
        features: Sequence[Tensor],
        predictions: DensePredictions,
        gt_instances: Sequence[Instances],
    ) -> dict[str, Tensor]:
        """Return the losses, scalars, of predictions at maps (N, C, H_l, W_l); see the supervision."""
        priors = self.priors(features)
        boxes = self.decoder(predictions.regression, priors)
        return self.supervision(priors, predictions, boxes, gt_instances)

    def forward_inference(
        self, images: ImageList, features: Sequence[Tensor], predictions: DensePredictions
    ) -> list[Candidates]:
        """Return what the non-maximum suppression of each image is to choose from, in the resized input.

        Detectron2's method of this name returns ``Instances`` that have been suppressed already; here
        :meth:`DensePostProcessing.detections` makes them of candidates, of one view or of several.
        """
        priors = self.priors(features)
        scores, boxes = predictions.logits.sigmoid(), self.decoder(predictions.regression, priors)
        centerness = [None] * len(scores)
        if predictions.centerness is not None:
            centerness = predictions.centerness.sigmoid()
        each = zip(scores, boxes, centerness, images.image_sizes, strict=True)
        return [self.postprocessing.candidates(*of, priors.level_sizes, size) for *of, size in each]

    def candidates(self, batched_inputs: list[dict]) -> list[Candidates]:
        """Return :meth:`forward_inference` of inputs, for those who suppress by themselves."""
        images = self.preprocess_image(batched_inputs)
        features = self._features(images)
        return self.forward_inference(images, features, self.head(features))

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, pad and batch the images, to (N, 3, H, W)."""
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    def priors(self, features: Sequence[Tensor]) -> Priors:
        """Return the priors of the head's maps (N, C, H_l, W_l)."""
        return Priors.of(self.anchor_generator(list(features)), features, self.anchor_generator.strides)

    def _features(self, images: ImageList) -> list[Tensor]:
        maps = self.backbone(images.tensor)
        return [maps[name] for name in self.head_in_features]

    def _targets(self, batched_inputs: list[dict]) -> list[Instances]:
        for i, item in enumerate(batched_inputs):
            if "instances" not in item:
                raise UserError(
                    f"image {i} of the batch ({item.get('file_name')}) has no instances to train on; take a "
                    "mapper for training (is_train=True), or call model.eval()"
                )
        return [x["instances"].to(self.device) for x in batched_inputs]
