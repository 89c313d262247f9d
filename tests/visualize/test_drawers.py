"""Which drawers a model has, and what they share: the frame of the image, maps over it, regions shown."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.layers import InclusiveBoxes
from htd.visualize import draw_model
from htd.visualize.canvas import color_map, heat_map
from htd.visualize.drawers import Scene, drawers_of
from htd.visualize.drawers.base import in_image, label, points_in_image, shown_once
from tests.configs.reduced import build
from tests.visualize.small import inputs_and_image


def scene(max_regions=2):
    """An image of 40 x 90 pixels, twice as high and three times as wide as its network's input."""
    found = Instances((40, 90), pred_boxes=Boxes(torch.zeros(2, 4)))
    found.pred_classes, found.scores = torch.tensor([0, 3]), torch.tensor([0.987, 0.5])
    return Scene(np.zeros((40, 90, 3), np.uint8), (20, 30), found, ("disc",), 0.5, max_regions)


def test_boxes_and_points_in_the_image():
    box = torch.tensor([[1.0, 2, 11, 12]])
    assert in_image(box, scene()).tolist() == [[3, 4, 33, 24]]
    # The last pixel, 10, becomes pixel 30, that of rows, 11, pixel 22.
    assert in_image(box, scene(), InclusiveBoxes()).tolist() == [[3, 4, 31, 23]]
    assert points_in_image(torch.tensor([1.0, 2]), scene()).tolist() == [3, 4]


def test_label():
    assert [label(scene(), i) for i in (0, 1)] == ["disc 0.99", "3 0.50"]


def test_what_is_shown_once():
    assert shown_once([7, 7, 4, 7, 1], scene()) == {7: 0, 4: 2}
    assert shown_once([7, 7, 4, 7, 1], scene(5)) == {7: 0, 4: 2, 1: 4}
    assert shown_once([], scene()) == {}


@pytest.mark.parametrize("highest", [None, 1.0, 0.2])
def test_how_bright_a_map_is(highest):
    values, black = np.full((4, 4), 0.5), np.zeros((8, 8, 3), np.uint8)
    brightness = heat_map(values, np.ones(2), np.full(2, 2.0), black, highest).sum(axis=2)
    most = heat_map(np.ones((4, 4)), np.ones(2), np.full(2, 2.0), black).sum(axis=2)
    assert (brightness == most).all() == (highest != 1.0)
    assert (brightness < 0.8 * most).all() == (highest == 1.0)


def test_cells_in_their_colors():
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[1, 2], colors[0, 0] = (200, 0, 0), (0, 100, 0)
    picture = color_map(colors, np.array([4.0, 6]), np.full((14, 13, 3), 50, np.uint8))
    expected = np.full((14, 13, 3), 20)
    expected[6:, 8:, 0] += 120  # what lies beyond the cells is drawn as the last of them
    expected[:6, :4, 1] += 60
    np.testing.assert_allclose(picture, expected, atol=1)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ("htd/htd_r50_fpn_1x", ["htd"]),
        ("htc/htc_r50_fpn_1x", ["htc"]),
        ("tsd/tsd_faster_r50_fpn_1x", ["tsd"]),
        ("tood/tood_r50_fpn_1x", ["tood"]),
        ("salt/salt_r50_fpn_1x", ["salt"]),
        ("tood/tood_retinanet_r50_fpn_1x", []),
        ("htc/htc_box_r50_fpn_1x", []),
        *((f"baselines/{name}_r50_fpn_1x", []) for name in ("cascade_mask_rcnn", "faster_rcnn", "gfl")),
    ],
)
def test_each_system_has_its_drawer(config, names):
    model = build(f"configs/{config}.py").eval()
    assert [drawer.name for drawer in drawers_of(model)] == ["detections", *names]
    # Without a detection there is nothing to look at.
    assert list(draw_model(model, *inputs_and_image(), score_threshold=1.0)) == ["detections"]
