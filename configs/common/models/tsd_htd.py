"""HTD, ResNet-50, FPN, with TSD's head in its common stage: the towers see the image vector, too."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import VectorAugmentedPooler

from .htd import model, vector
from .tsd import offset_pooler, tsd_head, use_tsd

_first = model.roi_heads.stages[0]
use_tsd(
    _first,
    tsd_head(
        features=_first.head.features,
        displaced=L(VectorAugmentedPooler)(pooler=offset_pooler(), vector=vector),
        class_agnostic=True,
    ),
)
