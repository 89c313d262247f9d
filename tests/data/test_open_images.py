"""OpenImages data: both formats, frames of boxes, sizes, and the hierarchy of classes."""

import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from htd.data import DetectionMapper, TextAnnotations, open_images_dataset, read_classes
from htd.data.open_images import read_ancestors, size_of
from htd.data.sampling import object_classes
from htd.errors import UserError
from tests.open_images import Official, write_sizes

BOXES = [("x", "/m/b", 0.1, 0.5, 0.2, 0.6, 0), ("y", "/m/a", 0, 1, 0, 1, 1), ("x", "/m/a", 0.2, 0.3, 0, 1, 0)]
LABELS = [("x", "/m/a", 1), ("x", "/m/b", 1), ("y", "/m/c", 0), ("z", "/m/b", 0.0)]
TREE = {
    "LabelName": "/m/entity",
    "Subcategory": [
        {"LabelName": "/m/b", "Subcategory": [{"LabelName": "/m/a"}, {"LabelName": "/m/c"}]},
        {"LabelName": "/m/c", "Part": [{"LabelName": "/m/b"}]},
    ],
}


def test_official_files(tmp_path):
    records = Official(tmp_path, BOXES, LABELS, tree=TREE).load("oi_official")
    assert [record["image_id"] for record in records] == ["x", "y", "z"]
    first, second, third = records
    assert (first["height"], first["width"]) == (50, 100)
    assert first["file_name"] == str(tmp_path / "x.jpg")
    assert [item["bbox"] for item in first["annotations"]] == [[10, 10, 50, 30], [20, 0, 30, 50]]
    assert [item["category_id"] for item in first["annotations"]] == [1, 0]
    assert first["annotations"][0] | {"bbox": None} == {
        "bbox": None,
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 1,
        "iscrowd": 0,
        "is_group": False,
    }
    assert second["annotations"][0]["is_group"] and third["annotations"] == []
    verified = [(record["positive_classes"], record["negative_classes"]) for record in records]
    assert verified == [([0, 1], []), ([], [2]), ([], [1])]
    metadata = MetadataCatalog.get("oi_official")
    assert metadata.thing_classes == ["a", "b", "c"] and metadata.class_labels == ["/m/a", "/m/b", "/m/c"]
    assert metadata.class_ancestors == [[0, 1], [1], [1, 2]]
    assert list(DatasetCatalog.get("oi_official")) == list(records)


@pytest.mark.parametrize("filter_empty", [True, False])
def test_classes_of_all_objects_in_arrays(tmp_path, filter_empty):
    boxes = [*BOXES, ("w", "/m/c", 0, 1, 0, 1, 0)]
    data = Official(tmp_path, boxes, LABELS, images=["y", "z", "x", "w"])
    records = data.load(f"oi_classes_{filter_empty}", filter_empty=filter_empty)
    for found, expected in zip(records.classes(), object_classes(records), strict=True):
        assert found.tolist() == expected.tolist() and len(found) == 4


