"""What is published of TSD and its baseline on OpenImages, leaf by leaf."""

from typing import NamedTuple

COCO_IMAGES, OPEN_IMAGES = 117266, 1743042


class System(NamedTuple):
    """What a detector has; the same values of every stage.

    Attributes:
        ious: of each stage.
        box_outputs: of the box regression of each stage.
        classes: without the background.
        masks: mask heads.
        legacy: the conventions of the published weights, as opposed to Detectron2's.
        tsd: TSD's heads, as opposed to the two fully connected layers alone.
        score_threshold: least score of a detection.
        low_quality_iou: least IoU at which an object claims its best anchors.
    """

    ious: tuple = (0.5,)
    box_outputs: int = 320
    classes: int = 80
    masks: int = 0
    legacy: bool = True
    tsd: bool = True
    score_threshold: float = 0.0
    low_quality_iou: float = 0.3


FASTER = System()
MASK = FASTER._replace(masks=1)
# The background is refined, too.
CASCADE = FASTER._replace(ious=(0.5, 0.6, 0.7), box_outputs=324)
OPEN = FASTER._replace(box_outputs=2000, classes=500, score_threshold=0.01, low_quality_iou=0.5)
SYSTEMS = {
    "baselines/faster_rcnn_r50_fpn_openimages": OPEN._replace(tsd=False),
    "tsd/tsd_faster_r50_fpn_openimages": OPEN,
    "tsd/tsd_faster_r50_fpn_1x": FASTER,
    "tsd/tsd_faster_r50_fpn_1x_continuous": FASTER._replace(legacy=False),
    "tsd/tsd_faster_r101_fpn_1x": FASTER,
    "tsd/tsd_faster_r152_fpn_1x": FASTER,
    "tsd/tsd_faster_r101_fpn_dcn_1x": FASTER,
    "tsd/tsd_faster_x101_32x4d_fpn_1x": FASTER,
    "tsd/tsd_faster_x101_64x4d_fpn_dcn_ms": FASTER,
    "tsd/tsd_faster_senet154_fpn_dcn_ms": FASTER,
    "tsd/tsd_mask_r50_fpn_1x": MASK,
    "tsd/tsd_mask_r101_fpn_1x": MASK,
    "tsd/tsd_cascade_r50_fpn_20e": CASCADE,
    "tsd/tsd_cascade_r101_fpn_20e": CASCADE,
}
UNPUBLISHED = {"tsd/tsd_htc_r50_fpn_1x": "htc/htc_r50_fpn_1x", "tsd/tsd_htd_r50_fpn_1x": "htd/htd_r50_fpn_1x"}
# Images, batch, rate, epochs and those after which the rate falls to a tenth, warm-up: iterations and factor.
ONE_X = (COCO_IMAGES, 32, 0.04, (14, 9, 12), (3600, 1 / 32))
SCHEDULES = {
    "20e": ONE_X[:3] + ((21, 17, 20),) + ONE_X[4:],
    "ms": ONE_X[:3] + ((34, 24, 33),) + ONE_X[4:],
    "openimages": (OPEN_IMAGES, 64, 0.08, (12, 8, 11), (26000, 1 / 64)),
}
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
DEFORMABLE = ["res3", "res4", "res5"]
BACKBONES = {
    "r50": (50, 1, 64, "torchvision/resnet50"),
    "r101": (101, 1, 64, "torchvision/resnet101"),
    "r152": (152, 1, 64, "torchvision/resnet152"),
    "x101_32x4d": (101, 32, 4, "mmdet/resnext101_32x4d"),
    "x101_64x4d": (101, 64, 4, "mmdet/resnext101_64x4d"),
    "senet154": (None, None, None, "timm/senet154"),
}
