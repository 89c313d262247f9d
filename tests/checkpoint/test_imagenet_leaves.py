"""The ImageNet weights that the TSD leaves start from fill their whole backbones, but for new offsets."""

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from torchvision.models.resnet import Bottleneck, ResNet

from htd.checkpoint import imagenet
from tests import recorded

R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
# uri: blocks, groups, width of a group
NETWORKS = {
    "imagenet://torchvision/resnet50": (R50, 1, 64),
    "imagenet://torchvision/resnet101": (R101, 1, 64),
    "imagenet://torchvision/resnet152": (R152, 1, 64),
    "imagenet://mmdet/resnext101_32x4d": (R101, 32, 4),
    "imagenet://mmdet/resnext101_64x4d": (R101, 64, 4),
}
LEAVES = {
    "tsd/tsd_faster_r50_fpn_1x": ("imagenet://torchvision/resnet50", 0),
    "tsd/tsd_faster_r50_fpn_1x_continuous": ("imagenet://torchvision/resnet50", 0),
    "tsd/tsd_faster_r101_fpn_1x": ("imagenet://torchvision/resnet101", 0),
    "tsd/tsd_faster_r152_fpn_1x": ("imagenet://torchvision/resnet152", 0),
    "tsd/tsd_faster_r101_fpn_dcn_1x": ("imagenet://torchvision/resnet101", 30),
    "tsd/tsd_faster_x101_32x4d_fpn_1x": ("imagenet://mmdet/resnext101_32x4d", 0),
    "tsd/tsd_faster_x101_64x4d_fpn_dcn_ms": ("imagenet://mmdet/resnext101_64x4d", 30),
    "tsd/tsd_faster_senet154_fpn_dcn_ms": ("imagenet://timm/senet154", 47),
    "tsd/tsd_mask_r50_fpn_1x": ("imagenet://torchvision/resnet50", 0),
    "tsd/tsd_mask_r101_fpn_1x": ("imagenet://torchvision/resnet101", 0),
    "tsd/tsd_cascade_r50_fpn_20e": ("imagenet://torchvision/resnet50", 0),
    "tsd/tsd_cascade_r101_fpn_20e": ("imagenet://torchvision/resnet101", 0),
    "tsd/tsd_faster_r50_fpn_openimages": ("imagenet://torchvision/resnet50", 0),
    "tsd/tsd_htd_r50_fpn_1x": ("imagenet://torchvision/resnet50", 0),
    "tsd/tsd_htc_r50_fpn_1x": ("imagenet://torchvision/resnet50", 0),
    "baselines/faster_rcnn_r50_fpn_openimages": ("imagenet://torchvision/resnet50", 0),
}


def classifier(uri):
    with torch.device("meta"):
        if uri in NETWORKS:
            blocks, groups, width = NETWORKS[uri]
            return ResNet(Bottleneck, list(blocks), groups=groups, width_per_group=width).state_dict()
        entries = recorded.manifest("tsd", "manifest_senet154")["entries"]
        return {name: torch.zeros(shape) for name, shape in entries.items()}


@pytest.mark.parametrize(("leaf", "uri", "deformable"), [(leaf, *facts) for leaf, facts in LEAVES.items()])
def test_weights_fill_the_backbone(leaf, uri, deformable):
    cfg = LazyConfig.load(f"configs/{leaf}.py")
    assert cfg.train.init_checkpoint == uri
    with torch.device("meta"):
        bottom_up = instantiate(cfg.model.backbone.bottom_up)
    converted, _ = imagenet.convert_imagenet(classifier(uri), prefix="")
    missing, unexpected = bottom_up.load_state_dict(converted, strict=False)
    assert not unexpected
    assert len(missing) == 2 * deformable  # weight and bias of each layer that predicts offsets
    assert all("conv2_offset." in name or "conv2.offset." in name for name in missing)
