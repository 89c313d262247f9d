"""HTC R-50 FPN whose box heads are TSD's, 12 epochs. No published AP; not run here.

The model is not published. HTC's weights do not fit the box heads.
"""

from ..common.models.tsd_htc import model
from ..htc.htc_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
