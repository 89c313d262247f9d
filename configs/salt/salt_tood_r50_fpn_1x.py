"""TOOD R-50 FPN with the SALT operator between task decomposition and predictors, 12 epochs.

An unpublished combination. No published AP; not run here.
"""

from ..common.models.salt import plug_in_salt
from ..tood.tood_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

# The tasks' features are mixtures of interactive layers already: the map itself is not added to one of them.
plug_in_salt(model, residual=False)
