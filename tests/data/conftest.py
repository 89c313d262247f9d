"""A toy data set that is generated once, and small COCO files written by hand."""

import json

import cv2
import numpy as np
import pytest

from htd.data.toy import make_toy_data


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Return the folder of 16 training and 8 validation images."""
    return make_toy_data(tmp_path_factory.mktemp("data") / "toy", strength=0.5, train=16, val=8, seed=3)


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """Return a function that writes a COCO file (and its images) under a fresh data root.

    Each image is (width, height); the k-th gets id k. Each annotation is a dictionary; id, image_id,
    category_id, bbox, area and iscrowd have defaults. ``change`` replaces whole lists of the file.
    """
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def write(images, annotations=(), categories=((1, "cat"), (2, "dog")), change=None):
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        content = {
            "images": [
                {"id": k, "file_name": f"{k}.png", "width": width, "height": height}
                for k, (width, height) in enumerate(images, start=1)
            ],
            "annotations": [
                {"id": k, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 10], "area": 50, "iscrowd": 0}
                | item
                for k, item in enumerate(annotations, start=1)
            ],
            "categories": [{"id": key, "name": name} for key, name in categories],
        } | (change or {})
        for k, (width, height) in enumerate(images, start=1):
            cv2.imwrite(str(folder / f"{k}.png"), np.full((height, width, 3), (10 * k, 100, 200), np.uint8))
        (tmp_path / "instances.json").write_text(json.dumps(content))
        return {"json_file": "instances.json", "image_root": "images"}

    return write
