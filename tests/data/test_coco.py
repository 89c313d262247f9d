"""Loading of COCO files: class order, the published filters, refused files, registration."""

import logging

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from htd.data import coco_dataset, read_categories
from htd.errors import UserError


def ids(records):
    return [record["image_id"] for record in records]


def test_records_of_the_toy_data(toy, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy.parent))
    records = coco_dataset("toy_records", "toy/annotations/instances_train.json", "toy/train")
    assert len(records) == 16 and records[0]["file_name"] == str(toy / "train" / "000001.jpg")
    classes = {item["category_id"] for record in records for item in record["annotations"]}
    assert classes == set(range(6))
    metadata = MetadataCatalog.get("toy_records")
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 4: 2, 5: 3, 9: 4, 12: 5}
    assert metadata.thing_classes == read_categories("toy/annotations/instances_train.json")
    assert metadata.thing_classes == ["disc", "triangle", "plus", "bowtie", "star", "square"]
    assert metadata.evaluator_type == "coco"
    assert DatasetCatalog.get("toy_records") == records


def test_gaps_in_ids_are_mapped_and_said_once(coco, caplog):
    files = coco([(40, 40)], [{"category_id": 7}], categories=[(7, "b"), (3, "a")])
    caplog.set_level(logging.INFO)
    for _ in range(2):
        records = coco_dataset("gaps", **files)
    assert records[0]["annotations"][0]["category_id"] == 1
    assert MetadataCatalog.get("gaps").thing_classes == ["a", "b"]
    assert ["[3, 7]" in line for line in caplog.messages if "mapped" in line] == [True]


def test_one_record_in_full(coco, tmp_path):
    files = coco([(40, 30)], [{"bbox": [1, 2, 3.5, 4], "category_id": 2, "iscrowd": 1}])
    assert coco_dataset("full", **files) == [
        {
            "file_name": str(tmp_path / "images" / "1.png"),
            "image_id": 1,
            "height": 30,
            "width": 40,
            "annotations": [
                {
                    "id": 1,
                    "bbox": [1.0, 2.0, 3.5, 4.0],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": 1,
                    "iscrowd": 1,
                }
            ],
        }
    ]


def test_unusable_boxes_are_skipped_with_a_count(coco, caplog):
    faults = [
        {"bbox": [0, 0, 0.9, 10]},
        {"bbox": [0, 0, 10, 0.5]},
        {"bbox": [0, 0, 10, 10], "area": 0},
        {"bbox": [40, 0, 10, 10]},
        {"bbox": [0, -10, 10, 10]},
        {"bbox": [0, 0, float("nan"), 10]},
        {"category_id": 9},
        {"image_id": 77},
    ]
    caplog.set_level(logging.INFO)
    records = coco_dataset("faults", **coco([(40, 40)], [*faults, {"bbox": [-5, -5, 10, 10]}]))
    assert [item["id"] for item in records[0]["annotations"]] == [9]
    for count in ("6 unusable", "1 annotations of categories", "1 annotations of images"):
        assert count in caplog.messages[-1]


def test_null_stands_for_what_is_absent(coco):
    boxes = [{"area": None, "iscrowd": None}, {"area": None, "iscrowd": True, "bbox": [1, 1, 5, 5]}]
    records = coco_dataset("nulls", **coco([(40, 40)], boxes))
    assert [item["iscrowd"] for item in records[0]["annotations"]] == [0, 1]


def test_published_filters_are_options(coco):
    images = [(40, 40), (40, 40), (40, 31), (40, 32)]
    boxes = [{"image_id": 1}, {"image_id": 2, "iscrowd": 1}, {"image_id": 3}, {"image_id": 4}]
    files = coco(images, boxes)
    assert ids(coco_dataset("filters", **files)) == [1, 2, 3, 4]
    assert ids(coco_dataset("filters", **files, filter_empty=True)) == [1, 3, 4]
    assert ids(coco_dataset("filters", **files, min_image_side=32)) == [1, 2, 4]


def test_masks_on_request(coco, caplog):
    caplog.set_level(logging.INFO)
    triangle = [[1, 1, 9, 1, 5, 8]]
    rle = {"size": [40, 40], "counts": [0, 4, 1596]}
    faulty = [[[1, 1, 2, 2]], None, "polygon", [1, 1, 9, 1, 5, 8], {}, {"counts": "04", "size": None}]
    boxes = [{"segmentation": mask} for mask in (triangle, rle, *faulty)] + [{}]
    files = coco([(40, 40)], boxes)
    plain = coco_dataset("masks", **files)[0]["annotations"]
    assert len(plain) == 9 and not any("segmentation" in item for item in plain)
    first, second = coco_dataset("masks", **files, masks=True)[0]["annotations"]
    assert "left out 7 objects without a valid mask (first ids: 3, 4, 5)" in caplog.text
    assert first["segmentation"] == triangle
    assert second["segmentation"]["size"] == [40, 40] and isinstance(second["segmentation"]["counts"], str)


