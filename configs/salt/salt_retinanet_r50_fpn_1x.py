"""RetinaNet R-50 FPN with the SALT operator behind its towers, 12 epochs. No published AP; not run here."""

from ..baselines.retinanet_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train
from ..common.models.salt import plug_in_salt

plug_in_salt(model)
