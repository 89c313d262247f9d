"""Published checkpoints brought to our models, and ImageNet weights of backbones by URI.

Importing this package makes Detectron2's path manager know ``imagenet:`` paths.
"""

from htd.checkpoint import imagenet
from htd.checkpoint.convert import convert
from htd.checkpoint.io import (
    check_output,
    find_unconverted,
    read_checkpoint,
    state_dict_of,
    write_checkpoint,
)
from htd.checkpoint.report import ConversionReport

__all__ = [
    "ConversionReport",
    "check_output",
    "convert",
    "find_unconverted",
    "imagenet",
    "read_checkpoint",
    "state_dict_of",
    "write_checkpoint",
]
