"""HTC, ResNet-50, FPN: boxes and masks also see the features of a semantic branch."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import SemanticPooler, SummedPoolers
from htd.modeling.htc import FusedSemanticHead, MeanOverLabeled

from .htc_without_semantic import model


def with_semantics(pooler, sub_bins):
    """Add to a pooler's features those of the semantic branch, which were published at 14x14 bins."""
    semantic = L(SemanticPooler)(
        output_size=pooler.output_size,
        sampling_ratio=0,
        aligned=True,
        sub_bins=sub_bins,
    )
    return L(SummedPoolers)(poolers=[pooler, semantic])


def fuse_into_boxes(stages):
    """Let the box heads of all stages see the semantic features."""
    for stage in stages:
        stage.head.features = with_semantics(stage.head.features, sub_bins=2)


def fuse_into_masks(branch):
    """Let the mask heads see the semantic features."""
    branch.features = with_semantics(branch.features, sub_bins=1)


def learn_classes_and_background(semantic):
    """Let the semantic branch learn from maps that are drawn from the instance masks."""
    semantic.update(num_semantic_classes="${...num_classes}", background=True)


model.roi_heads.context.semantic = L(FusedSemanticHead)(
    in_features=["p2", "p3", "p4", "p5", "p6"],
    fused_feature="p3",
    stride=8,
    num_semantic_classes=183,
    background=False,
    channels=256,
    num_convs=4,
    ignore_value="${....sem_seg_ignore_value}",
    loss_weight=0.2,
    loss_mean=L(MeanOverLabeled)(),
)
model.sem_seg_ignore_value = 255
fuse_into_boxes(model.roi_heads.stages)
fuse_into_masks(model.roi_heads.mask_branch)
