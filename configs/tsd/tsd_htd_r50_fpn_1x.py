"""HTD R-50 FPN with TSD's head in its first stage, 12 epochs. No published AP; not run here.

The combination is not published; HTD's weights do not fit the first stage.
Run: train_net.py --config-file configs/tsd/tsd_htd_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.models.tsd_htd import model
from ..htd.htd_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
