"""TSD's drawer: the RoI of a detection, its shifted box and its points, by hand and on small models."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from htd.layers import ContinuousBoxes, FeatureTable
from htd.modeling.cascade import LevelRule, RoIContext
from htd.visualize import draw_model
from htd.visualize.drawers import Call, Scene, drawers_of, recorded
from htd.visualize.drawers.tsd import Seen, TSDDrawer, bin_ways, marks, origins
from tests.configs.reduced import build
from tests.visualize.small import inputs_and_image

FASTER, CASCADE = (f"configs/tsd/tsd_{name}.py" for name in ("faster_r50_fpn_1x", "cascade_r50_fpn_20e"))
# Two RoIs on an input of 100 x 200 pixels, for an image three times as large, and what was computed of them.
BOXES = torch.tensor([[10.0, 20, 80, 90], [100, 10, 170, 80]])
SIZE = (300, 600)


class FirstDeltas:
    """A stage whose deltas are simply added to the boxes."""

    @staticmethod
    def decode(deltas, boxes):
        return (deltas.unflatten(1, (-1, 4)) + boxes[:, None]).flatten(1)


def seen(shifts=((0.1, 0.2),), regressed=(1,)):
    table = FeatureTable([torch.zeros(1, 2, 25, 50)], [4])
    context = RoIContext(table, [(100, 200)], LevelRule(), {}, ContinuousBoxes())
    points = torch.zeros(2, 2, 7, 7)
    points[1, 0, 2, 3], points[1, 1, 2, 3] = 0.1, -0.2
    shifts = None if shifts is None else torch.tensor(shifts)
    deltas = torch.zeros(len(regressed), 8)
    deltas[0, 4:] = torch.tensor([1.0, 2, 3, 4])
    return Seen(context, BOXES, points, BOXES[list(regressed)], shifts, deltas)


def scene(boxes, classes, scores, **options):
    found = Instances(SIZE, pred_boxes=Boxes(torch.tensor(boxes)), pred_classes=torch.tensor(classes))
    found.scores = torch.tensor(scores)
    image = np.full((*SIZE, 3), 128, np.uint8)
    return Scene(image, (100, 200), found, ("disc",), 0.5, options.get("max_regions", 3))


# Of the second RoI, shifted by (7, 14), plus the deltas of class 1, times three.
DETECTED = [3 * 108.0, 3 * 26, 3 * 180, 3 * 98]


def test_where_the_bins_go_by_hand():
    offsets = torch.zeros(2, 7, 7)
    offsets[0, 2, 3], offsets[1, 2, 3] = 0.1, -0.2
    ways = bin_ways(torch.tensor([10.0, 20, 80, 160]), offsets)
    assert ways.shape == (49, 2, 2)
    torch.testing.assert_close(ways[0], torch.tensor([[15.0, 30], [15, 30]]))
    torch.testing.assert_close(ways[1], torch.tensor([[25.0, 30], [25, 30]]))
    # The bin in row 2 and column 3; its way is 0.1 of 70 and -0.2 of 140 pixels.
    torch.testing.assert_close(ways[2 * 7 + 3], torch.tensor([[45.0, 70], [52, 42]]))


def test_marks_by_hand():
    found = dict(
        (style.label.partition(" (")[0].partition(",")[0], where)
        for style, where in marks(seen(), 1, 0, scene([DETECTED], [1], [0.9]))
    )
    np.testing.assert_allclose(found["detection"], DETECTED)
    np.testing.assert_allclose(found["proposal"], [300, 30, 510, 240])
    np.testing.assert_allclose(found["shifted box"], [321, 72, 531, 282], rtol=1e-6)
    assert found["class points"].shape == (49, 2, 2)
    np.testing.assert_allclose(found["class points"][17], [[405, 105], [426, 63]], rtol=1e-6)
    np.testing.assert_allclose(found["class points"][16], [[375, 105], [375, 105]], rtol=1e-6)


def test_what_does_not_shift_is_not_drawn():
    plain = seen(shifts=None)._replace(points=None)
    labels = [style.label for style, _ in marks(plain, 0, 0, scene([DETECTED], [1], [0.9]))]
    assert labels == ["detection", "proposal"]


def test_origins_by_hand():
    both = seen(shifts=((0.0, 0.0), (0.1, 0.2)), regressed=(0, 1))
    both.deltas[:] = both.deltas.flip(0)
    first = [3 * 10.0, 3 * 20, 3 * 80, 3 * 90]
    both = both._replace(boxes=BOXES.flip(0))
    assert origins(FirstDeltas, both, scene([DETECTED, first], [1, 0], [0.9, 0.8])) == [0, 1]
    assert origins(FirstDeltas, seen(), scene([first], [0], [0.8])) == [1]  # only that one was regressed


def test_the_box_of_a_detection_started_from_where_the_roi_was_moved():
    boxes = torch.tensor([[10.0, 20, 80, 90], [17, 27, 87, 97]])  # the first one, moved, is the second
    moved = seen(shifts=((0.1, 0.1), (0.5, 0.5)), regressed=(0, 1))._replace(boxes=boxes, regressed=boxes)
    moved.deltas.zero_()
    assert origins(FirstDeltas, moved, scene([(3 * boxes[1]).tolist()], [1], [0.9])) == [0]


def small_model(path, **overrides):
    return build(path, **overrides).eval()


@pytest.mark.parametrize("path", [FASTER, CASCADE])
def test_detections_come_from_the_rois_that_are_found(path):
    """The RoI that is found has the detection's score, which nothing in the search has read."""
    model, (inputs, image) = small_model(path), inputs_and_image()
    [_, drawer] = drawers_of(model)
    heads = {f"cls{i}": stage.head.classification.cls_score for i, stage in enumerate(model.roi_heads.stages)}
    with torch.no_grad(), recorded({**drawer.parts, **heads}) as calls:
        found = model([inputs])[0]["instances"]
    name = list(drawer.stages)[-1]
    looked = Seen.of(calls[f"{name}.classification"][0], calls[f"{name}.regression"][0])
    shown = Scene(image, inputs["image"].shape[-2:], found, (), 0.0, 3)
    rows = origins(drawer.stages[name], looked, shown)
    logits = [calls[f"cls{i}"][0].output for i in range(len(heads))]
    scores = model.roi_heads.fusion(logits)[rows, found.pred_classes]
    assert len(found) > 10
    torch.testing.assert_close(scores, found.scores, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("path", "stages", "regions"), [(FASTER, 1, 2), (CASCADE, 3, 1)])
