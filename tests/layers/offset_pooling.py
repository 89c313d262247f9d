"""What the tests of pooling with offsets share: pyramids, regions, and the published operator written out."""

import torch

from htd.layers import FeatureTable, offset_roi_pool
from tests.layers.test_roi_align import STRIDES, pyramid, random_regions

__all__ = ["STRIDES", "one_map", "pool", "pyramid", "random_offsets", "random_regions", "written_out"]


def pool(maps, regions, offsets, rule, *, output_size=7, samples=4):
    """Pool ``regions`` (boxes, image, level) of maps of the strides here."""
    table = FeatureTable(maps, STRIDES[: len(maps)])
    return offset_roi_pool(table, *regions, offsets, regions=rule, output_size=output_size, samples=samples)


def one_map(values, box, offsets, rule, *, stride=1, output_size=1, samples=1):
    """Pool one box of one map, values (H, W) with a cell every ``stride`` pixels; return (S, S)."""
    zero = torch.zeros(1, dtype=torch.int64)
    boxes = torch.tensor([box], dtype=values.dtype)
    table = FeatureTable([values[None, None]], [stride])
    settings = {"regions": rule, "output_size": output_size, "samples": samples}
    return offset_roi_pool(table, boxes, zero, zero, offsets, **settings)[0, 0]


def random_offsets(generator, count, *shape, dtype=torch.float64):
    """Return offsets (count, 2, *shape), a tenth of the boxes' sizes large."""
    return (0.1 * torch.randn(count, 2, *shape, generator=generator, dtype=dtype)).requires_grad_()


def away_from_zero(value):
    """Round half away from zero."""
    return int(abs(value) + 0.5) * (1 if value >= 0 else -1)


def written_out(maps, regions, offsets, *, output_size, samples):
    """Compute the published rule sample by sample.

    Offsets are (R, 2, S, S). What is floored and the number of samples are constants for the gradients.
    """
    each_roi = []
    for box, image, level, offset in zip(*regions, offsets, strict=True):
        features, scale = maps[level][image], 1 / STRIDES[level]
        # Far corners of the areas kept here are one beyond the last pixels.
        x1, y1, x2, y2 = (away_from_zero(v) for v in (box - box.new_tensor([0, 0, 1, 1])).tolist())
        left, top = x1 * scale - 0.5, y1 * scale - 0.5
        width = max((x2 + 1) * scale - 0.5 - left, 0.1)
        height = max((y2 + 1) * scale - 0.5 - top, 0.1)
        bins = [
            _bin_mean(
                features,
                left + column * width / output_size + offset[0, row, column] * width,
                top + row * height / output_size + offset[1, row, column] * height,
                width / output_size / samples,
                height / output_size / samples,
                samples,
            )
            for row in range(output_size)
            for column in range(output_size)
        ]
        each_roi.append(torch.stack(bins, dim=1).unflatten(1, (output_size, output_size)))
    return torch.stack(each_roi)


def _bin_mean(features, left, top, step_x, step_y, samples):
    height, width = features.shape[1:]
    found = []
    for i in range(samples):
        for j in range(samples):
            x, y = left + j * step_x, top + i * step_y
            if -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5:
                found.append(_bilinear(features, x.clamp(0, width - 1), y.clamp(0, height - 1)))
    return torch.stack(found).mean(dim=0) if found else features.new_zeros(len(features))


def _bilinear(features, x, y):
    (x0, xc), (y0, yc) = ((int(v.floor()), int(v.ceil())) for v in (x.detach(), y.detach()))
    fx, fy = x - x0, y - y0
    above = (1 - fx) * features[:, y0, x0] + fx * features[:, y0, xc]
    below = (1 - fx) * features[:, yc, x0] + fx * features[:, yc, xc]
    return (1 - fy) * above + fy * below
