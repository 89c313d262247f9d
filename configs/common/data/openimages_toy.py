"""The toy data in OpenImages' format (tools/make_toy_data.py --open-images), in memory, 8 a step."""

from detectron2.config import LazyCall as L
from detectron2.data.transforms import RandomFlip

from htd.data import CachedReader

from .openimages import dataloader

for _part, _split in ((dataloader.train, "train"), (dataloader.test, "val")):
    _part.dataset.update(
        name=f"openimages_toy_{_split}",
        image_root=f"toy/{_split}",
        classes_file="toy/open_images/classes.csv",
    )
    _part.dataset.sizes_file = None
    _part.dataset.annotations.boxes = f"toy/open_images/{_split}-boxes.csv"
    _part.mapper.reader = L(CachedReader)()
    _part.num_workers = 0
dataloader.test.dataset.annotations.update(
    labels="toy/open_images/val-labels.csv", images="toy/open_images/val-images.csv"
)
dataloader.test.dataset.hierarchy_file = "toy/open_images/hierarchy.json"
dataloader.train.mapper.augmentations = [L(RandomFlip)(prob=0.5, horizontal=True)]
dataloader.test.mapper.augmentations = []
dataloader.train.total_batch_size = 8