def test_a_picture_has_a_row_for_each_stage(path, stages, regions):
    model, (inputs, image) = small_model(path), inputs_and_image()
    options = {"score_threshold": 0.0, "max_objects": 3, "max_regions": regions}
    pictures = draw_model(model, inputs, image, ["disc"], **options)
    assert list(pictures) == ["detections", "tsd"]
    legend = 24 if regions > 1 else 3 * 24  # that of a narrow picture is wrapped
    height, width = 388 * stages + legend, 364 * regions - 4
    assert pictures["tsd"].shape == (height, width, 3)


def test_a_roi_of_several_classes_is_shown_once():
    towers = SimpleNamespace(classification=None, regression=None)
    drawer = TSDDrawer({"stages.0": SimpleNamespace(head=towers, decode=FirstDeltas.decode)})
    looked = seen()
    calls = {
        "stages.0.classification": (looked.context, SimpleNamespace(boxes=looked.boxes), None, looked.points),
        "stages.0.regression": (
            looked.context,
            SimpleNamespace(boxes=looked.regressed),
            None,
            looked.shifts,
        ),
    }
    calls = {name: [Call(inputs, looked.deltas)] for name, inputs in calls.items()}
    once = drawer.draw(scene([DETECTED], [1], [0.9]), calls)
    assert once.shape[1] == 360
    twice = drawer.draw(scene([DETECTED, DETECTED], [1, 0], [0.9, 0.6]), calls)
    np.testing.assert_array_equal(twice, once)


def test_models_without_shifts_have_no_such_picture():
    model = small_model(FASTER)
    head = model.roi_heads.stages[0].head
    assert list(TSDDrawer.of(model).stages) == ["roi_heads.stages.0"]
    head.regression.shift = nn.Module()
    assert list(TSDDrawer.of(model).stages) == ["roi_heads.stages.0"]
    head.classification.shift = nn.Module()
    assert TSDDrawer.of(model) is None
