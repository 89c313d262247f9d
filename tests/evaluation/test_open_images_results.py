"""Files of detections on OpenImages: what is read and written, and what is said of faulty ones."""

import json

import pytest

from htd.errors import UserError
from htd.evaluation import read_coco_results, read_detections, write_challenge_csv, write_detections


def test_results_of_coco(tmp_path):
    """Image 7 of 100 x 50 pixels; categories by label and by name, with ids that are not in order."""
    content = {
        "images": [{"id": 7, "file_name": "train/x.jpg", "width": 100, "height": 50}],
        "categories": [{"id": 9, "name": "/m/a"}, {"id": 4, "name": "Cat"}],
    }
    results = [
        {"image_id": 7, "category_id": 9, "bbox": [10, 10, 40, 20], "score": 0.5},
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 100, 50], "score": 0.25},
    ]
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(content)), found.write_text(json.dumps(results))
    classes = {"/m/a": 0, "Dog": 0, "/m/b": 1, "Cat": 1}
    detections = read_coco_results(found, truth, classes)
    write_detections(tmp_path / "out.txt", detections)
    assert (tmp_path / "out.txt").read_text().splitlines() == [
        "x 0.100000 0.200000 0.500000 0.600000 0.500000 1",
        "x 0.000000 0.000000 1.000000 1.000000 0.250000 2",
    ]
    write_challenge_csv(tmp_path / "out.csv", detections, ["/m/a", "/m/b"])
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "ImageID,LabelName,Score,XMin,XMax,YMin,YMax",
        "x,/m/a,0.500000,0.100000,0.500000,0.200000,0.600000",
        "x,/m/b,0.250000,0.000000,1.000000,0.000000,1.000000",
    ]
    with pytest.raises(UserError, match="categories Cat of .*truth.json"):
        read_coco_results(found, truth, {"/m/a": 0})
    found.write_text(json.dumps([results[0] | {"image_id": 8}]))
    with pytest.raises(UserError, match="image id 8 or"):
        read_coco_results(found, truth, classes)
    with pytest.raises(UserError, match="class 1 .from 0., but the list of the labels has 1"):
        write_challenge_csv(tmp_path / "out.csv", detections, ["/m/a"])


CONTENT = {
    "images": [{"id": 7, "file_name": "x.jpg", "width": 9, "height": 9}],
    "categories": [{"id": 1, "name": "a"}],
}
RESULT = {"image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}


@pytest.mark.parametrize(
    ("results", "content"),
    [
        ([{"image_id": 7}], {}),
        ({"a": 1}, {}),
        ([3], {}),
        ([RESULT | {"bbox": [0, 0, 1]}], {}),
        ([RESULT | {"bbox": None}], {}),
        ([RESULT | {"bbox": [0, 0, 1, float("inf")]}], {}),
        ([RESULT | {"bbox": [0, 0, 1, 10**400]}], {}),
        ([RESULT | {"score": float("nan")}], {}),
        ([RESULT | {"image_id": [7]}], {}),
        ([RESULT], {"images": [CONTENT["images"][0] | {"height": 0}]}),
        ([RESULT], {"images": [CONTENT["images"][0] | {"width": float("nan")}]}),
        ([RESULT], {"images": None}),
        ([RESULT], {"categories": [{"id": {}, "name": "a"}]}),
    ],
)
def test_results_that_are_not_those_of_coco(tmp_path, results, content):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(CONTENT | content)), found.write_text(json.dumps(results))
    with pytest.raises(UserError, match="are not in COCO's format .[A-Z]"):
        read_coco_results(found, truth, {"a": 0})


def test_results_that_are_no_json(tmp_path):
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(CONTENT))
    found.write_text("\ufeff" + json.dumps([RESULT]))
    assert len(read_coco_results(found, truth, {"a": 0}).table) == 1
    for text in ("[", "[" * 100_000):
        found.write_text(text)
        with pytest.raises(UserError, match="found.json is not JSON"):
            read_coco_results(found, truth, {"a": 0})
    found.write_bytes(b"PK\x03\x04\xff")
    with pytest.raises(UserError, match="found.json are not text in UTF-8"):
        read_coco_results(found, truth, {"a": 0})


@pytest.mark.parametrize(
    "line",
    [
        "x 0 0 1 1 .5",
        "x 0 0 1 1 .5 0",
        "x 0 0 1 1 .5 1.5",
        "x 0 0 1 a .5 1",
        "x 0 nan 1 1 .5 1",
        "x 0 0 1 1 .5 1e300",
        "ImageID,LabelName,Score,XMin,XMax,YMin,YMax",
        "[]",
    ],
)
def test_malformed_detections(tmp_path, line):
    file = tmp_path / "found.txt"
    file.write_text(f"x 0 0 1 1 .5 1\n\n{line}\n")
    with pytest.raises(UserError, match="found.txt, line 3"):
        read_detections(file)


def test_detections_in_pixels(tmp_path):
    """A few boxes may end outside of the image, as those that a model has not clipped."""
    file, inside, outside = tmp_path / "found.txt", "x 0 .1 1 1.2 .5 1\n", "x 0 7 20 40.5 .5 1\n"
    file.write_text(2 * inside + 2 * outside)
    assert len(read_detections(file).table) == 4
    file.write_text(inside + 2 * outside)
    with pytest.raises(UserError, match="found.txt are in pixels"):
        read_detections(file)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(UserError, match="detections .*none.txt cannot be read"):
        read_detections(tmp_path / "none.txt")
    (tmp_path / "empty.txt").touch()
    empty = read_detections(tmp_path / "empty.txt")
    assert len(empty.table) == 0 and empty.ids == []
    with pytest.raises(UserError, match="none/x.txt cannot be written"):
        write_detections(tmp_path / "none" / "x.txt", empty)
