"""Post-processing of recorded outputs of GFL's head: distributions, best locations, clipping."""

import pytest
import torch

from htd.layers import HardNMS
from htd.modeling.dense.candidates import LocationSelection
from htd.modeling.dense.decoders import DistributionDecoder
from htd.modeling.dense.postprocessing import RescaleFirst
from htd.modeling.dense.priors import Priors
from tests.golden import close, random_input, tensors

SHAPES, STRIDES = ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3)), (8, 16, 32, 64, 128)
# Sizes of the images without padding, and what they were enlarged by: (height, width).
IMAGES = [((250, 310), (0.505, 0.5)), ((200, 320), (1.25, 1.25))]
SEED = 73


def rows(name, channels, image):
    """Rows (P, channels) of one image of the recorded batch of maps of all levels."""
    maps = [random_input(f"{name}{i}", (2, channels, *shape), SEED)[image] for i, shape in enumerate(SHAPES)]
    return torch.cat([x.flatten(1).T for x in maps])


def priors():
    """Anchors whose middles are the corners of their cells."""
    boxes = []
    for (height, width), stride in zip(SHAPES, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        middle = torch.stack([x, y, x, y], dim=-1).flatten(0, 1) * float(stride)
        boxes.append(middle + torch.tensor([-4, -4, 4, 4]) * stride)
    return Priors(torch.cat(boxes), SHAPES, STRIDES)


@pytest.mark.parametrize("image", [0, 1])
def test_detections_are_the_published_ones(image):
    case, (size, factors) = tensors("salt", "gfl_inference"), IMAGES[image]
    scores = (1.5 * rows("cls", 80, image) - 6).sigmoid()
    (boxes,) = DistributionDecoder()(3 * rows("reg", 68, image)[None], priors())
    chain = RescaleFirst(
        selection=LocationSelection(score_threshold=0.05, topk=1000),
        nms=HardNMS(iou_threshold=0.6),
        max_detections=100,
        clip=True,
        min_box_size=None,
    )
    candidates = chain.candidates(scores, boxes, None, priors().level_sizes, size)
    assert len(candidates) == case[f"num_candidates{image}"]
    found = chain.detections(candidates, tuple(s / f for s, f in zip(size, factors, strict=True)))
    wanted = case[f"dets{image}"]
    assert torch.equal(found.pred_classes, case[f"labels{image}"])
    close(found.scores, wanted[:, 4], 1e-4)
    close(found.pred_boxes.tensor, wanted[:, :4], 0.02)
