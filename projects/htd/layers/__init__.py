"""Operations on tensors that know no detector: sampling of feature maps, boxes, graphs, norms."""

from htd.layers.anchors import within_padding
from htd.layers.batch_norm import FixedBatchNorm2d, GroupNormOf
from htd.layers.border import drop_border, halve_border, keep_border
from htd.layers.box_coder import ClampedBox2BoxTransform, clip_boxes, rescale_boxes
from htd.layers.box_conventions import ContinuousBoxes, InclusiveBoxes, as_areas, as_pixels
from htd.layers.box_overlap import centerness, giou_loss, iou_loss, paired_giou, paired_iou
from htd.layers.box_sampling import repair_boxes, sample_coordinates
from htd.layers.deform_conv import DeformConv2d, deform_conv2d
from htd.layers.dense_losses import (
    distribution_focal_loss,
    expected_value,
    focal_loss,
    quality_focal_loss,
)
from htd.layers.graph import overlap_mask, semantic_attention, spatial_aggregation
from htd.layers.losses import SoftmaxCrossEntropy, TruncatedCrossEntropy
from htd.layers.matching import last_claim, match_by_iou, object_slices
from htd.layers.nms import HardNMS, SoftNMS, suppress_best
from htd.layers.offset_roi_pool import AlignedRegions, RoundedRegions, offset_roi_pool
from htd.layers.probability import product_logits
from htd.layers.roi_align import roi_align
from htd.layers.sampling import FeatureTable, weighted_gather

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
    "drop_border",
    "expected_value",
    "focal_loss",
    "giou_loss",
    "halve_border",
    "iou_loss",
    "keep_border",
    "last_claim",
    "match_by_iou",
    "object_slices",
    "offset_roi_pool",
    "overlap_mask",
    "paired_giou",
    "paired_iou",
    "product_logits",
    "quality_focal_loss",
    "repair_boxes",
    "rescale_boxes",
    "roi_align",
    "sample_coordinates",
    "semantic_attention",
    "spatial_aggregation",
    "suppress_best",
    "weighted_gather",
    "within_padding",
]
