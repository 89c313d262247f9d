"""What tests of several drawers show to their small models."""

import numpy as np
import torch


def inputs_and_image(seed=0):
    """Return the input of a model, 59 x 89 pixels of smoothed noise, and its image, 120 x 180."""
    image = np.random.default_rng(seed).integers(0, 256, (120, 180, 3), dtype=np.uint8)
    smooth = torch.nn.functional.avg_pool2d(torch.tensor(image.transpose(2, 0, 1)).float(), 3, 2)
    return {"image": smooth.byte(), "height": 120, "width": 180}, image


class Captured(list):
    """Stands for ``draw_closeups``: keeps the rows that it is given."""

    def __call__(self, image_rgb, rows):
        self[:] = rows
        return image_rgb
