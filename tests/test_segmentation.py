"""Which segmentations are valid, and their masks: pycocotools must never see run lengths that do not fit."""

import numpy as np
import pycocotools.mask as mask_util
import pytest

from htd.data.toy.drawing import run_lengths
from htd.segmentation import rasterized, valid_segmentation

SIZE = (40, 30)
TRIANGLE = [1, 1, 9, 1, 5, 8]


def compressed(mask):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.99, 1.0])
def test_run_lengths_of_any_mask_are_valid(density):
    masks = np.random.default_rng(0).random((20, *SIZE)) < density
    for mask in masks:
        text = compressed(mask)
        assert valid_segmentation(text, SIZE) == text
        given = run_lengths(mask.astype(np.uint8))
        assert valid_segmentation(given, SIZE) == text
        np.testing.assert_array_equal(mask_util.decode(text), mask)


@pytest.mark.parametrize(
    "counts",
    [
        "04",  # runs of 0 and 4 only: pycocotools would leave the rest of the mask to chance
        "Xl4",
        "",
        "é",
        "`",
        "0`U1\0",  # pycocotools reads to the zero only
        "0`U1p",
        "0`U1\ud800",
        "P" * 12 + "0",  # more bits than a number has
        [0, 4],
        [5000],
        [1, -4, 1203],
        [0.5, 1199.5],
        ["a"],
        [[1200]],
        None,
        7,
    ],
)
def test_runs_that_do_not_fill_the_mask_are_refused(counts):
    assert not valid_segmentation({"size": list(SIZE), "counts": counts}, SIZE)


def read_slowly(text):
    """Return the run lengths of compressed text, one character after the other, as COCO defines them."""
    runs, bits = [], []
    for code in (ord(character) - 48 for character in text):
        bits += [code >> k & 1 for k in range(5)]
        if not code & 32:
            value = sum(bit << k for k, bit in enumerate(bits)) - (bits[-1] << len(bits))
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            bits = []
    return None if bits else runs


def test_texts_are_accepted_if_and_only_if_their_runs_fill_the_mask():
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(1000):
        height, width = (int(side) for side in rng.integers(1, 30, 2))
        rle = compressed(rng.random((height, width)) < rng.random())
        text = list(rle["counts"])
        if rng.random() < 0.7:
            text[rng.integers(len(text))] = chr(rng.integers(48, 112))
        rle["counts"] = "".join(text)
        runs = read_slowly(rle["counts"])
        fills = runs is not None and min(runs) >= 0 and sum(runs) == height * width
        accepted += fills
        assert bool(valid_segmentation(rle, (height, width))) == fills
    assert 300 < accepted < 900


def test_text_that_is_cut_short_or_too_long_is_refused():
    whole = compressed(np.eye(*SIZE))
    for counts in (whole["counts"][:-3], whole["counts"] + "9"):
        assert not valid_segmentation(whole | {"counts": counts}, SIZE)


@pytest.mark.parametrize("size", [[30, 40], [40], None, "40x30"])
def test_run_lengths_of_another_size_are_refused(size):
    assert valid_segmentation({"size": [40.0, 30.0], "counts": [0, 4, 1196]}, SIZE)["size"] == [40, 30]
    assert not valid_segmentation({"size": [40.5, 30], "counts": [0, 4, 1211]}, (40.5, 30))
    assert not valid_segmentation({"size": size, "counts": [0, 4, 1196]}, SIZE)


@pytest.mark.parametrize(
    "points",
    [
        TRIANGLE[:4],
        [*TRIANGLE, 3],
        "points",
        None,
        [*TRIANGLE[:5], "8"],
        [*TRIANGLE[:5], float("nan")],
        [*TRIANGLE[:5], 1e12],
        [TRIANGLE] * 6,
    ],
)
def test_points_that_are_no_polygon_are_left_out(points):
    assert valid_segmentation([points], SIZE) == []
    assert valid_segmentation([points, TRIANGLE], SIZE) == [TRIANGLE]


def test_polygons_of_an_object_make_one_mask():
    squares = [[0, 0, 4, 0, 4, 4, 0, 4], [10, 20, 14, 20, 14, 24, 10, 24]]
    expected = np.zeros(SIZE, np.uint8)
    expected[:4, :4] = expected[20:24, 10:14] = 1
    mask = mask_util.decode(rasterized(squares, (40.0, 30.0)))
    np.testing.assert_array_equal(mask, expected)
