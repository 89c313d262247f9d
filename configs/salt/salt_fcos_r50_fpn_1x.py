"""FCOS R-50 FPN with the SALT operator after its towers, 12 epochs. No published AP; not run here.

Run: train_net.py --config-file configs/salt/salt_fcos_r50_fpn_1x.py --num-gpus 8.
"""

from ..baselines.fcos_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train
from ..common.models.salt import plug_in_salt

plug_in_salt(model)
