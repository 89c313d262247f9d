"""TOOD's drawer: the prior of a detection and where its sides were read, by hand and on small models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.modeling.dense import DensePredictions, DistanceDecoder, Priors
from htd.modeling.tood import SampledBoxDecoder
from htd.visualize import draw_model
from htd.visualize.canvas import heat_map
from htd.visualize.drawers import Call, Scene, drawers_of, recorded
from htd.visualize.drawers.base import level_of, prior_origins
from htd.visualize.drawers.tood import Looked, TOODDrawer, marks
from tests.configs.reduced import build
from tests.visualize.small import inputs_and_image

FREE, BASED, FCOS = (
    f"configs/tood/tood_{x}.py" for x in ("r50_fpn_1x", "r50_fpn_anchor_based_1x", "fcos_r50_fpn_1x")
)
# Two levels of 2 x 3 and 1 x 2 cells, for an image three times as wide and twice as high as the input.
SHAPES, STRIDES, INPUT, IMAGE = ((2, 3), (1, 2)), (8, 16), (16, 24), (32, 72)
PRIOR = 4  # in row 1 and column 1 of the first level, at (8, 8)


def priors():
    cells = [
        (x * stride, y * stride, stride)
        for (height, width), stride in zip(SHAPES, STRIDES, strict=True)
        for y in range(height)
        for x in range(width)
    ]
    boxes = torch.tensor([[x - s, y - s, x + s, y + s] for x, y, s in cells], dtype=torch.float32)
    return Priors(boxes, SHAPES, STRIDES)


def small(offsets, *, distance=1.0, repair=True):
    """Return the call of the head of a model whose boxes reach so many cells far from each prior."""
    regression = torch.cat([torch.full((1, 8, 4), distance), torch.zeros(1, 8, 8)], dim=2)
    regression[0, :, 0] += torch.arange(8) / 8  # no two boxes are alike
    regression[0, PRIOR, 4:] = torch.tensor(offsets)
    logits = torch.zeros(1, 8, 2)
    logits[0, PRIOR, 1] = 2.0
    decoder = SampledBoxDecoder(decoder=DistanceDecoder(in_cells=True), repair=repair)
    model = SimpleNamespace(priors=lambda maps: priors(), decoder=decoder)
    return model, Call((None,), DensePredictions(logits, regression))


# (dy, dx) of the left, upper, right and lower side: a cell to the left, one up, one to the right, none.
OFFSETS = (0.0, -1, -1, 0, 0, 1, 0, 0)


def scene(boxes, classes, scores, max_regions=3):
    found = Instances(IMAGE, pred_boxes=Boxes(torch.as_tensor(boxes)), pred_classes=torch.tensor(classes))
    found.scores = torch.tensor(scores)
    return Scene(np.full((*IMAGE, 3), 128, np.uint8), INPUT, found, ("disc",), 0.5, max_regions)


def test_where_sides_are_read_by_hand():
    looked = Looked.of(*small(OFFSETS))
    assert looked.places[PRIOR].tolist() == [[0, 8], [8, 0], [16, 8], [8, 8]]
    # Distances are 1 cell, on the left 1 + 3/8 at the prior left of this one.
    torch.testing.assert_close(looked.before[PRIOR], torch.tensor([8 - 8 * 1.5, 0, 16, 16]))
    torch.testing.assert_close(looked.aligned[PRIOR], torch.tensor([0 - 8 * 1.375, -8, 24, 16]))
    assert (looked.places[7] == torch.tensor([16.0, 0])).all()
    assert [level_of(looked.priors, prior) for prior in range(8)] == [0] * 6 + [1] * 2
    torch.testing.assert_close(looked.scores[PRIOR], torch.tensor([0.5, 0.880797]))


@pytest.mark.parametrize("repair", [True, False])
def test_a_repaired_box_was_read_at_its_prior(repair):
    # Left and right side are read two cells to the other side.
    crossed = (0.0, 1, 0, 0, 0, -1, 0, 0)
    looked = Looked.of(*small(crossed, distance=0.1, repair=repair))
    ways = looked.places[PRIOR] - torch.tensor([8.0, 8])
    assert ways.tolist() == ([[0, 0]] * 4 if repair else [[8, 0], [0, 0], [-8, 0], [0, 0]])
    assert (looked.aligned[PRIOR] == looked.before[PRIOR]).all() == repair


def test_marks_by_hand():
    looked = Looked.of(*small(OFFSETS))
    before, aligned, left, upper, right, lower, prior = (
        where for _, where in marks(looked, PRIOR, scene([], [], []))
    )
    np.testing.assert_allclose(before, [-12, 0, 48, 32])
    np.testing.assert_allclose(aligned, [-33, -16, 72, 32])
    np.testing.assert_allclose(prior, [[[24, 16], [24, 16]]])
    # To the place from the prior, and straight from the side.
    np.testing.assert_allclose(left, [[[24, 16], [0, 16]], [[-33, 16], [0, 16]]])
    np.testing.assert_allclose(upper, [[[24, 16], [24, 0]], [[24, -16], [24, 0]]])
    np.testing.assert_allclose(right, [[[24, 16], [48, 16]], [[72, 16], [48, 16]]])
    np.testing.assert_allclose(lower, [[[24, 16], [24, 16]], [[24, 32], [24, 16]]])


def test_origins_by_hand():
    looked = Looked.of(*small(OFFSETS))
    in_image = looked.aligned * torch.tensor([3.0, 2, 3, 2])
    rows = [PRIOR, 0, 7]
    assert (
        prior_origins(looked.aligned, looked.scores, scene(in_image[rows], [1, 0, 0], [0.88, 0.5, 0.5]))
        == rows
    )
    clipped = torch.minimum(in_image.clamp(min=0), torch.tensor([72.0, 32, 72, 32]))
    assert prior_origins(looked.aligned, looked.scores, scene(clipped[[PRIOR]], [1], [0.88])) == [PRIOR]
    decayed = scene(in_image[[0]], [1], [0.1])
    assert prior_origins(looked.aligned, looked.scores, decayed) == [0]


def test_of_equal_boxes_the_score_tells_the_prior():
    model, call = small(OFFSETS)
    call.output.regression[0, 5, :4] = torch.tensor([1.0, 0, 0, 0])  # at (16, 8)
    call.output.regression[0, 3, :4] = torch.tensor([-1.0, 0, 2, 0])  # at (0, 8)
    call.output.logits[0, 5, 0], call.output.logits[0, 3, 0] = 1.0, -1.0
    looked = Looked.of(model, call)
    assert looked.aligned[3].tolist() == looked.aligned[5].tolist() == [8, 8, 16, 8]
    box = [24.0, 16, 48, 16]
    assert prior_origins(looked.aligned, looked.scores, scene([box, box], [0, 0], [0.731, 0.269])) == [5, 3]


def test_a_cell_of_the_map_lies_where_it_looks():
    values = np.zeros((4, 5), np.float32)
    values[1, 3] = 0.4
    picture = heat_map(values, np.array([6.0, 10]), np.array([12.0, 20]), np.zeros((80, 60, 3), np.uint8))
    brightness = picture.sum(axis=2)
    rows, columns = (brightness == brightness.max()).nonzero()
    assert rows.mean() + 0.5 == pytest.approx(10 + 20, abs=1)
    assert columns.mean() + 0.5 == pytest.approx(6 + 3 * 12, abs=1)
    assert brightness.max() > 300 and brightness[30, 20] < 30
    assert not heat_map(np.zeros((4, 5)), np.zeros(2), np.ones(2), np.zeros((8, 6, 3), np.uint8)).max() > 10


def wild(path):
    """Return a small model whose offsets and boxes differ from prior to prior."""
    model = build(path).eval()
    with torch.no_grad():
        for last, gain in (
            (model.head.predictors.box_offsets[2], 300),
            (model.head.predictors.bbox_pred, 30),
        ):
            last.weight *= gain
    model.postprocessing.pre_nms.score_threshold = 0.0
    return model


@pytest.mark.parametrize("path", [FREE, BASED, FCOS])
def test_detections_come_from_the_priors_that_are_found(path):
    model, (inputs, image) = wild(path), inputs_and_image()
    [_, drawer] = drawers_of(model)
    with torch.no_grad(), recorded(drawer.parts) as calls:
        found = model([inputs])[0]["instances"]
    looked = Looked.of(model, calls["head"][0])
    shown = Scene(image, inputs["image"].shape[-2:], found, (), 0.0, 3)
    rows = prior_origins(looked.aligned, looked.scores, shown)
    assert len(found) > 10 and len(set(rows)) > 3
    torch.testing.assert_close(looked.scores[rows, found.pred_classes], found.scores, rtol=0, atol=0)
    assert (looked.places - looked.priors.centers[:, None]).abs().max() > 1
    for row, box in zip(rows[:5], found.pred_boxes.tensor, strict=False):
        aligned = dict(marks_by_label(looked, row, shown))["aligned box"]
        limits = np.array([180, 120, 180, 120])
        np.testing.assert_allclose(np.clip(aligned, 0, limits), np.clip(box.numpy(), 0, limits), atol=1e-3)


def marks_by_label(looked, row, shown):
    return [(style.label, where) for style, where in marks(looked, row, shown)]


@pytest.mark.parametrize(("path", "regions"), [(FREE, 3), (BASED, 1), (FCOS, 2)])
def test_a_picture_has_a_map_for_each_level_and_a_close_up_for_each_detection(path, regions):
    model, (inputs, image) = wild(path), inputs_and_image()
    options = {"score_threshold": 0.0, "max_objects": 30, "max_regions": regions}
    pictures = draw_model(model, inputs, image, ["disc"], **options)
    assert list(pictures) == ["detections", "tood"]
    parts, rest = divmod(pictures["tood"].shape[1] + 4, 364)
    assert rest == 0 and regions < parts <= 2 * regions and pictures["tood"].shape[0] >= 360 + 24 + 4 + 24


def test_a_prior_of_several_classes_is_shown_once():
    model, call = small(OFFSETS)
    looked = Looked.of(model, call)
    box = (looked.aligned[PRIOR] * torch.tensor([3.0, 2, 3, 2])).tolist()
    model.head = SimpleNamespace(predictors=SimpleNamespace(score_map=None))
    maps = [Call((), torch.randn(1, 1, *shape)) for shape in SHAPES]
    drawer = TOODDrawer(model)
    once = drawer.draw(scene([box], [1], [0.9]), {"head": [call], "score_map": maps})
    assert once.shape[1] == 2 * 364 - 4
    twice = drawer.draw(scene([box, box], [1, 0], [0.9, 0.6]), {"head": [call], "score_map": maps})
    np.testing.assert_array_equal(twice, once)
