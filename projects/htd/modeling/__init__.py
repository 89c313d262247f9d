"""Models and their parts; importing it adds ours to Detectron2's registries."""

from htd.modeling import backbones, cascade, dense, htc, htd, rcnn, rpn, salt, tood, tsd

__all__ = ["backbones", "cascade", "dense", "htc", "htd", "rcnn", "rpn", "salt", "tood", "tsd"]
