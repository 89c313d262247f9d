"""TSD on Mask R-CNN, ResNet-50, FPN, with the conventions of the published weights."""

from .legacy import use_legacy_masks
from .tsd_faster_legacy import model
from .two_stage import mask_branch

model.roi_heads.mask_branch = mask_branch(loss_weights=[1.0])
use_legacy_masks(model)
