"""HTC without masks and semantics with narrow parts on the toy data: not run to its end here."""

from ..common.models.htc_box import model
from ..common.models.narrow import narrow_cascade
from .htd_toy import dataloader, lr_multiplier, optimizer, train

narrow_cascade(model)
train.output_dir = "output/htc_box_toy"
