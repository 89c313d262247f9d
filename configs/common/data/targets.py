"""What the training targets of a data set have besides boxes, and what the corners of boxes mean."""

from detectron2.config import LazyCall as L

from htd.data import SemanticMaps
from htd.layers import InclusiveBoxes


def add_masks(dataloader):
    """Keep the masks of the training data; evaluation reads those of the test data by itself."""
    dataloader.train.dataset.masks = True
    dataloader.train.mapper.mask_format = "bitmask"


def add_stuff_maps(dataloader, folder):
    """Add semantic maps with the pixel values of COCO-Stuff: category id - 1."""
    dataloader.train.dataset.semantic_root = folder
    # What the values mean stands once, in the model.
    dataloader.train.mapper.semantic_maps = L(SemanticMaps)(
        num_classes="${model.roi_heads.context.semantic.num_semantic_classes}",
        background="${model.roi_heads.context.semantic.background}",
        ignore_value="${model.sem_seg_ignore_value}",
    )


def add_instance_maps(dataloader, folder):
    """Add semantic maps drawn by tools/draw_semantic_maps.py: the classes of the data, and the background."""
    add_stuff_maps(dataloader, folder)
    # A name of its own: Detectron2's catalogs know one folder of maps a name.
    dataloader.train.dataset.name = f"{dataloader.train.dataset.name}_instance_maps"


def use_inclusive_boxes(dataloader):
    """Resize and clip the boxes of the training data by their first and last pixels."""
    dataloader.train.mapper.convention = L(InclusiveBoxes)()
