"""What is said of faulty files of OpenImages."""

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
    with pytest.raises(UserError, match=f"OpenImages file .*{name} is not text in UTF-8 .*; unpack it"):
        data.load("oi_no_text", sizes_file=str(tmp_path / "sizes.csv"))


def test_an_annotation_text_that_is_no_text(tmp_path):
    data, file = Official(tmp_path, BOXES), tmp_path / "truth.txt"
    # The fault is far behind the lines that are read first.
    file.write_bytes(b"".join(b"%d.jpg\n\n0\n" % k for k in range(9000)) + b"\xff\n")
    with pytest.raises(UserError, match="truth.txt is not text in UTF-8 .invalid start byte.; unpack it"):
        open_images_dataset("oi_no_text", TextAnnotations(str(file)), data.classes, str(tmp_path))


@pytest.mark.parametrize("name", ["boxes.csv", "classes.csv"])
def test_a_csv_file_that_is_none(tmp_path, name):
    data = Official(tmp_path, BOXES)
    file = tmp_path / name
    file.write_text(file.read_text().splitlines()[0] + "\n" + "x" * 200_000)
    with pytest.raises(UserError, match=f"{name}, line 2: field larger than field limit .*; correct"):
        data.load("oi_no_csv")


def test_a_file_that_must_not_be_read(tmp_path, monkeypatch):
    data = Official(tmp_path, BOXES)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match="classes.csv cannot be read .Permission denied.; correct its rights"):
        read_classes(data.classes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x.jpg\n\n1\n", "line 3: the file ends within an image"),
        ("x.jpg\n\n1 2\n", "line 3: '1 2' is not the number of an image's boxes"),
        ("x.jpg\n4\n0\n", "line 2: class '4' is not one of 1 to 3"),
        ("x.jpg\n\n1\n0 0 0 1 1\n", "line 4: class '0' is not one of 1 to 3"),
        ("x.jpg\n\n1\n1 0 0 1\n", "line 4: a box is `class x1 y1 x2 y2`"),
        ("x.jpg\n\n1\n1 0 0 1 1 2\n", "line 4: a box is `class x1 y1 x2 y2`"),
        ("x.jpg\n\n1\n1 0 0 1 one\n", "line 4: '0 0 1 one' are not four numbers"),
        ("x.jpg\n\n1\n1 0.5 0 0.4 1\n", r"line 4: box \(0.5, 0.0, 0.4, 1.0\) .* is not within 0 to 1"),
        ("x.jpg\n\n1\n1 0 0 1 nan\n", "line 4: box .* is not within 0 to 1"),
        ("x.jpg\n\n0\n\na/x.jpg\n\n0\n", "line 5: image x occurs twice"),
    ],
)
def test_malformed_text(tmp_path, text, said):
    data = Official(tmp_path, BOXES)
    (tmp_path / "truth.txt").write_text(text)
    with pytest.raises(UserError, match=f"OpenImages file .*truth.txt, {said}.*; correct the line"):
        open_images_dataset(
            "oi_bad", TextAnnotations(str(tmp_path / "truth.txt")), data.classes, str(tmp_path)
        )


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (("x", "/m/d", 0, 1, 0, 1, 0), "line 2: label '/m/d' is not among the 3 of .*classes.csv"),
        (("x", "/m/a", 1, 0, 0, 1, 0), r"line 2: box \(1.0, 0.0, 0.0, 1.0\)"),
        (("x", "/m/a", 0, 1, 0, "inf", 0), "line 2: box"),
        (("x", "/m/a", 0, "", 0, 1, 0), "line 2: '' is not a number"),
        (("x,y", "/m/a", 0, 1, 0, 1, 0), "line 2: 13 values under 12 columns"),
    ],
)
def test_malformed_boxes(tmp_path, box, said):
    with pytest.raises(UserError, match=f"OpenImages file .*boxes.csv, {said}"):
        Official(tmp_path, [box]).load("oi_bad")


def test_malformed_labels_and_columns(tmp_path):
    for row, said in ((("x", "/m/a", 0.5), "confidence 0.5 of"), (("x", "/m/d", 1), "label '/m/d' is not")):
        with pytest.raises(UserError, match=f"labels.csv, line 2: {said}"):
            Official(tmp_path, BOXES, [row]).load("oi_bad")
    data = Official(tmp_path, BOXES)
    (tmp_path / "boxes.csv").write_text("ImageID,LabelName,XMin\nx,/m/a,1\n")
    with pytest.raises(UserError, match="has no column XMax, YMin, YMax in its first line; it has ImageID"):
        data.load("oi_bad")
    (tmp_path / "boxes.csv").write_text("")
    with pytest.raises(UserError, match="it has none"):
        data.load("oi_bad")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/m/a\n", "line 1: a class is label,name"),
        ("/m/a,a,one\n", "line 1: 'one' is not a whole number"),
        ("/m/a,a\n/m/a,b\n", "line 2: class /m/a or its number 2 occurs twice"),
        ("/m/a,a,1\n/m/b,b,1\n", "line 2: class /m/b or its number 1 occurs twice"),
        ("/m/a,a,2\n", "has 1 classes whose numbers are not 1 to 1"),
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
    with pytest.raises(UserError, match="image .*y.jpg has no size that could be read .it is no image"):
        data.load("oi_missing")
    Image.fromarray(np.zeros((200, 200), np.uint8)).save(tmp_path / "y.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(UserError, match="y.jpg has no size that could be read .Image size .* exceeds limit"):
        data.load("oi_missing")
    (tmp_path / "y.jpg").unlink()
    with pytest.raises(UserError, match="y.jpg has no size that could be read .No such file"):
        data.load("oi_missing")
    with pytest.raises(UserError, match="OpenImages file .*none.json does not exist; put the data there"):
        data.load("oi_missing", hierarchy_file=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match="image_root .*none is not a folder"):
        open_images_dataset(
            "oi_missing", TextAnnotations(_text(tmp_path)), data.classes, str(tmp_path / "none")
        )
    with pytest.raises(UserError, match="has no image that could be used"):
        Official(tmp_path, [], images=["z"]).load("oi_missing", filter_empty=True)


def _text(folder):
    (folder / "truth.txt").write_text("x.jpg\n\n0\n")
    return str(folder / "truth.txt")
