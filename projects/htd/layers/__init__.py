"""Operations on tensors that know no detector: sampling of feature maps, boxes, graphs, norms."""

from htd.layers.batch_norm import FixedBatchNorm2d
from htd.layers.border import drop_border, halve_border, keep_border
from htd.layers.box_coder import ClampedBox2BoxTransform, clip_boxes, rescale_boxes
from htd.layers.box_conventions import ContinuousBoxes, InclusiveBoxes, as_areas, as_pixels
from htd.layers.deform_conv import DeformConv2d, deform_conv2d
from htd.layers.graph import overlap_mask, semantic_attention, spatial_aggregation
from htd.layers.losses import SoftmaxCrossEntropy, TruncatedCrossEntropy
from htd.layers.matching import last_claim
from htd.layers.nms import HardNMS, SoftNMS
from htd.layers.offset_roi_pool import AlignedRegions, RoundedRegions, offset_roi_pool
from htd.layers.roi_align import roi_align
from htd.layers.sampling import FeatureTable, weighted_gather

__all__ = [
    "AlignedRegions",
    "ClampedBox2BoxTransform",
    "ContinuousBoxes",
    "DeformConv2d",
    "FeatureTable",
    "FixedBatchNorm2d",
    "HardNMS",
    "InclusiveBoxes",
    "RoundedRegions",
    "SoftNMS",
    "SoftmaxCrossEntropy",
    "TruncatedCrossEntropy",
    "as_areas",
    "as_pixels",
    "clip_boxes",
    "deform_conv2d",
    "drop_border",
    "halve_border",
    "keep_border",
    "last_claim",
    "offset_roi_pool",
    "overlap_mask",
    "rescale_boxes",
    "roi_align",
    "semantic_attention",
    "spatial_aggregation",
    "weighted_gather",
]
