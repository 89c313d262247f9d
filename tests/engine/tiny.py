"""A detector, data and an evaluator small enough to train for dozens of steps in a second."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.errors import UserError

TINY = str(Path(__file__).parent / "tiny_config.py")


class TinyModel(nn.Module):
    """Two classes of parameters, a buffer that moves, and random numbers in the forward pass."""

    def __init__(self, num_classes: int = 2, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.ModuleDict({"cls": nn.Linear(width, num_classes + 1), "box": nn.Linear(width, 4)})

    def forward(self, images: list[dict]):
        features = torch.stack([self.body(image["image"][None]).mean((0, 2, 3)) for image in images])
        if not self.training:
            return [
                {"instances": self._result(image, row)} for image, row in zip(images, features, strict=True)
            ]
        features = features * (1 + 0.1 * torch.rand(len(images), 1))
        owners = [i for i, image in enumerate(images) for _ in range(len(image["instances"]))]
        logits, boxes = self.head["cls"](features), self.head["box"](features[owners])
        targets = torch.cat([image["instances"].gt_boxes.tensor for image in images]) / 100
        labels = torch.tensor([int(len(image["instances"]) > 0) for image in images])
        return {
            "loss_cls": nn.functional.cross_entropy(logits, labels),
            "loss_box_reg": (boxes - targets).square().sum() / max(1, len(owners)),
            "tiny/num_boxes": torch.tensor(float(len(owners))),
        }

    def _result(self, image: dict, row: torch.Tensor) -> Instances:
        result = Instances((image["height"], image["width"]))
        result.pred_boxes = Boxes(self.head["box"](row)[None] * 100)
        result.scores = self.head["cls"](row).softmax(0)[:1]
        result.pred_classes = torch.zeros(1, dtype=torch.int64)
        return result


class Mapper:
    """Makes an input with noise from each of the generators; every fourth image has no object."""

    def __call__(self, record: dict) -> dict:
        size = (record["height"], record["width"])
        image = torch.rand(3, *size) + random.random() + np.random.rand()
        instances = Instances(size)
        count = record["image_id"] % 4
        instances.gt_boxes = Boxes(torch.rand(count, 4) * 100)
        instances.gt_classes = torch.zeros(count, dtype=torch.int64)
        return {**record, "image": image, "instances": instances}


class BrokenMapper:
    """Cannot read any image."""

    def __call__(self, record: dict) -> dict:
        raise UserError(f"image {record['file_name']} cannot be read")


class NoObjectsOnRank:
    """Yields the same two images for ever; on one rank without objects, on another maybe with a NaN."""

    def __init__(self, empty: int, broken: int, total_batch_size: int = 2) -> None:
        self.empty, self.broken = empty, broken

    def __iter__(self):
        from detectron2.utils import comm

        rank, torch_generator = comm.get_rank(), torch.Generator().manual_seed(comm.get_rank())
        for step in range(100):
            instances = Instances((8, 8))
            instances.gt_boxes = Boxes(torch.full((0 if rank == self.empty else 2, 4), 50.0))
            image = torch.rand(3, 8, 8, generator=torch_generator)
            if rank == self.broken and step == 2:
                image[0, 0, 0] = torch.nan
            yield [{"image": image, "instances": instances, "file_name": f"rank{rank}.jpg", "image_id": rank}]


def records(count: int) -> list[dict]:
    """Return images, a third of them wide."""
    return [
        {"file_name": f"{i}.jpg", "image_id": i, "height": 8, "width": 12 if i % 3 else 6}
        for i in range(count)
    ]


class TestImages(list):
    """The test images, one a batch."""

    def __init__(self, count: int = 2) -> None:
        super().__init__([{**record, "image": self._image(record)}] for record in records(count))

    def _image(self, record: dict) -> torch.Tensor:
        generator = torch.Generator().manual_seed(record["image_id"])
        return torch.rand(3, record["height"], record["width"], generator=generator)


class MeanScore(DatasetEvaluator):
    """Calls the mean score AP; draws random numbers, as an evaluation may."""

    def reset(self) -> None:
        self.scores = []

    def process(self, inputs, outputs) -> None:
        self.scores += [float(output["instances"].scores[0]) for output in outputs]

    def evaluate(self) -> dict:
        torch.rand(3)
        return {"bbox": {"AP": 100 * sum(self.scores) / len(self.scores)}}


class Stop(Exception):
    """Stands for the end of a process."""
