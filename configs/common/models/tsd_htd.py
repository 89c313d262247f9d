"""HTD, ResNet-50, FPN, with TSD's head in its common stage: the towers see the image vector, too."""

from detectron2.config import LazyCall as L

from htd.modeling.cascade import ImageVectorPooler

from .htd import model
from .tsd import offset_pooler, tsd_head, use_tsd

_first = model.roi_heads.stages[0]
use_tsd(
    _first,
    tsd_head(
        features=_first.head.features,
        displaced=L(ImageVectorPooler)(pooler=offset_pooler()),
        class_agnostic=True,
    ),
)
