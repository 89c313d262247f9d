"""Optimizers; ``optimizer.params.model`` is set by the training script."""

import torch
from detectron2.config import LazyCall as L

from htd.engine.solver import parameter_groups

# The published recipe decays every parameter, norms and biases included (null: as the optimizer says), and
# gives biases the rate of weights.
SGD = L(torch.optim.SGD)(
    params=L(parameter_groups)(
        base_lr="${..lr}",
        weight_decay_norm=None,
        weight_decay_bias=None,
        bias_lr_factor=1.0,
        overrides={},
    ),
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

AdamW = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        base_lr="${..lr}",
        weight_decay_norm=0.0,
        weight_decay_bias=0.0,
        bias_lr_factor=1.0,
        overrides={},
    ),
    lr=2e-3,
    weight_decay=0.01,
)
