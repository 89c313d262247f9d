"""Models and their parts; importing it adds ours to Detectron2's registries."""

from htd.modeling import backbones, cascade, htc, htd, rcnn, rpn, tsd

__all__ = ["backbones", "cascade", "htc", "htd", "rcnn", "rpn", "tsd"]
