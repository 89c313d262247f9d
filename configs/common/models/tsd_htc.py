"""HTC, ResNet-50, FPN, with TSD's heads in all stages: the towers see the semantic features, too."""

from detectron2.config import LazyCall as L

from htd.layers import AlignedRegions
from htd.modeling.cascade import SummedPoolers
from htd.modeling.tsd import SemanticOffsetPooler

from .htc import model
from .tsd import offset_pooler, tsd_head, use_tsd

for _stage in model.roi_heads.stages:
    _semantic = L(SemanticOffsetPooler)(regions=L(AlignedRegions)(), output_size=7, samples=4)
    use_tsd(
        _stage,
        tsd_head(
            features=_stage.head.features,
            displaced=L(SummedPoolers)(poolers=[offset_pooler(), _semantic]),
            class_agnostic=True,
        ),
    )
