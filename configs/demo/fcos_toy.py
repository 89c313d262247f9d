"""FCOS with narrow parts on the toy data: not run to its end here."""

from ..common.models.fcos import model
from ..common.models.narrow import narrow_dense
from .atss_toy import dataloader, lr_multiplier, optimizer, train

narrow_dense(model, [4, 8, 16, 32], scale=2)
train.output_dir = "output/fcos_toy"
