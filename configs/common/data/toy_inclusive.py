"""The toy data for detectors whose boxes name their first and last pixels; nothing is resized."""

from .targets import use_inclusive_boxes
from .toy import dataloader

use_inclusive_boxes(dataloader)
