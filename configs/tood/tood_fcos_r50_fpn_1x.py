"""FCOS R-50 FPN with T-Head instead of towers and centerness, 12 epochs.

The combination is not published. No published AP; not run here.
Run: train_net.py --config-file configs/tood/tood_fcos_r50_fpn_1x.py --num-gpus 8.
"""

from detectron2.config import LazyCall as L

from htd.modeling.tood import SampledBoxDecoder

from ..baselines.fcos_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train
from ..common.models.tood import aligned_head

model.head.update(aligned_head(model.head.predictors.box_rule))
model.decoder = L(SampledBoxDecoder)(decoder=model.decoder, repair=True)
# The score is aligned with the box already: no centerness to learn, none to rank by.
del model.criterion.terms[2]
model.postprocessing.pre_nms.ranking = None
