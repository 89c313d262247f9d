"""Which images are found, what their pictures are called, and that these are whole or not there."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from htd.errors import UserError
from htd.visualize import find_images, make_folder, picture_names, write_picture

PICTURE = np.zeros((20, 30, 3), np.uint8)
PICTURE[:, 15:] = (200, 100, 0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deeper/c.jpg"):
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


def test_images_of_a_folder_are_taken_once_and_by_name(folder):
    alone = folder / "deeper" / "c.jpg"
    found = find_images([alone, folder, f"{folder}/../in/b.jpg", folder / "notes.txt"])
    assert found == [alone, folder / "a.PNG", folder / "b.jpg", folder / "notes.txt"]


def test_nothing_to_draw_is_said(folder):
    with pytest.raises(UserError, match=f"input {folder}/no.jpg does not exist"):
        find_images([folder, folder / "no.jpg"])
    (folder / "deeper" / "c.jpg").unlink()
    with pytest.raises(UserError, match=f"input folder {folder}/deeper holds no image"):
        find_images([folder / "deeper"])


def test_names_are_those_of_the_files_and_unlike_each_other():
    images = map(Path, ["x/a.jpg", "y/a.jpg", "x/a_2.png", "x/a.png", "x/b.v1.jpg"])
    assert picture_names(images) == ["a", "a_2", "a_2_2", "a_3", "b.v1"]


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_picture_replaces_an_older_one(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("older")
    write_picture(path, PICTURE)
    read = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)
    # Colors of JPEGs at full resolution: they change from one column to the next.
    assert np.abs(read - PICTURE).max() <= (0 if ending == ".png" else 12)
    assert os.listdir(tmp_path) == [path.name]


def test_an_image_of_the_input_is_not_replaced(tmp_path):
    path = tmp_path / "a_detections.jpg"
    path.write_text("mine")
    with pytest.raises(UserError, match="would replace an image of the input"):
        write_picture(tmp_path / "x" / ".." / "a_detections.jpg", PICTURE, {path.resolve()})
    assert path.read_text() == "mine"


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file cannot be made"):
        make_folder(tmp_path / "file")
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(UserError, match="a.jpg cannot be written"):
        write_picture(tmp_path / "a.jpg", PICTURE)
    assert sorted(os.listdir(tmp_path)) == ["a.jpg", "file"]
    assert make_folder(tmp_path / "new" / "er").is_dir()
