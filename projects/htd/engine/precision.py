"""Mixed precision: the autocast region and the loss scaler that go together."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# PyTorch begins with 65536, by which a gradient of 1 overflows; those of weights, sums over all cells of a
# map, are larger on hard images. The scaler doubles it whenever 2000 steps went well.
FIRST_SCALE = 1024.0


class Precision:
    """Arithmetic of a training.

    Args:
        device: device of the model.
        enabled: whether the forward pass runs under autocast; float32 otherwise.
        dtype: ``bf16`` or ``fp16``; gradients of the latter are scaled, since they underflow.
    """

    def __init__(self, device: torch.device, *, enabled: bool = False, dtype: str = "bf16") -> None:
        self._device = device
        self._dtype = _TYPES[dtype]
        self._enabled = enabled
        scaled = enabled and dtype == "fp16"
        self.scaler = torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=scaled)

    def autocast(self) -> AbstractContextManager:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._enabled)
