"""Resizing, against numbers worked out by hand, in both conventions of boxes."""

import numpy as np
import pytest

from htd.data import ResizeCV2
from htd.data.transforms import CV2ResizeTransform, InclusiveResizeTransform
from htd.layers import InclusiveBoxes


@pytest.mark.parametrize(
    "size, new_size",
    [
        # scale = min(1333 / longer, 800 / shorter); a side becomes int(side * scale + 0.5)
        ((480, 640), (800, 1067)),  # scale 800 / 480; 640 * 1.6667 = 1066.67
        ((427, 640), (800, 1199)),  # scale 800 / 427; 640 * 1.87354 = 1199.06
        ((640, 427), (1199, 800)),
        ((300, 1000), (400, 1333)),  # scale 1.333; 300 * 1.333 = 399.9
        ((612, 612), (800, 800)),
    ],
)
def test_new_size(size, new_size):
    resize = ResizeCV2(800, 1333).get_transform(np.zeros((*size, 3), np.uint8))
    assert (resize.new_height, resize.new_width) == new_size
    assert resize.apply_image(np.zeros((*size, 3), np.uint8)).shape == (*new_size, 3)


def test_a_length_is_drawn_as_the_style_says():
    image = np.zeros((100, 200, 3), np.uint8)
    np.random.seed(0)

    def drawn(resize):
        return {resize.get_transform(image).new_height for _ in range(200)}

    assert drawn(ResizeCV2([20, 40, 60], 1000)) == {20, 40, 60}
    assert drawn(ResizeCV2([20, 24], 1000, "range")) == {20, 21, 22, 23, 24}
    with pytest.raises(ValueError, match="smallest and the largest"):
        ResizeCV2([1, 2, 3], 10, "range")
    with pytest.raises(ValueError, match="'choice' or 'range'"):
        ResizeCV2(10, 10, "both")


def test_resize_of_pixels_labels_and_points():
    # Halving with OpenCV's bilinear rule reads at 0.5, 2.5, ...: means of two neighbors, no smoothing.
    row = np.array([[0, 10, 100, 200]], np.uint8)
    resize = CV2ResizeTransform(1, 4, 1, 2)
    np.testing.assert_array_equal(resize.apply_image(row), [[5, 150]])
    np.testing.assert_array_equal(resize.apply_segmentation(row), [[0, 100]])
    np.testing.assert_allclose(
        resize.apply_coords(np.array([[1.0, 0.5], [4.0, 1.0]])), [[0.5, 0.5], [2.0, 1.0]]
    )
    whole = np.array([[3, 1]])
    np.testing.assert_array_equal(resize.apply_coords(whole), [[1.5, 1.0]])
    assert resize.apply_coords(whole.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="got an array"):
        resize.apply_image(row[:, :2])


def test_box_by_hand():
    """Pixels 10 ... 19, doubled: 20 ... 38, that is the area 20 to 39, not 20 to 40."""
    resize = ResizeCV2(40, 1000).get_transform(np.zeros((20, 30, 3), np.uint8), InclusiveBoxes())
    np.testing.assert_allclose(resize.apply_box(np.array([[10, 0, 20, 5]])), [[20, 0, 39, 9]])


def test_one_scale_for_both_axes():
    """40 x 31 pixels by 1.5 are 60 x 47; the width is rounded up, but boxes follow 1.5 exactly."""
    resize = ResizeCV2(1000, 60).get_transform(np.zeros((40, 31, 3), np.uint8), InclusiveBoxes())
    assert (resize.new_height, resize.new_width, resize.scale) == (60, 47, 1.5)
    np.testing.assert_allclose(resize.apply_box(np.array([[0, 0, 31, 40]])), [[0, 0, 46, 59.5]])


def test_lengths_are_drawn_as_without_the_convention():
    picture = np.zeros((100, 200, 3), np.uint8)
    sizes = []
    for convention in (None, InclusiveBoxes()):
        np.random.seed(3)
        resize = ResizeCV2([20, 60], 1000, "range")
        drawn = [resize.get_transform(picture, convention) for _ in range(20)]
        sizes.append([(step.new_height, step.new_width) for step in drawn])
    assert sizes[0] == sizes[1] and len(set(sizes[0])) > 5
    assert all(isinstance(step, InclusiveResizeTransform) for step in drawn)
