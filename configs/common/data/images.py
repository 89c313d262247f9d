"""How images become inputs: RGB, OpenCV resize to a shorter side of 800, flip in training."""

from detectron2.config import LazyCall as L
from detectron2.data.transforms import RandomFlip

from htd.data import DetectionMapper, ResizeCV2


def train_mapper(max_size):
    """Return the mapper of training; ``max_size`` is what no side exceeds, in pixels."""
    return L(DetectionMapper)(
        is_train=True,
        augmentations=[
            L(ResizeCV2)(short_edge_length=800, max_size=max_size),
            L(RandomFlip)(prob=0.5, horizontal=True),
        ],
        image_format="RGB",
    )


def test_mapper(max_size):
    """Return the mapper of evaluation, for ``dataloader.test``: its channels are in the order of training."""
    return L(DetectionMapper)(
        is_train=False,
        augmentations=[L(ResizeCV2)(short_edge_length=800, max_size=max_size)],
        image_format="${...train.mapper.image_format}",
    )
