"""What every test-time augmentation needs: a model, views, and images at their own size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from htd.errors import UserError
from htd.evaluation.views import View


class MultiViewDetector(nn.Module):
    """A detector that looks at several views of each image.

    The image of the input is the one that views are made of, so it has to come at its own size. Subclasses
    say what they make of the views, and which models they can do that with.

    Args:
        model: a detector of this project; to be called in evaluation mode only.
        views: the views, one at least.

    Raises:
        UserError: there is no view, or the model has not what the views are joined by.
    """

    def __init__(self, *, model: nn.Module, views: Sequence[View]):
        super().__init__()
        if not len(views):
            raise UserError(
                "test_time_augmentation.views is empty: name one view at least, or set "
                "test_time_augmentation=null to evaluate without"
            )
        self.check(model)
        self.model = model
        # A new module is in training mode, and what evaluates it brings it and the model back to that mode.
        self.training = model.training
        self.views = list(views)

    @torch.no_grad()
    def forward(self, batched_inputs: Sequence[dict]) -> list[dict]:
        """Detect objects in each image.

        Args:
            batched_inputs: Detectron2's input: ``image`` (3, H, W) uint8; ``height`` and ``width``, if they
                are there, are H and W.

        Returns:
            ``[{"instances": Instances}]`` with what the model alone returns, in pixels of the image.

        Raises:
            UserError: an image has another size than ``height`` and ``width`` say, or a view does more than
                resize.
        """
        return [{"instances": self.detect(item["image"], _original_size(item))} for item in batched_inputs]

    def check(self, model: nn.Module) -> None:
        """Raise a ``UserError`` if views of this model cannot be joined."""
        raise NotImplementedError

    def detect(self, image: Tensor, size: tuple[float, float]) -> Instances:
        """Return the detections in an image (3, H, W) of ``size`` (height, width), in its pixels."""
        raise NotImplementedError


def _original_size(item: dict) -> tuple[float, float]:
    own = tuple(item["image"].shape[-2:])
    named = item.get("height", own[0]), item.get("width", own[1])
    if named != own:
        raise UserError(
            "test-time augmentation makes its views of the original image, but image "
            f"{item.get('file_name')} of {named[0]} x {named[1]} pixels (height x width) came as {own[0]} x "
            f"{own[1]}: give images as they are, without a resize in dataloader.test.mapper"
        )
    return named
