"""Where the semantic maps of a data set are looked for, and what is said of those that are not there."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from htd.data import coco_dataset, draw_semantic_maps
from htd.errors import UserError


def refused(match, *arguments, **options):
    with pytest.raises(UserError, match=match) as error:
        coco_dataset(*arguments, **options)
    assert "\n" not in str(error.value)


def semantic_maps(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_semantic_maps_by_the_names_of_the_images(coco, tmp_path):
    names = "sub/1.jpg", str(tmp_path / "images" / "2.png")
    inside = [{"id": k, "file_name": name, "height": 40, "width": 40} for k, name in enumerate(names, 1)]
    files = coco([(40, 40), (40, 40)], change={"images": inside})
    (tmp_path / "images/sub").mkdir()
    (tmp_path / "images/1.png").rename(tmp_path / "images/sub/1.jpg")
    semantic_maps(tmp_path / "maps", "sub/1.png", "2.png")
    records = coco_dataset("semantic", **files, semantic_root="maps")
    expected = [str(tmp_path / "maps" / name) for name in ("sub/1.png", "2.png")]
    assert [record["sem_seg_file_name"] for record in records] == expected
    assert MetadataCatalog.get("semantic").sem_seg_root == str(tmp_path / "maps")
    assert DatasetCatalog.get("semantic") == records
    assert coco_dataset("semantic", **files, semantic_root=str(tmp_path / "maps")) == records
    assert "sem_seg_file_name" not in coco_dataset("semantic", **files)[0]


def test_missing_maps_are_found_before_a_training(coco, tmp_path):
    files = coco([(40, 40)] * 3)
    cures = ".*semantic_root .*tools/draw_semantic_maps.py, .*configs/htc/htc_without_semantic_r50_fpn_1x.py"
    options = files | {"semantic_root": "maps"}
    refused(f"data set s: folder {tmp_path}/maps of the semantic maps does not exist{cures}", "s", **options)
    semantic_maps(tmp_path / "maps", "1.png")
    absent = (
        f"2 of 3 semantic maps are missing, first {tmp_path}/maps/2.png; add them, or correct .*semantic_root"
    )
    refused(f"data set s: {absent}", "s", **options)
    semantic_maps(tmp_path / "maps", "2.png", "3.png")
    semantic_maps(tmp_path / "other", "1.png", "2.png", "3.png")
    assert len(coco_dataset("s", **options)) == 3
    refused("'s' already belongs to .*maps, not to .*other", "s", **files, semantic_root="other")


def test_maps_of_another_state_of_the_annotations(coco, tmp_path, caplog):
    triangle = {"segmentation": [[1, 1, 9, 1, 5, 8]]}
    coco([(40, 40)] * 2, [triangle, triangle | {"image_id": 2}])
    path = tmp_path / "instances.json"
    folder = draw_semantic_maps(path, tmp_path / "maps")
    options = {"masks": True, "semantic_root": "maps"}
    coco_dataset("same state", "instances.json", "images", **options)
    assert "another state" not in caplog.text
    (folder / "2.png").rename(tmp_path / "2.png")
    absent = "data set absent: 1 of 2 semantic maps are missing, first .*maps/2.png; draw"
    cure = "tools/draw_semantic_maps.py.*, or correct dataloader.train.dataset.semantic_root"
    with pytest.raises(UserError, match=f"{absent} them with {cure}"):
        coco_dataset("absent", "instances.json", "images", **options)
    content = json.loads(path.read_text())
    content["annotations"].pop(0)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{absent} all of them into another folder with {cure}"):
        coco_dataset("absent", "instances.json", "images", **options)
    (tmp_path / "2.png").rename(folder / "2.png")
    coco_dataset("other state", "instances.json", "images", **options)
    said = [record for record in caplog.records if "another state" in record.getMessage()]
    assert [(record.levelname, record.getMessage()) for record in said] == [
        (
            "WARNING",
            f"data set other state: the semantic maps in {folder} were drawn from another state of the "
            "annotations; draw them anew into another folder if objects have changed",
        )
    ]
