"""HTC R-50 FPN with TSD's box heads, 12 epochs. No published AP; not run here.

The combination is not published; HTC's weights do not fit the box heads.
Run: train_net.py --config-file configs/tsd/tsd_htc_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.models.tsd_htc import model
from ..htc.htc_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