def test_files_that_excel_has_saved(tmp_path):
    """With its mark before the first line, and its ends of lines."""
    data = Official(tmp_path, BOXES, LABELS, tree=TREE)
    expected = list(data.load("oi_plain"))
    for file in tmp_path.glob("*.[cj]s*"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert list(data.load("oi_excel")) == expected
    metadata = [MetadataCatalog.get(name) for name in ("oi_plain", "oi_excel")]
    assert metadata[0].class_labels == metadata[1].class_labels == ["/m/a", "/m/b", "/m/c"]
    assert metadata[0].class_ancestors == metadata[1].class_ancestors
    file = tmp_path / "truth.txt"
    file.write_bytes(b"\xef\xbb\xbfx.jpg\r\n\r\n1\r\n1 0 0 1 1\r\n")
    (record,) = open_images_dataset("oi_excel_text", TextAnnotations(str(file)), data.classes, str(tmp_path))
    assert record["image_id"] == "x" and len(record["annotations"]) == 1


def test_images_of_a_list_and_without_boxes(tmp_path):
    data = Official(tmp_path, BOXES, LABELS, images=["z", "y", "w", "x"])
    assert [record["image_id"] for record in data.load("oi_list")] == ["z", "y", "w", "x"]
    records = data.load("oi_filtered", filter_empty=True)
    assert [record["image_id"] for record in records] == ["y", "x"]
    assert [len(record["annotations"]) for record in records] == [1, 2]
    assert MetadataCatalog.get("oi_filtered").class_ancestors == [[0], [1], [2]]
    unlisted = Official(tmp_path, BOXES, images=["x"])
    with pytest.raises(UserError, match="boxes.csv, line 3: image y"):
        unlisted.load("oi_unlisted")


def test_published_text(tmp_path):
    (tmp_path / "classes.csv").write_text("/m/2,two,2\n/m/1,one,1\n")
    (tmp_path / "truth.txt").write_text(
        "val/x.jpg\n\n2\n2 0.1 0.2 0.5 0.6\n1 0 0 1 1 1\nval/y.jpg\n1 2 1\n0\n"
    )
    write_sizes(tmp_path, {"x": (50, 100), "y": (10, 20)})
    options = {"sizes_file": str(tmp_path / "sizes.csv")}
    where = TextAnnotations(str(tmp_path / "truth.txt")), str(tmp_path / "classes.csv"), str(tmp_path)
    first, second = open_images_dataset("oi_text", *where, **options)
    assert first["file_name"] == str(tmp_path / "val/x.jpg") and first["image_id"] == "x"
    assert [(item["category_id"], item["is_group"]) for item in first["annotations"]] == [
        (1, False),
        (0, True),
    ]
    assert [item["bbox"] for item in first["annotations"]] == [[10, 10, 50, 30], [0, 0, 100, 50]]
    assert (second["annotations"], second["negative_classes"]) == ([], [0, 1, 0])
    assert (second["height"], second["width"]) == (10, 20)
    assert MetadataCatalog.get("oi_text").thing_classes == ["one", "two"]

    # The published models take x2 and y2 times the sides for the last pixels.
    inclusive = open_images_dataset("oi_text_inclusive", *where, inclusive_ends=True, **options)[0]
    assert [item["bbox"] for item in inclusive["annotations"]] == [[10, 10, 51, 31], [0, 0, 101, 51]]


def test_sizes_are_looked_up_once(tmp_path, monkeypatch):
    data, sizes = Official(tmp_path, BOXES, LABELS), tmp_path / "sizes.csv"
    expected = list(data.load("oi_sizes_0"))
    sizes.write_text("ImageID,Width,Height\ny,100,50\n")
    assert list(data.load("oi_sizes_1", sizes_file=str(sizes))) == expected
    assert sorted(sizes.read_text().splitlines()) == ["ImageID,Width,Height", *(f"{k},100,50" for k in "xyz")]

    def fail(path):
        raise AssertionError(path)

    monkeypatch.setattr("htd.data.open_images.size_of", fail)
    assert list(data.load("oi_sizes_2", sizes_file=str(sizes))) == expected
    sizes.write_text("ImageID,Width,Height\nx,0,50\n")
    with pytest.raises(UserError, match="sizes.csv, line 2: .*'0'"):
        data.load("oi_sizes_3", sizes_file=str(sizes))


def test_sizes_that_cannot_be_kept(tmp_path, caplog):
    data = Official(tmp_path, BOXES)
    assert len(data.load("oi_unkept", sizes_file=str(tmp_path / "none" / "sizes.csv"))) == 2
    assert "sizes of images are not kept" in caplog.text


def test_an_image_that_is_turned_has_the_size_of_what_is_read(tmp_path):
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    assert size_of(tmp_path / "turned.jpg") == cv2.imread(str(tmp_path / "turned.jpg")).shape[:2] == (30, 20)
    assert size_of(tmp_path / "plain.jpg") == (20, 30)


def test_a_name_stands_for_one_data_set(tmp_path):
    data = Official(tmp_path, BOXES, tree=TREE)
    data.load("oi_name")
    data.load("oi_name")
    with pytest.raises(UserError, match="'oi_name' .* inclusive_ends"):
        data.load("oi_name", inclusive_ends=True)


def test_records_become_targets(tmp_path):
    """Boxes around groups are learned as others are; nothing is expanded."""
    records = Official(tmp_path, BOXES, tree=TREE).load("oi_mapper")
    found = [DetectionMapper(is_train=True, augmentations=[])(record) for record in records]
    assert [item["instances"].gt_classes.tolist() for item in found] == [[1, 0], [0]]
    assert found[1]["instances"].gt_boxes.tensor.tolist() == [[0, 0, 100, 50]]
    assert found[0]["image_id"] == "x"


def ancestors(folder, tree, relations=("Subcategory",), labels="abcd"):
    (folder / "classes.csv").write_text("".join(f"LabelName,DisplayName\n/m/{x},{x}\n" for x in labels))
    (folder / "hierarchy.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    classes = read_classes(folder / "classes.csv")
    return read_ancestors(folder / "hierarchy.json", classes, relations).astype(int).tolist()


def test_hierarchy(tmp_path):
    """a and c below b; c also directly below the root and, as a whole, above b."""
    assert ancestors(tmp_path, TREE) == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    with pytest.raises(UserError, match="cycle: /m/b below /m/c below /m/b;"):
        ancestors(tmp_path, TREE, ["Subcategory", "Part"])
    # A label that is no class passes on what is above it; a class may have several parents.
    between = {"LabelName": "/m/other", "Subcategory": [{"LabelName": "/m/a"}]}
    tree = {"LabelName": "/m/d", "Subcategory": [between, {"LabelName": "/m/b", "Part": [between]}]}
    assert ancestors(tmp_path, tree)[0] == [1, 0, 0, 1]
    assert ancestors(tmp_path, tree, ["Subcategory", "Part"])[0] == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/a"}]}, "cycle: /m/a below /m/a;"),
        ("{", "hierarchy .*hierarchy.json is not JSON"),
        ({"LabelName": "/m/x"}, "has none of the 4 classes of"),
        ([], "an entry below the top has no LabelName"),
        ({"LabelName": "/m/a", "Subcategory": ["/m/b"]}, "an entry below /m/a has no LabelName"),
        ({"LabelName": "/m/a", "Subcategory": {"LabelName": "/m/b"}}, "Subcategory of /m/a is not a list"),
        ({"LabelName": "/m/a", "Subcategory": None}, "Subcategory of /m/a is not a list"),
        ('{"LabelName": "/m/a", "Subcategory": [' * 100_000, "hierarchy.json is not JSON"),
    ],
)
def test_faulty_hierarchy(tmp_path, tree, said):
    with pytest.raises(UserError, match=said):
        ancestors(tmp_path, tree)


def test_a_cycle_of_labels_that_are_no_classes_is_found(tmp_path):
    """Also where no class stands below it."""
    circle = {
        "LabelName": "/m/y",
        "Subcategory": [{"LabelName": "/m/x", "Subcategory": [{"LabelName": "/m/y"}]}],
    }
    with pytest.raises(UserError, match="cycle: /m/x below /m/y below /m/x;"):
        ancestors(tmp_path, {"LabelName": "/m/root", "Subcategory": [{"LabelName": "/m/a"}, circle]})


def test_a_long_chain(tmp_path):
    """Of 1500 labels, each below the next one, in entries that are not nested: a stands below all of them."""
    entries = [{"LabelName": f"/m/{k + 1}", "Subcategory": [{"LabelName": f"/m/{k}"}]} for k in range(1500)]
    tree = {
        "LabelName": "/m/b",
        "Subcategory": [*entries, {"LabelName": "/m/0", "Subcategory": [{"LabelName": "/m/a"}]}],
    }
    assert ancestors(tmp_path, tree)[0] == [1, 1, 0, 0]
