"""ImageNet weights of backbones by URI, for ``train.init_checkpoint``.

Importing this module makes Detectron2's path manager know the scheme:

    imagenet://torchvision/resnet50          torchvision's first weights of a ResNet or ResNeXt
    imagenet://mmdet/resnext101_64x4d        OpenMMLab's weights of a ResNeXt
    imagenet://mmdet/res2net101_v1d_26w_4s   OpenMMLab's weights of Res2Net-101
    imagenet://timm/senet154                 timm's weights of SENet-154
    imagenet:///data/resnext101_64x4d.pth    a file with torchvision's names, or with those of the others

A checkpointer that opens such a path gets a file whose names are those of a detector's backbone.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.error import URLError

import torchvision
from detectron2.utils.file_io import PathHandler, PathManager
from iopath.common.file_io import get_cache_dir
from torch import Tensor
from torch.hub import load_state_dict_from_url

from htd.checkpoint.formats.base import Rule
from htd.checkpoint.formats.openmmlab import resnet_rules
from htd.checkpoint.formats.res2net import res2net_rules
from htd.checkpoint.formats.senet import senet_rules
from htd.checkpoint.io import read_checkpoint, state_dict_of, write_checkpoint
from htd.errors import UserError

SCHEME = "imagenet:"
OPENMMLAB = "https://download.openmmlab.com/pretrain/third_party/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"
FILES = {
    "mmdet/resnext101_32x4d": f"{OPENMMLAB}resnext101_32x4d-a5af3160.pth",
    "mmdet/resnext101_64x4d": f"{OPENMMLAB}resnext101_64x4d-ee2c6f71.pth",
    "mmdet/res2net101_v1d_26w_4s": f"{OPENMMLAB}res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
    "timm/senet154": f"{TIMM}legacy_senet154-e9eb9fe6.pth",
}
ORIGINS = ("torchvision/", "mmdet/", "timm/")
CLASSIFIER = ("fc.weight", "fc.bias", "last_linear.weight", "last_linear.bias")

logger = logging.getLogger(__name__)


def convert_imagenet(
    weights: Mapping[str, Tensor], prefix: str = "backbone.bottom_up."
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of an ImageNet ResNet, ResNeXt, Res2Net or SENet-154.

    Args:
        weights: tensors by torchvision's names, those of a SENet by pretrained-models' or timm's, those of a
            Res2Net by OpenMMLab's (timm's are of a network that averages in res2, too).
        prefix: what stands before our names.

    Returns:
        Tensors by our names, and the names that were dropped: those of the classifier. The
        weights of a deformable layer have the name of the layer that it replaces.

    Raises:
        UserError: other names than those of such a network.
    """
    rules = _rules(weights, prefix)
    converted, strange = {}, []
    dropped = [name for name in CLASSIFIER if name in weights]
    for name, value in weights.items():
        ours = next(filter(None, (rule.place(name) for rule in rules)), None)
        if ours is not None:
            converted[ours] = value
        elif name not in CLASSIFIER:
            strange.append(name)
    if strange or not converted:
        shown = ", ".join(strange[:3]) or "no tensor at all"
        raise UserError(
            f"not the weights of an ImageNet ResNet, Res2Net or SENet-154: found {shown}; expected names "
            "such as conv1.weight (Res2Net: stem.0.weight, SENet-154: layer0.conv1.weight) and "
            "layer1.0.conv1.weight (for a detector's file: tools/convert_checkpoint.py)"
        )
    return converted, dropped


def _rules(names: Iterable[str], prefix: str) -> tuple[Rule, ...]:
    """Return the key map of the network whose first layer is among ``names``."""
    first = {name.partition(".")[0] for name in names}
    rules = senet_rules if "layer0" in first else res2net_rules if "stem" in first else resnet_rules
    return rules("", prefix)


def read_imagenet(uri: str) -> dict[str, Tensor]:
    """Return the weights behind an ``imagenet:`` URI by their published names.

    Raises:
        UserError: an unknown name, no such file, no connection, or not a file of tensors.
    """
    place = _place(uri)
    origin, _, name = place.partition("/")
    if origin == "torchvision":
        return _download(_torchvision_url(name))
    if place.startswith(ORIGINS):
        if place not in FILES:
            raise UserError(f"{uri}: no such weights; there are {', '.join(FILES)}")
        return _download(FILES[place])
    return _read_file(place)


def _place(uri: str) -> str:
    # Some checkpointers rebuild the path with urllib, which writes imagenet:/file for imagenet:///file.
    return uri.removeprefix(SCHEME).removeprefix("//")


def _torchvision_url(name: str) -> str:
    models = torchvision.models.list_models(torchvision.models)
    known = [model for model in models if model.startswith(("resnet", "resnext"))]
    if name not in known:
        raise UserError(f"torchvision has no backbone weights {name!r}; there are {', '.join(known)}")
    return torchvision.models.get_model_weights(name).IMAGENET1K_V1.url


def _download(url: str) -> dict[str, Tensor]:
    # All these names end in the first eight digits of the file's SHA-256, which torch.hub compares.
    try:
        return load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot get {url} ({error}); download it where there is a connection and give the file: "
            "train.init_checkpoint=imagenet:///path/to/file.pth"
        ) from error


def _read_file(path: str) -> dict[str, Tensor]:
    if not os.path.isfile(path):
        raise UserError(
            f"no ImageNet weights at {path!r}; train.init_checkpoint takes imagenet://torchvision/<model>, "
            "imagenet://mmdet/<model>, imagenet://timm/<model> or imagenet:///path/to/file.pth"
        )
    return state_dict_of(read_checkpoint(path), path)


class ImageNetHandler(PathHandler):
    """Hands out ImageNet weights as a file that a detector's checkpointer loads."""

    def _get_supported_prefixes(self) -> list[str]:
        return [SCHEME]

    def _get_local_path(self, path: str, force: bool = False, **kwargs) -> str:
        """Convert the weights behind ``path`` and return the file's path; the log says what it holds."""
        weights, dropped = convert_imagenet(read_imagenet(path))
        folder = Path(get_cache_dir()) / "imagenet"
        folder.mkdir(parents=True, exist_ok=True)
        name = Path(_place(path)).stem
        target = folder / f"{name}-{zlib.crc32(path.encode()):08x}.pth"
        write_checkpoint(target, weights)
        logger.info(
            "%s: %d tensors for the backbone, dropped %s; all else in the model begins anew",
            path,
            len(weights),
            ", ".join(dropped) or "nothing",
        )
        return str(target)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs):
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path: str, **kwargs) -> bool:
        place = _place(path)
        return place.startswith(ORIGINS) or os.path.isfile(place)

    def _exists(self, path: str, **kwargs) -> bool:
        return self._isfile(path)


PathManager.register_handler(ImageNetHandler())
