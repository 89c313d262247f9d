"""Files that are recognized, so that a message can name them, but that have no key map."""

from htd.checkpoint.formats.base import Foreign

_NO_MAP = (
    "no key map exists for it, so it cannot be converted; take weights of a system that can, or an ImageNet "
    "backbone: train.init_checkpoint=imagenet://torchvision/resnet50"
)

DETECTRON2 = Foreign(
    name="detectron2",
    title="a Detectron2 model",
    marks=(r"^(backbone\.(bottom_up|fpn_)|proposal_generator\.|roi_heads\.)",),
    advice="its names are ours already: give it as train.init_checkpoint without conversion",
)

IMAGENET = Foreign(
    name="imagenet",
    title="an ImageNet classifier",
    marks=(r"^(conv1\.weight|layer1\.0\.conv1\.weight)$",),
    advice="it holds no detector; give such a backbone as train.init_checkpoint=imagenet:///path/to/file.pth",
)

# Before its plain Faster R-CNN, which has a key map and whose names are among those of the others.
MMDETECTION_1 = Foreign(
    name="mmdetection1",
    title="Mask R-CNN, Cascade R-CNN or HTC of MMDetection 1",
    marks=(r"^(bbox_head\.\d+\.shared_fcs|mask_head\.(\d+\.)?upsample|semantic_head\.lateral_convs)\.",),
    advice="there a box is one pixel wider (x2 - x1 + 1), RoIAlign is shifted by half a pixel and the "
    "background is the first class; no config has this detector with those conventions, so no conversion "
    "gives equal results; take the file of MMDetection 2 or 3, in which the names of the heads begin with "
    "roi_head",
)

OTHER = Foreign("mmdetection", "another detector of MMDetection", (r"^(bbox_head|roi_head)\.",), _NO_MAP)
