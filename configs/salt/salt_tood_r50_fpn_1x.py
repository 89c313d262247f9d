"""TOOD R-50 FPN with the SALT operator between task decomposition and predictors, 12 epochs.

The combination is not published. No published AP; not run here.
Run: train_net.py --config-file configs/salt/salt_tood_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.models.salt import plug_in_salt
from ..tood.tood_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

# The tasks' features are mixtures of interactive layers already: the map itself is not added to one of them.
plug_in_salt(model, residual=False)
