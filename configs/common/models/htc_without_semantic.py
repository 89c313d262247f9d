"""HTC without semantics, ResNet-50, FPN: interleaved stages, information flow between mask heads."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import RefinedPositives
from htd.modeling.htc import MaskInformationFlow

from .htc_box import model
from .two_stage import mask_branch

model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0, 0.5, 0.25])
model.roi_heads.mask_branch.update(
    flow=L(MaskInformationFlow)(num_heads=3, channels=256), roi_rule=L(RefinedPositives)()
)
