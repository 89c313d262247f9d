"""Post-processing of recorded outputs: TOOD's, and that of its authors' own code."""

from functools import lru_cache

import pytest
import torch

from htd.layers import HardNMS
from htd.modeling.dense.postprocessing import LocationTopK, PairTopK, RescaleFirst
from tests.recorded import close, tensors

IMAGE_SIZE = (128, 192)
LEVELS = {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}
# What an image was enlarged by before it came to the network: (height, width).
FACTORS = {"rescaled": (1.2, 1.25), "author_rescaled": (1.2, 1.25)}
PUBLISHED = {"threshold": 0.05, "topk": 1000, "iou": 0.6, "most": 100, "min_box_size": 0.0}
VARIANTS = {
    "default": {},
    "rescaled": {},
    "thr30": {"threshold": 0.3},
    "pre50_max30": {"topk": 50, "most": 30},
    "iou40": {"iou": 0.4},
    "empty": {"threshold": 0.999},
    "no_min_size": {"min_box_size": None},
    "author_default": {"min_box_size": None},
    "author_rescaled": {"min_box_size": None},
}


@lru_cache(maxsize=1)
def outputs():
    """Scores (P, 80) and boxes (P, 4) in pixels of all priors, and the priors of each level."""
    case, scores, boxes = tensors("tood", "postproc"), [], []
    for level, stride in LEVELS.items():
        scores.append(case[f"cls_score_{level}"].flatten(1).T)
        boxes.append(case[f"bbox_pred_{level}"].flatten(1).T * stride)
    return torch.cat(scores), torch.cat(boxes), [len(x) for x in scores]


def chain(variant):
    value = PUBLISHED | VARIANTS[variant]
    author = variant.startswith("author")
    selection = LocationTopK if author else PairTopK
    return RescaleFirst(
        pre_nms=selection(score_threshold=value["threshold"], topk=value["topk"]),
        nms=HardNMS(iou_threshold=value["iou"]),
        max_detections=value["most"],
        clip=author,
        min_box_size=value["min_box_size"],
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_detections_are_the_published_ones(variant):
    case, (scores, boxes, sizes), published = tensors("tood", "postproc"), outputs(), chain(variant)
    candidates = published.choose(scores, boxes, None, sizes, IMAGE_SIZE)
    factors = FACTORS.get(variant, (1.0, 1.0))
    found = published.select(candidates, tuple(s / f for s, f in zip(IMAGE_SIZE, factors, strict=True)))
    assert torch.equal(found.pred_classes, case[f"{variant}.labels"].long())
    close(found.scores, case[f"{variant}.scores"], 0)
    close(found.pred_boxes.tensor, case[f"{variant}.boxes"], 1e-3)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("author")])
def test_as_many_candidates_as_published(variant):
    published, seen = chain(variant), []
    nms = published.nms
    published.nms = lambda boxes, *rest: seen.append(len(boxes)) or nms(boxes, *rest)
    published.max_detections = 10_000  # so that all candidates are needed
    scores, boxes, sizes = outputs()
    published.select(published.choose(scores, boxes, None, sizes, IMAGE_SIZE), IMAGE_SIZE)
    assert seen == [int(tensors("tood", "postproc")[f"{variant}.num_candidates"])]


def test_the_two_ways_differ():
    """So that the variants above tell the selections, the clipping and the least size apart."""
    case = tensors("tood", "postproc")
    for one, other in [("default", "author_default"), ("default", "no_min_size")]:
        assert not torch.equal(case[f"{one}.boxes"], case[f"{other}.boxes"])
