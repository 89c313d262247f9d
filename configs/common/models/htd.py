"""HTD, ResNet-50, FPN: a common stage, then one that decouples classification from regression."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import (
    AllLevelsPooler,
    ContextParts,
    ImageVectorPooler,
    SingleLevelPooler,
)
from htd.modeling.htd import (
    AddFusion,
    BorderAwareFeatures,
    BorderAwareRegression,
    BorderTerm,
    ConvTower,
    DecoupledHead,
    GraphClassification,
    LevelWeightedTerm,
    ProposalGraph,
    SemanticAggregation,
)

from .two_stage import box_stage, shared_fc_head, two_stage_detector

common_head = shared_fc_head()
common_head.features = L(ImageVectorPooler)(pooler=common_head.features)

heterogeneous_head = L(DecoupledHead)(
    classification=L(GraphClassification)(
        features=L(SingleLevelPooler)(output_size=7, sampling_ratio=0, aligned=True),
        graph=L(ProposalGraph)(dim=1024, num_levels=4),
        num_classes="${...num_classes}",
        channels=256,
        resolution=7,
        fc_dims=[1024, 1024],
    ),
    regression=L(BorderAwareRegression)(
        pooler=L(AllLevelsPooler)(output_size=7, sampling_ratio=0, aligned=True),
        features=L(BorderAwareFeatures)(
            terms=[L(LevelWeightedTerm)(channels=256, hidden=128), L(BorderTerm)(edge=1)]
        ),
        fusion=L(AddFusion)(alpha=1.0),
        num_classes="${...num_classes}",
        class_agnostic=True,
        tower=L(ConvTower)(channels=256, hidden=576, out_channels=1024, num_convs=4, num_groups=36),
    ),
)

model = two_stage_detector(
    stages=[
        box_stage(iou=0.5, stds=(0.1, 0.1, 0.2, 0.2), head=common_head),
        box_stage(iou=0.6, stds=(0.05, 0.05, 0.1, 0.1), head=heterogeneous_head, loss_weight=0.5),
    ]
)
# HTD's release keeps proposals without area.
model.proposal_generator.proposal_rule.min_box_size = -1.0
model.roi_heads.context = L(ContextParts)(
    image_vector=L(SemanticAggregation)(
        in_feature="p6", num_classes="${...num_classes}", channels=256, num_convs=4, loss_weight=3.0
    )
)
