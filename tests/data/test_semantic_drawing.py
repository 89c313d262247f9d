"""Drawing of semantic maps: what is drawn, what is refused, and that it goes on where it stopped."""

import json
import logging
import os

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest

from htd.data import SemanticMaps, coco_dataset, draw_semantic_maps
from htd.data.coco import read_coco
from htd.data.semantic import RECORD
from htd.errors import UserError


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def rle(rows, columns, size=(8, 10)):
    mask = np.zeros(size, np.uint8)
    mask[rows, columns] = 1
    counts = mask_util.encode(np.asfortranarray(mask))["counts"].decode()
    return {"size": list(size), "counts": counts}


@pytest.fixture
def tiny(coco, tmp_path):
    """Write two images with overlapping objects of classes 0 (id 3), 1 (id 7) and 2 (id 9)."""
    objects = [
        {"category_id": 9, "segmentation": square(0, 0, 2)},  # the smallest lies above all
        {"category_id": 3, "segmentation": square(0, 0, 6)},
        {"category_id": 7, "segmentation": rle(slice(3, 7), slice(4, 8))},
        {"category_id": 7, "segmentation": rle(slice(4, 8), slice(0, 10)), "iscrowd": 1},
        {"category_id": 7, "segmentation": [[1, 1, 2, 2]]},
        {"category_id": 7, "segmentation": square(0, 0, 8), "bbox": [0, 0, 0.5, 9]},
    ]
    files = coco([(10, 8), (4, 3)], objects, categories=[(9, "c"), (3, "a"), (7, "b")])
    return tmp_path / files["json_file"]


EXPECTED = """
    2 2 0 0 0 0 3 3 3 3
    2 2 0 0 0 0 3 3 3 3
    0 0 0 0 0 0 3 3 3 3
    0 0 0 0 1 1 1 1 3 3
    0 0 0 0 1 1 1 1 . .
    0 0 0 0 1 1 1 1 . .
    . . . . 1 1 1 1 . .
    . . . . . . . . . .
"""


def by_hand():
    rows = EXPECTED.replace(".", "255").split("\n")[1:-1]
    return np.array([row.split() for row in rows], np.uint8)


