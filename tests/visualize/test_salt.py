"""SALT's drawer: the points of a cell by hand, and where the layers of small models really read."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from torchvision.ops import deform_conv2d

from htd.modeling.dense import DensePredictions, DistanceDecoder, Priors
from htd.modeling.dense.boxes import boxes_from_distances
from htd.visualize import draw_model
from htd.visualize.drawers import Call, Scene, recorded
from htd.visualize.drawers.base import prior_origins
from htd.visualize.drawers.salt import Looked, SALTDrawer, marks, places
from tests.configs.reduced import reduced_model
from tests.visualize.small import inputs_and_image

NET, GFL, RETINANET, FCOS, TOOD = (
    f"configs/salt/salt_{x}r50_fpn_1x.py" for x in ("", "gfl_", "retinanet_", "fcos_", "tood_")
)
# Two levels of 2 x 3 and 1 x 2 cells, two anchors a cell, for an image three times as wide and twice as high.
SHAPES, STRIDES, INPUT, IMAGE = ((2, 3), (1, 2)), (8, 16), (16, 24), (32, 72)
CELL = 4  # in row 1 and column 1 of the first level: its node is (8, 8)
PRIOR = 2 * CELL + 1
# From left, top, right and bottom 1, 1/2, 1/2 and 3/4 cells away; (y, x) of the nine points in it.
POINTS = ((0, 0), (-0.5, 0.25), (0, 0), (0.25, -1), (0, 0), (0, 0.5), (0.5, 0.5), (0.75, 0), (0.75, 0.5))


def offset(points, shape):
    """Return offsets (1, 18, H, W) that lead each cell to the same points."""
    taps = torch.tensor([(y, x) for y in (-1.0, 0, 1) for x in (-1.0, 0, 1)])
    return (torch.tensor(points) - taps).view(1, 18, 1, 1).repeat(1, 1, *shape)


def small(shift=4.0):
    """Return a model whose points of classes are twice as far away, and the calls of its parts.

    The middles of its anchors lie ``shift`` pixels right of and below the nodes.
    """
    nodes = [
        (x * stride, y * stride, stride)
        for (height, width), stride in zip(SHAPES, STRIDES, strict=True)
        for y in range(height)
        for x in range(width)
    ]
    nodes = torch.tensor(nodes, dtype=torch.float32).repeat_interleave(2, dim=0)
    middles, half = nodes[:, :2] + shift, nodes[:, 2:]
    priors = Priors(torch.cat([middles - half, middles + half], dim=1), SHAPES, STRIDES, 2)
    regression = 1 + torch.arange(16.0).view(1, 16, 1) / 8 * torch.ones(4)
    logits = torch.zeros(1, 16, 2)
    logits[0, PRIOR, 1] = 2.0
    twice = [(2 * y, 2 * x) for y, x in POINTS]
    calls = {
        "head": [Call((None,), DensePredictions(logits, regression))],
        "regression": [Call((None, offset(POINTS, shape)), None) for shape in SHAPES],
        "classification": [Call((None, offset(twice, shape)), None) for shape in SHAPES],
    }
    return SimpleNamespace(priors=lambda maps: priors, decoder=DistanceDecoder(in_cells=True)), calls


def scene(boxes, classes, scores, max_regions=3):
    found = Instances(IMAGE, pred_boxes=Boxes(torch.as_tensor(boxes)), pred_classes=torch.tensor(classes))
    found.scores = torch.tensor(scores)
    return Scene(np.full((*IMAGE, 3), 128, np.uint8), INPUT, found, ("disc",), 0.5, max_regions)


def test_without_offsets_a_convolution_reads_the_neighbors():
    found = places(torch.zeros(1, 18, 2, 1))
    assert found.tolist() == [[[x, y] for y in (-1, 0, 1) for x in (-1, 0, 1)]] * 2
    moved = torch.zeros(1, 18, 1, 2)
    moved[0, 4, 0, 1] = 0.5  # y of the point 2, in the second cell
    assert places(moved)[1, 2].tolist() == [1, -0.5] and places(moved)[0, 2].tolist() == [1, -1]


def test_where_a_cell_looks_by_hand():
    looked = Looked.of(*small())
    assert looked.nodes[CELL].tolist() == [8, 8] and looked.nodes[7].tolist() == [16, 0]
    wanted = torch.tensor([[8 + 8 * x, 8 + 8 * y] for y, x in POINTS])
    torch.testing.assert_close(looked.points["regression"][CELL], wanted)
    torch.testing.assert_close(looked.points["classification"][CELL], 2 * wanted - 8)
    # Boxes, unlike points, start at the host's point, here (12, 12) and in the second level (20, 4).
    torch.testing.assert_close(looked.coarse[CELL], torch.tensor([12.0 - 8, 12 - 4, 12 + 4, 12 + 6]))
    torch.testing.assert_close(looked.coarse[7], torch.tensor([20.0 - 16, 4 - 8, 20 + 8, 4 + 12]))
    away = 8 * (1 + PRIOR / 8)
    torch.testing.assert_close(looked.boxes[PRIOR], torch.tensor([12 - away] * 2 + [12 + away] * 2))
    torch.testing.assert_close(looked.scores[PRIOR], torch.tensor([0.5, 0.880797]))


def test_marks_by_hand():
    marked = marks(Looked.of(*small(shift=0.0)), PRIOR, scene([], [], []))
    coarse, final, classes, regression, cell = (where for _, where in marked)
    np.testing.assert_allclose(coarse, [0, 8, 36, 28])
    np.testing.assert_allclose(final, [24 - 51, 16 - 34, 24 + 51, 16 + 34])
    np.testing.assert_allclose(cell, [[[24, 16], [24, 16]]])
    np.testing.assert_allclose(regression[1], [[30, 8], [30, 8]])
    np.testing.assert_allclose(classes[1], [[30, 8], [36, 0]])
    np.testing.assert_allclose(classes[:, 0], regression[:, 1])


def test_a_cell_is_shown_once():
    model, calls = small()
    looked = Looked.of(model, calls)
    in_image = (looked.boxes * torch.tensor([3.0, 2, 3, 2])).tolist()
    model.head = torch.nn.Module()
    model.get_submodule = lambda name: SimpleNamespace(regression=None, classification=None)
    drawer = SALTDrawer(model)
    once = drawer.draw(scene([in_image[PRIOR]], [1], [0.88]), calls)
    assert once.shape[1] == 360
    # The other anchor of the cell, then one of another cell.
    twice = drawer.draw(scene([in_image[PRIOR], in_image[PRIOR - 1]], [1, 0], [0.88, 0.5]), calls)
    np.testing.assert_array_equal(twice, once)
    other = drawer.draw(scene([in_image[PRIOR], in_image[PRIOR - 2]], [1, 0], [0.88, 0.5]), calls)
    assert other.shape[1] == 2 * 364 - 4
    assert drawer.draw(scene([], [], []), calls) is None


def wild(path, extra_classes=0):
    """Return a small model whose points and boxes differ from cell to cell."""
    config = reduced_model(path)
    if extra_classes:
        config.head.predictors.extra_classes = extra_classes
    torch.manual_seed(0)
    model = instantiate(config).eval()
    with torch.no_grad():
        for parameter in model.head.towers.parameters():
            parameter *= 10 if parameter.dim() == 4 else 1
        model.head.towers.operator.distances.bias += 1.5
        model.head.predictors.bbox_pred.weight *= 30
    model.postprocessing.pre_nms.score_threshold = 0.0
    return model


def look(model):
    """Return what a drawer sees of a model: the calls, and what was found."""
    drawer = SALTDrawer.of(model)
    inputs, image = inputs_and_image()
    with torch.no_grad(), recorded(drawer.parts) as calls:
        found = model([inputs])[0]["instances"]
        looked = Looked.of(model, calls)
    return calls, looked, Scene(image, inputs["image"].shape[-2:], found, (), 0.0, 3)


@pytest.mark.parametrize("path", [NET, FCOS, RETINANET])
def test_the_layers_read_the_map_around_the_points(path):
    model = wild(path)
    calls, looked, _ = look(model)
    sizes = [height * width for height, width in looked.priors.shapes]
    for task in ("regression", "classification"):
        for level, cell in ((0, 54), (1, 9)):
            x, moved = (each.detach() for each in calls[task][level].inputs)
            x = x.clone().requires_grad_()
            weight = getattr(model.head.towers.operator, task).weight
            out = deform_conv2d(x, moved, weight, padding=1).flatten(2)[0, :, cell]
            read = torch.autograd.grad(out.sum(), x)[0][0].abs().amax(dim=0).nonzero().flip(1)
            around = looked.points[task][sum(sizes[:level]) + cell] / looked.priors.strides[level]
            distance = (read[:, None] - around).abs().amax(dim=2)
            assert len(read) > 1 and distance.min(dim=1).values.max() < 1
            shape = torch.tensor(x.shape[:1:-1])
            inside = ((around >= 0) & (around <= shape - 1)).all(dim=1)
            assert distance[:, inside].min(dim=0).values.max() < 1


@pytest.mark.parametrize("path", [NET, FCOS, RETINANET, TOOD])
def test_boxes_are_those_of_the_model(path):
    model = wild(path)
    calls, looked, shown = look(model)
    coarse = calls["head"][-1].output.coarse
    priors, per_cell = looked.priors, looked.priors.per_cell
    distances = coarse[0] * priors.prior_strides[::per_cell, None]
    wanted = boxes_from_distances(priors.centers[::per_cell], distances)
    torch.testing.assert_close(looked.coarse, wanted, rtol=1e-5, atol=1e-3)
    assert coarse.std() > 0.1 and len(looked.coarse) * per_cell == len(looked.boxes)
    rows = prior_origins(looked.boxes, looked.scores, shown)
    assert len(set(rows)) > 3
    found = shown.detections
    torch.testing.assert_close(looked.scores[rows, found.pred_classes], found.scores, rtol=0, atol=0)


def test_a_class_beyond_the_classes_is_not_shown():
    model = wild(NET, extra_classes=1)
    torch.nn.init.constant_(model.head.predictors.cls_score.bias[4:], 3.0)
    _, looked, shown = look(model)
    found = shown.detections
    assert looked.scores.shape[1] == 5 and looked.scores[:, 4].min() > found.scores.max()
    assert 0 < len(found) and found.pred_classes.max() < 4
    rows = prior_origins(looked.boxes, looked.scores, shown)
    torch.testing.assert_close(looked.scores[rows, found.pred_classes], found.scores, rtol=0, atol=0)
    pictures = draw_model(model, *inputs_and_image(), list("abcd"), score_threshold=0.0, max_regions=2)
    assert list(pictures) == ["detections", "salt"]


@pytest.mark.parametrize(
    ("path", "names"), [(GFL, ["detections", "salt"]), (TOOD, ["detections", "tood", "salt"])]
)
def test_a_picture_has_a_close_up_for_each_cell(path, names):
    inputs, image = inputs_and_image()
    pictures = draw_model(wild(path), inputs, image, ["disc"], score_threshold=0.0, max_regions=2)
    assert list(pictures) == names
    assert pictures["salt"].shape[1] == 2 * 364 - 4 and pictures["salt"].shape[0] >= 360 + 24 + 24
