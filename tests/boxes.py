"""Random boxes for tests."""

import math

import torch


def random_boxes(generator, count, height, width, smallest=12.0):
    """Boxes (count, 4) inside the image, sides log-uniform from ``smallest`` to the image's."""
    low, high = math.log(smallest), math.log(min(height, width))
    sides = torch.empty(count, 2).uniform_(low, high, generator=generator).exp()
    start = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    return torch.cat([start, start + sides], 1)
