"""HTC with narrow parts on the toy data, semantics from maps drawn from the instance masks: not run here.

tools/draw_semantic_maps.py draws them; they are looked for in toy/instance_maps_train.
Run: train_net.py --config-file configs/demo/htc_instance_maps_toy.py,
after tools/make_toy_data.py --output datasets/toy.
"""

from ..common.data.toy_instance_maps import dataloader
from ..common.models.htc import learn_classes_and_background
from .htc_toy import lr_multiplier, model, optimizer, train

learn_classes_and_background(model.roi_heads.context.semantic)
train.output_dir = "output/htc_instance_maps_toy"
