"""Operations on tensors that know no detector: sampling of feature maps, boxes, losses, norms."""

from htd.layers.boxes import (
    ClampedBox2BoxTransform,
    ContinuousBoxes,
    InclusiveBoxes,
    as_areas,
    as_pixels,
    centerness,
    clip_boxes,
    low_quality_matches,
    match_by_iou,
    object_slices,
    paired_iou,
    rescale_boxes,
    within_padding,
)
from htd.layers.deform_conv import DeformConv2d, deform_conv2d
from htd.layers.losses import (
    SoftmaxCrossEntropy,
    TruncatedCrossEntropy,
    distribution_focal_loss,
    expected_value,
    focal_loss,
    giou_loss,
    iou_loss,
    product_logits,
    quality_focal_loss,
)
from htd.layers.nms import HardNMS, SoftNMS, suppress_best
from htd.layers.norms import FixedBatchNorm2d, GroupNormOf, norm_layer
from htd.layers.offset_roi_pool import AlignedRegions, RoundedRegions, offset_roi_pool
from htd.layers.roi_align import roi_align
from htd.layers.sampling import (
    FeatureTable,
    full_precision,
    repair_boxes,
    sample_coordinates,
    weighted_gather,
)

__all__ = [
    "AlignedRegions",
    "ClampedBox2BoxTransform",
    "ContinuousBoxes",
    "DeformConv2d",
    "FeatureTable",
    "FixedBatchNorm2d",
    "GroupNormOf",
    "HardNMS",
    "InclusiveBoxes",
    "RoundedRegions",
    "SoftNMS",
    "SoftmaxCrossEntropy",
    "TruncatedCrossEntropy",
    "as_areas",
    "as_pixels",
    "centerness",
    "clip_boxes",
    "deform_conv2d",
    "distribution_focal_loss",
    "expected_value",
    "focal_loss",
    "full_precision",
    "giou_loss",
    "iou_loss",
    "low_quality_matches",
    "match_by_iou",
    "norm_layer",
    "object_slices",
    "offset_roi_pool",
    "paired_iou",
    "product_logits",
    "quality_focal_loss",
    "repair_boxes",
    "rescale_boxes",
    "roi_align",
    "sample_coordinates",
    "suppress_best",
    "weighted_gather",
    "within_padding",
]
