"""The toy data with masks."""

from .targets import add_masks
from .toy import dataloader

add_masks(dataloader)
