"""The generated toy data (tools/make_toy_data.py): images as they are, held in memory, 8 a step."""

from detectron2.config import LazyCall as L
from detectron2.data.transforms import RandomFlip

from htd.data import CachedReader

from .coco import dataloader

dataloader.train.dataset.update(
    name="toy_train",
    json_file="toy/annotations/instances_train.json",
    image_root="toy/train",
    min_image_side=0,
)
dataloader.test.dataset.update(
    name="toy_val", json_file="toy/annotations/instances_val.json", image_root="toy/val"
)
dataloader.train.mapper.augmentations = [L(RandomFlip)(prob=0.5, horizontal=True)]
dataloader.test.mapper.augmentations = []
dataloader.train.mapper.reader = L(CachedReader)()
dataloader.test.mapper.reader = L(CachedReader)()
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.total_batch_size = 8