def test_boxes_alone_are_no_data_for_masks(coco):
    """Files of boxes leave segmentations out or empty; they can be validated on, whatever the model."""
    segmentations = None, [], [[1, 1, 2, 2]], {"size": [40, 40], "counts": [4]}
    files = coco([(40, 40)], [{}, *({"segmentation": item} for item in segmentations)])
    assert len(coco_dataset("boxes alone", **files)[0]["annotations"]) == 5
    for filter_empty in (False, True):
        refused("valid segmentation", "boxes alone", **files, masks=True, filter_empty=filter_empty)
    assert coco_dataset("nothing at all", **coco([(40, 40)]), masks=True)[0]["annotations"] == []


def refused(match, *arguments, **options):
    with pytest.raises(UserError, match=match) as error:
        coco_dataset(*arguments, **options)
    assert "\n" not in str(error.value)


def test_missing_files_name_the_path_and_the_cure(coco, tmp_path):
    files = coco([(40, 40)], [{}])
    refused(f"{tmp_path}/no.json .*DETECTRON2_DATASETS", "none", "no.json", "images")
    refused(f"{tmp_path}/images is a folder", "none", "images", "images")
    refused("image folder .*/nowhere", "none", files["json_file"], "nowhere")
    (tmp_path / "images" / "1.png").unlink()
    refused("1.png", "none", **files)


def image(**changes):
    return {"id": 1, "file_name": "1.png", "height": 40, "width": 40} | changes


def box(**changes):
    return {"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]} | changes


@pytest.mark.parametrize(
    "change, message",
    [
        ({"annotations": [box(), box()]}, "'annotations' .*7"),
        ({"images": [image(), image()]}, "'images' occur more than once"),
        ({"categories": [{"id": 1, "name": "cat"}] * 2}, "'categories' occur more than once"),
        ({"images": [{"id": 1, "file_name": "1.png", "height": 40}]}, "id 1 of 'images' lacks width"),
        ({"annotations": None}, "'annotations'"),
        ({"annotations": [None]}, "number 0 of 'annotations' is null"),
        ({"images": [[1, "1.png"]]}, r"number 0 of 'images' is \[1, \"1.png\"\]"),
        ({"images": [image(file_name=3)]}, "id 1 of 'images' has file_name 3"),
        ({"images": [image(height="40")]}, 'height "40"'),
        ({"images": [image(width=None)]}, "width null"),
        ({"images": [image(id=[1])]}, r"id \[1\]"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": "2", "name": "b"}]}, "'categories' has id \"2\""),
        ({"categories": [{"id": 1, "name": None}]}, "name null"),
        ({"annotations": [box(bbox=None)]}, "bbox null"),
        ({"annotations": [box(bbox=["1", "2", "3", "4"])]}, "id 7 of 'annotations' has bbox"),
        ({"annotations": [box(category_id="1")]}, 'category_id "1"'),
        ({"annotations": [box(image_id=None)]}, "image_id null"),
        ({"annotations": [box(area="50")]}, 'area "50"'),
        ({"annotations": [box(iscrowd="no")]}, 'iscrowd "no"'),
        ({"categories": []}, "no categories"),
        ({"images": []}, "no image"),
    ],
)
def test_faulty_files(coco, change, message):
    refused(message, "faulty", **coco([(40, 40)], change=change))


def test_files_that_are_no_coco(coco, tmp_path):
    files = coco([(40, 40)])
    (tmp_path / "instances.json").write_text('{"images": [')
    refused("is not JSON", "broken", **files)
    (tmp_path / "instances.json").write_text("[1, 2]")
    refused("holds a list", "broken", **files)


def test_no_image_left(coco):
    refused("1 images without objects", "empty", **coco([(40, 40)]), filter_empty=True)


def test_a_file_without_annotations_can_be_run_on(coco, tmp_path):
    files = coco([(40, 40)])
    text = (tmp_path / "instances.json").read_text()
    (tmp_path / "instances.json").write_text(text.replace('"annotations": [], ', ""))
    assert coco_dataset("test_images", **files)[0]["annotations"] == []


def test_a_name_stands_for_one_set_of_files_and_classes(coco, tmp_path):
    files = coco([(40, 40)], [{}])
    coco_dataset("mine", **files)
    coco_dataset("mine", **files)
    refused("'coco_2017_train' has another json_file", "coco_2017_train", **files)
    other = tmp_path / "other.json"
    other.write_text((tmp_path / "instances.json").read_text())
    refused("'mine' .*instances.json, .*other.json", "mine", "other.json", "images")
    refused("'mine' .*classes", "mine", **coco([(40, 40)], [{}], categories=[(1, "cow")]))
