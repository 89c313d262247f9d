"""The toy data: repeatable, the same layout at every strength, exact masks, honest annotations."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from htd.data.toy import CATEGORIES, make_toy_data
from htd.data.toy.drawing import HEAP_LABEL, annotations, draw, glyph_center, polygons, run_lengths, stuff_map
from htd.data.toy.layout import TEXTURES, draw_layout
from htd.errors import UserError

INDICES = range(60)


def drawn(seed, index, strength):
    layout = draw_layout(seed, index)
    return layout, draw(layout, strength)


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0])
def test_the_layout_is_the_same_at_every_strength(strength):
    for index in INDICES:
        (layout, image), (reference, at_half) = drawn(0, index, strength), drawn(0, index, 0.5)
        found, expected = annotations(layout, image), annotations(reference, at_half)
        assert [item["category_id"] for item in found] == [item["category_id"] for item in expected]
        outside = (image.labels == 0) & (at_half.labels == 0)
        np.testing.assert_array_equal(image.pixels[outside], at_half.pixels[outside])
        if strength > 0:
            for item, partner in zip(found, expected, strict=True):
                if not item["iscrowd"]:
                    assert np.abs(np.subtract(item["bbox"], partner["bbox"])).max() <= 4


def test_class_evidence_moves_away_from_the_center_with_the_strength():
    objects = [item for index in INDICES for item in draw_layout(0, index).objects]
    means = []
    for strength in (0.0, 0.5, 1.0):
        distances = []
        for item in objects:
            x, y, w, h = item.box
            offset = glyph_center(item, strength) - [x + (w - 1) / 2, y + (h - 1) / 2]
            distances.append(np.hypot(*(offset / [w, h])))
        means.append(np.mean(distances))
    np.testing.assert_allclose(means, [0.0, 0.15, 0.265], atol=0.02)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_masks_and_boxes_are_those_of_the_visible_pixels(strength):
    for index in INDICES:
        layout, image = drawn(1, index, strength)
        for label, item in enumerate(annotations(layout, image), start=1):
            mask = image.labels == (HEAP_LABEL if item["iscrowd"] else label)
            segmentation = item["segmentation"]
            rles = mask_util.frPyObjects(segmentation, *mask.shape)
            decoded = mask_util.decode(rles if item["iscrowd"] else mask_util.merge(rles))
            assert item["area"] == mask.sum()
            assert abs(decoded.sum() - mask.sum()) <= 0.015 * mask.sum()
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert item["bbox"] == box == list(cv2.boundingRect(decoded))


def test_polygons_and_run_lengths_of_a_known_mask():
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:4] = 1
    points = np.reshape(polygons(mask), (-1, 2))
    np.testing.assert_allclose([points.min(0), points.max(0)], [[1.125, 1.125], [3.875, 2.875]])
    # Columns of height 4: one empty column and one zero, then twice two ones and two zeros, ...
    assert run_lengths(mask) == {"size": [4, 5], "counts": [5, 2, 2, 2, 2, 2, 5]}
    assert run_lengths(np.ones((2, 2), np.uint8))["counts"] == [0, 4]


def test_boxes_hardly_overlap_and_lie_inside():
    for index in INDICES:
        layout = draw_layout(2, index)
        assert layout.height % 16 == layout.width % 16 == 0
        for number, item in enumerate(layout.objects):
            x, y, w, h = item.box
            assert min(x, y) >= 0 and x + w <= layout.width and y + h <= layout.height
            assert min(w, h) >= 26
            for other in layout.objects[:number]:
                across = min(x + w, other.box[0] + other.box[2]) - max(x, other.box[0])
                down = min(y + h, other.box[1] + other.box[3]) - max(y, other.box[1])
                assert max(across, 0) * max(down, 0) <= 0.15 * min(w * h, other.box[2] * other.box[3])


def test_stuff_maps_follow_the_label_map():
    strips, heaps = 0, 0
    for index in INDICES:
        layout, image = drawn(0, index, 0.5)
        values, strip = stuff_map(layout, image), layout.background.strip
        strips, heaps = strips + (strip > 0), heaps + bool(layout.heap)
        assert (values[:, :strip] == 255).all()
        values, labels = values[:, strip:], image.labels[:, strip:]
        assert (values[labels == 0] == 91 + TEXTURES.index(layout.background.texture)).all()
        assert (values[labels == HEAP_LABEL] == 255).all()
        for label, item in enumerate(layout.objects, start=1):
            assert (values[labels == label] == item.category - 1).all()
    assert strips > 5 and heaps > 1


def test_files_of_a_data_set(toy, tmp_path):
    content = json.loads((toy / "annotations" / "instances_train.json").read_text())
    assert len(content["images"]) == 16
    assert {entry["id"]: entry["name"] for entry in content["categories"]} == CATEGORIES
    assert [entry["id"] for entry in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    first = content["images"][0]
    image = cv2.imread(str(toy / "train" / first["file_name"]))[..., ::-1]
    expected = drawn(3, 0, 0.5)[1].pixels
    assert image.shape == expected.shape == (first["height"], first["width"], 3)
    assert np.abs(image.astype(int) - expected).mean() < 6
    assert cv2.imread(str(toy / "stuff_train" / "000001.png"), cv2.IMREAD_UNCHANGED).shape == image.shape[:2]
    longer = make_toy_data(tmp_path / "longer", strength=0.5, train=3, val=1, seed=3)
    assert (longer / "train" / "000003.jpg").read_bytes() == (toy / "train" / "000003.jpg").read_bytes()
    assert (longer / "val" / "000001.jpg").read_bytes() != (toy / "train" / "000001.jpg").read_bytes()


def test_existing_data_are_kept_and_never_overwritten(tmp_path):
    options = {"train": 1, "val": 1, "seed": 0}
    folder = make_toy_data(tmp_path / "toy", strength=1.0, **options)
    stamp = (folder / "toy.json").stat().st_mtime_ns
    make_toy_data(folder, strength=1.0, **options)
    assert (folder / "toy.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="holds .*'strength': 1.0.* not .*'strength': 0.5"):
        make_toy_data(folder, strength=0.5, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="other files"):
        make_toy_data(tmp_path / "mine", **options)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imwrite", lambda *arguments: False)
    with pytest.raises(UserError, match="disk full"):
        make_toy_data(tmp_path / "toy", train=1, val=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"strength": 1.5}, {"seed": -1}, {"train": 0}, {"val": 0}])
def test_values_out_of_range(tmp_path, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_toy_data(tmp_path / "toy", **wrong)
