"""The device that a config names."""

from __future__ import annotations

import torch

from htd.errors import UserError, reason


def parse_device(name: object) -> torch.device:
    """Return the device of a name, whether or not this machine has it.

    Raises:
        UserError: no device of torch has that name.
    """
    try:
        return torch.device(name)
    except (RuntimeError, TypeError):
        raise UserError(f"train.device={name} names no device: write cpu, cuda, cuda:1 or mps") from None


def usable_device(name: object) -> torch.device:
    """Return the device of a name after computing something on it.

    Raises:
        UserError: no device of torch has that name, or this machine or this torch does not have it.
    """
    device = parse_device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"train.device is {name}, but torch finds no GPU: set train.device=cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the latter for what torch was not compiled with
        raise UserError(
            f"train.device={name} cannot be used here ({reason(error)}): set train.device=cpu"
        ) from None
    return device
