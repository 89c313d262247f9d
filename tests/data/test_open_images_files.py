"""OpenImages' files: what Excel has saved is read, and what is faulty is named by file and line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from htd.data import TextAnnotations, open_images_dataset, read_classes
from htd.errors import UserError
from tests.open_images import Official

BOXES = [("x", "/m/b", 0.1, 0.5, 0.2, 0.6, 0), ("y", "/m/a", 0, 1, 0, 1, 1)]
ARCHIVE, LATIN = b"PK\x03\x04\x14\x00\x00\x00\x08\x00\xe3\x8f", "ImageID,LabelName,é\n".encode("latin-1")


@pytest.mark.parametrize("name", ["boxes.csv", "labels.csv", "classes.csv", "hierarchy.json", "sizes.csv"])
@pytest.mark.parametrize("content", [ARCHIVE, LATIN])
def test_files_that_are_no_text(tmp_path, name, content):
    data = Official(tmp_path, BOXES, [("x", "/m/a", 1)], tree={"LabelName": "/m/a"})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not text in UTF-8"):
        data.load("oi_no_text", sizes_file=str(tmp_path / "sizes.csv"))


def test_an_annotation_text_that_is_no_text(tmp_path):
    data, file = Official(tmp_path, BOXES), tmp_path / "truth.txt"
    # The fault is far behind the lines that are read first.
    file.write_bytes(b"".join(b"%d.jpg\n\n0\n" % k for k in range(9000)) + b"\xff\n")
    with pytest.raises(UserError, match="truth.txt is not text in UTF-8"):
        open_images_dataset("oi_no_text", TextAnnotations(str(file)), data.classes, str(tmp_path))


@pytest.mark.parametrize("name", ["boxes.csv", "classes.csv"])
def test_a_csv_file_that_is_none(tmp_path, name):
    data = Official(tmp_path, BOXES)
    file = tmp_path / name
    file.write_text(file.read_text().splitlines()[0] + "\n" + "x" * 200_000)
    with pytest.raises(UserError, match=f"{name}, line 2: field larger"):
        data.load("oi_no_csv")


def test_a_file_that_must_not_be_read(tmp_path, monkeypatch):
    data = Official(tmp_path, BOXES)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="classes.csv cannot be read"):
        read_classes(data.classes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x.jpg\n\n1\n", "line 3: the file ends"),
        ("x.jpg\n\n1 2\n", "line 3: '1 2'"),
        ("x.jpg\n4\n0\n", "line 2: class '4'"),
        ("x.jpg\n\n1\n0 0 0 1 1\n", "line 4: class '0'"),
        ("x.jpg\n\n1\n1 0 0 1\n", "line 4: a box"),
        ("x.jpg\n\n1\n1 0 0 1 1 2\n", "line 4: a box"),
        ("x.jpg\n\n1\n1 0 0 1 one\n", "line 4: '0 0 1 one'"),
        ("x.jpg\n\n1\n1 0.5 0 0.4 1\n", r"line 4: box \(0.5, 0.0, 0.4, 1.0\) .* is not within"),
        ("x.jpg\n\n1\n1 0 0 1 nan\n", "line 4: box .* is not within"),
        ("x.jpg\n\n0\n\na/x.jpg\n\n0\n", "line 5: image x occurs twice"),
    ],
)
def test_malformed_text(tmp_path, text, said):
    data = Official(tmp_path, BOXES)
    (tmp_path / "truth.txt").write_text(text)
    with pytest.raises(UserError, match=f"truth.txt, {said}"):
        open_images_dataset(
            "oi_bad", TextAnnotations(str(tmp_path / "truth.txt")), data.classes, str(tmp_path)
        )


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (("x", "/m/d", 0, 1, 0, 1, 0), "line 2: label '/m/d'"),
        (("x", "/m/a", 1, 0, 0, 1, 0), r"line 2: box \(1.0, 0.0, 0.0, 1.0\)"),
        (("x", "/m/a", 0, 1, 0, "inf", 0), "line 2: box"),
        (("x", "/m/a", 0, "", 0, 1, 0), "line 2: '' is not a number"),
        (("x,y", "/m/a", 0, 1, 0, 1, 0), "line 2: 13 values under 12 columns"),
    ],
)
def test_malformed_boxes(tmp_path, box, said):
    with pytest.raises(UserError, match=f"boxes.csv, {said}"):
        Official(tmp_path, [box]).load("oi_bad")


def test_malformed_labels_and_columns(tmp_path):
    for row, said in ((("x", "/m/a", 0.5), "confidence 0.5 of"), (("x", "/m/d", 1), "label '/m/d' is not")):
        with pytest.raises(UserError, match=f"labels.csv, line 2: {said}"):
            Official(tmp_path, BOXES, [row]).load("oi_bad")
    data = Official(tmp_path, BOXES)
    (tmp_path / "boxes.csv").write_text("ImageID,LabelName,XMin\nx,/m/a,1\n")
    with pytest.raises(UserError, match="no column XMax, YMin, YMax"):
        data.load("oi_bad")
    (tmp_path / "boxes.csv").write_text("")
    with pytest.raises(UserError, match="has no column"):
        data.load("oi_bad")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/m/a\n", "line 1: a class"),
        ("/m/a,a,one\n", "line 1: 'one'"),
        ("/m/a,a\n/m/a,b\n", "line 2: class /m/a or its number 2 occurs twice"),
        ("/m/a,a,1\n/m/b,b,1\n", "line 2: class /m/b or its number 1 occurs twice"),
        ("/m/a,a,2\n", "numbers are not 1 to 1"),
        ("", "has 0 classes"),
    ],
)
def test_malformed_classes(tmp_path, text, said):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        read_classes(tmp_path / "classes.csv")


def test_images_and_files_that_are_missing(tmp_path, monkeypatch):
    data = Official(tmp_path, BOXES)
    (tmp_path / "y.jpg").write_text("no picture")
    with pytest.raises(UserError, match="y.jpg .*it is no image"):
        data.load("oi_missing")
    Image.fromarray(np.zeros((200, 200), np.uint8)).save(tmp_path / "y.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(UserError, match="y.jpg .*exceeds limit"):
        data.load("oi_missing")
    (tmp_path / "y.jpg").unlink()
    with pytest.raises(UserError, match="y.jpg .*No such file"):
        data.load("oi_missing")
    with pytest.raises(UserError, match="none.json does not exist"):
        data.load("oi_missing", hierarchy_file=str(tmp_path / "none.json"))
    (tmp_path / "truth.txt").write_text("x.jpg\n\n0\n")
    text = TextAnnotations(str(tmp_path / "truth.txt"))
    with pytest.raises(UserError, match="image_root .*none"):
        open_images_dataset("oi_missing", text, data.classes, str(tmp_path / "none"))
    with pytest.raises(UserError, match="no usable image"):
        Official(tmp_path, [], images=["z"]).load("oi_missing", filter_empty=True)
