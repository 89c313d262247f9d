"""HTD R-50 FPN whose common first stage is TSD's, 12 epochs. No published AP; not run here.

The model is not published. HTD's weights do not fit the first stage.
"""

from ..common.models.tsd_htd import model
from ..htd.htd_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