def test_a_map_is_the_one_drawn_by_hand_and_can_be_read(tiny, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = draw_semantic_maps(tiny, tmp_path / "maps")
    maps = SemanticMaps(3, background=True)
    np.testing.assert_array_equal(maps.read(str(folder / "1.png"), (8, 10)), by_hand())
    np.testing.assert_array_equal(maps.read(str(folder / "2.png"), (3, 4)), np.full((3, 4), 3))
    for counted in ("2 maps drawn, 0 were", "1 unusable boxes", "1 objects without a valid mask"):
        assert counted in caplog.messages[-1]
    assert sorted(path.name for path in folder.iterdir()) == ["1.png", "2.png", RECORD]


def test_toy_maps_agree_with_the_stuff_maps(toy, tmp_path):
    """Where the generated stuff map shows an object, the drawn map shows its class, but for outlines."""
    path = toy / "annotations" / "instances_train.json"
    folder = draw_semantic_maps(path, tmp_path / "maps")
    content = read_coco(path)
    background, other = len(content.names), 0
    for image in content.images:
        drawn = SemanticMaps(background, background=True).read(
            str(folder / image["file_name"].replace(".jpg", ".png")), (image["height"], image["width"])
        )
        stuff = cv2.imread(str(toy / "stuff_train" / image["file_name"].replace(".jpg", ".png")), -1)
        expected = np.full(256, background, np.uint8)
        for category, number in content.classes.items():
            expected[category - 1] = number
        labeled = (stuff != 255) & (drawn != 255)
        other += (expected[stuff] != drawn)[labeled].mean() / len(content.images)
    assert other < 0.004


def test_it_goes_on_where_it_stopped(tiny, tmp_path, monkeypatch, caplog):
    replace, calls = os.replace, []

    def stop_at_the_third(*paths):
        calls.append(paths)
        if len(calls) == 3:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr(os, "replace", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        draw_semantic_maps(tiny, tmp_path / "maps")
    monkeypatch.setattr(os, "replace", replace)
    assert not (tmp_path / "maps" / "2.png").exists()
    first = tmp_path / "maps" / "1.png"
    stamp = first.stat().st_mtime_ns
    caplog.set_level(logging.INFO)
    draw_semantic_maps(tiny, tmp_path / "maps")
    assert first.stat().st_mtime_ns == stamp and "1 maps drawn, 1 were there" in caplog.messages[-1]
    assert sorted(path.name for path in first.parent.iterdir()) == ["1.png", "2.png", RECORD]


def test_a_map_of_another_size_or_kind_is_drawn_again(tiny, tmp_path):
    folder = draw_semantic_maps(tiny, tmp_path / "maps")
    images = np.zeros((3, 3), np.uint8), np.zeros((8, 10, 3), np.uint8), np.zeros((8, 10), np.uint16)
    for data in (*(cv2.imencode(".png", image)[1].tobytes() for image in images), b""):
        (folder / "1.png").write_bytes(data)
        draw_semantic_maps(tiny, folder)
        np.testing.assert_array_equal(cv2.imread(str(folder / "1.png"), -1), by_hand())


def test_maps_of_a_changed_file_are_not_mixed(tiny, tmp_path):
    folder = draw_semantic_maps(tiny, tmp_path / "maps")
    before = (folder / "1.png").read_bytes()
    content = json.loads(tiny.read_text())
    content["annotations"].pop()
    tiny.write_text(json.dumps(content))
    with pytest.raises(UserError, match="another state, of instances.json"):
        draw_semantic_maps(tiny, folder)
    assert (folder / "1.png").read_bytes() == before
    (folder / RECORD).write_text("{}")
    with pytest.raises(UserError, match="semantic_maps.json"):
        draw_semantic_maps(tiny, folder)


def test_files_of_others_are_left_alone(tiny, tmp_path):
    (tmp_path / "stuffthingmaps").mkdir()
    (tmp_path / "stuffthingmaps" / "1.png").write_bytes(b"precious")
    with pytest.raises(UserError, match="stuffthingmaps holds other files"):
        draw_semantic_maps(tiny, tmp_path / "stuffthingmaps")
    assert [path.name for path in (tmp_path / "stuffthingmaps").iterdir()] == ["1.png"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be made"):
        draw_semantic_maps(tiny, tmp_path / "file")
    with pytest.raises(UserError, match="--output"):
        draw_semantic_maps(tiny, "")


@pytest.mark.parametrize("name", ["../images/1.png", "a/../../images/1.png"])
def test_nothing_is_written_outside_of_the_folder(tiny, tmp_path, name):
    content = json.loads(tiny.read_text())
    content["images"][0]["file_name"] = name
    tiny.write_text(json.dumps(content))
    before = (tmp_path / "images" / "1.png").read_bytes()
    with pytest.raises(UserError, match=f"{name}. would lie outside"):
        draw_semantic_maps(tiny, tmp_path / "maps")
    assert (tmp_path / "images" / "1.png").read_bytes() == before and not (tmp_path / "maps").exists()


def test_maps_lie_in_the_sub_folders_of_their_images(tiny, tmp_path):
    content = json.loads(tiny.read_text())
    content["images"][0]["file_name"], content["images"][1]["file_name"] = "a/../a/x.1.jpg", "b/x.1.jpg"
    tiny.write_text(json.dumps(content))
    folder = draw_semantic_maps(tiny, tmp_path / "maps")
    assert (folder / "a/x.1.png").is_file() and (folder / "b/x.1.png").is_file()
    content["images"][1]["file_name"] = "a/x.1.png"
    tiny.write_text(json.dumps(content))
    with pytest.raises(UserError, match="a/../a/x.1.jpg and a/x.1.png would share"):
        draw_semantic_maps(tiny, tmp_path / "other")


def test_files_that_cannot_be_drawn(coco, tmp_path):
    path = tmp_path / "instances.json"
    coco([(10, 8)], [{}, {"segmentation": []}])
    with pytest.raises(UserError, match="no object with a valid mask"):
        draw_semantic_maps(path, tmp_path / "maps")
    box = {"segmentation": square(0, 0, 8), "category_id": 255}
    coco([(10, 8)], [box], categories=[(k, f"class {k}") for k in range(1, 256)])
    with pytest.raises(UserError, match="255 classes"):
        draw_semantic_maps(path, tmp_path / "maps")
    coco([(10, 8)], [box | {"category_id": 254}], categories=[(k, f"class {k}") for k in range(1, 255)])
    assert not (tmp_path / "maps").exists()
    drawn = cv2.imread(str(draw_semantic_maps(path, tmp_path / "maps") / "1.png"), -1)
    assert drawn[0, 0] == 253 and drawn[0, 9] == 254


def test_a_data_set_with_drawn_maps(tiny, tmp_path):
    draw_semantic_maps(tiny, tmp_path / "maps")
    options = {"masks": True, "semantic_root": "maps"}
    records = coco_dataset("drawn", "instances.json", "images", **options)
    assert [record["sem_seg_file_name"] for record in records] == [
        str(tmp_path / "maps" / name) for name in ("1.png", "2.png")
    ]
    content = json.loads(tiny.read_text())
    content["categories"].append({"id": 1, "name": "new"})
    tiny.write_text(json.dumps(content))
    with pytest.raises(UserError, match="drawn for other classes"):
        coco_dataset("drawn anew", "instances.json", "images", **options)
