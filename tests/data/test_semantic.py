"""Reading of semantic maps: the values as they stand in the file, and what is refused by its name."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import (
    AugmentationList,
    CropTransform,
    HFlipTransform,
    PadTransform,
    ResizeTransform,
    RotationTransform,
)
from PIL import Image

from htd.data import SemanticMaps
from htd.data.semantic import NoSemanticMaps, SemanticInput
from htd.data.transforms import CV2ResizeTransform
from htd.errors import UserError
from tests.static.source import ROOT

SIZE = (6, 8)
# Every value that COCO-Stuff's maps may have, and 255.
VALUES = np.resize([*range(0, 183, 4), 182, 255], SIZE).astype(np.uint8)


@pytest.fixture
def path(tmp_path):
    """Return the path of a map that can be read."""
    assert cv2.imwrite(str(tmp_path / "map.png"), VALUES)
    return tmp_path / "map.png"


def refused(match, path, *, size=SIZE, **options):
    with pytest.raises(UserError, match=match) as error:
        SemanticMaps(**options).read(str(path), size)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_values_are_those_of_the_file(path):
    read = SemanticMaps().read(str(path), SIZE)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, VALUES)


def test_gray_with_a_transparent_value_is_still_gray(path):
    Image.fromarray(VALUES).save(path, transparency=3)
    np.testing.assert_array_equal(SemanticMaps().read(str(path), SIZE), VALUES)


def test_a_palette_is_refused(path):
    image = Image.fromarray(VALUES)
    image.putpalette(list(range(256)) * 3)
    image.save(path)
    refused("PNG of a palette with 8 bits, .*not of stuff_train2017_pixelmaps", path)


@pytest.mark.parametrize(
    "mode, message",
    [
        ("RGB", "of 3 channels with 8 bits"),
        ("RGBA", "of 4 channels with 8 bits"),
        ("LA", "of 2 channels with 8 bits"),
        ("1", "of gray with 1 bits"),
        ("I;16", "of gray with 16 bits"),
    ],
)
def test_other_kinds_of_png_are_refused(path, mode, message):
    Image.fromarray(VALUES).convert(mode).save(path)
    refused(message, path)


def test_other_files_are_refused(path):
    whole = path.read_bytes()
    for data in (b"", b"not an image", cv2.imencode(".jpg", VALUES)[1].tobytes()):
        path.write_bytes(data)
        refused("is not a PNG; maps are 8-bit gray", path)
    path.write_bytes(whole[: len(whole) // 2])
    refused("cannot be decoded", path)
    path.unlink()
    path.mkdir()
    refused("cannot be read .Is a directory", path)


def test_another_size_than_the_image_is_refused(path):
    for size in ((8, 6), (6, 7)):
        refused(rf"is 6 x 8 pixels .height x width., its image {size[0]} x {size[1]}", path, size=size)


def test_unknown_values_are_refused_by_number(path):
    values = VALUES.copy()
    values[0, :3] = (183, 254, 200)
    cv2.imwrite(str(path), values)
    refused(r"has the values \[183, 200, 254\]; classes are 0..182, and 255.*stuff_train2017_pixelmaps", path)


def test_the_number_of_classes_decides_and_the_background_is_one_more(path):
    cv2.imwrite(str(path), np.resize(np.uint8([0, 1, 2, 3]), SIZE))
    assert SemanticMaps(4).read(str(path), SIZE).max() == 3
    assert SemanticMaps(3, background=True).read(str(path), SIZE).max() == 3
    refused(r"has the values \[3\]; classes are 0..2,", path, num_classes=3)
    refused(r"has the values \[2, 3\]; classes are 0..1,", path, num_classes=1, background=True)
    cv2.imwrite(str(path), np.resize(np.uint8([0, 1, 3]), SIZE))
    assert SemanticMaps(2, ignore_value=3).read(str(path), SIZE).max() == 3
    cv2.imwrite(str(path), np.resize(np.uint8([0, 1, 2, 3]), SIZE))
    refused(r"has the values \[2\]; classes are 0..1, and 3 is", path, num_classes=2, ignore_value=3)


@pytest.mark.parametrize("count, background", [(0, False), (255, True), (256, False)])
def test_classes_that_do_not_fit_into_a_map_are_refused(count, background):
    assert SemanticMaps(254, background=True).channels == SemanticMaps(255).channels == 255
    with pytest.raises(UserError, match=f"cannot hold {count + background} classes beside ignore_value=255"):
        SemanticMaps(count, background=background)


def test_a_missing_map_names_path_config_and_tool(path):
    path.unlink()
    refused("map.png does not exist; .*dataloader.train.dataset.semantic_root", path)
    for named in ("tools/draw_semantic_maps.py", "configs/htc/htc_without_semantic_r50_fpn_1x.py"):
        refused(named, path)
        assert (ROOT / named).is_file()


def test_a_record_without_a_map():
    image = np.zeros((*SIZE, 3), np.uint8)
    with pytest.raises(UserError, match="image a.jpg has no semantic map; name the folder"):
        SemanticMaps().attach({"file_name": "a.jpg"}, image)
    plain = NoSemanticMaps()
    assert plain.target(plain.attach({}, image)) == {} and plain.attach({}, image).sem_seg is None


def moved(values, *transforms, ignore_value=255):
    """Return image (of the same values) and map after some transforms."""
    given = SemanticInput(np.repeat(values[..., None], 3, axis=2), values, ignore_value)
    AugmentationList(list(transforms))(given)
    return given.image[..., 0], given.sem_seg


@pytest.mark.parametrize("old, new", [((20, 31), (53, 48)), ((53, 48), (20, 31)), ((7, 9), (14, 27))])
@pytest.mark.parametrize("resize", [CV2ResizeTransform, ResizeTransform])
def test_resizing_takes_the_pixel_at_floor_of_index_times_old_over_new(old, new, resize):
    values = np.random.default_rng(0).integers(0, 256, old).astype(np.uint8)
    _, found = moved(values, resize(*old, *new))
    rows, columns = (np.arange(n) * o // n for o, n in zip(old, new, strict=True))
    np.testing.assert_array_equal(found, values[np.ix_(rows, columns)])


@pytest.mark.parametrize("fill", [0, 1, 255])
def test_padding_is_without_a_class_whatever_the_transform_fills_in(fill):
    _, found = moved(VALUES, PadTransform(1, 2, 3, 4, pad_value=9, seg_pad_value=fill))
    expected = np.full((12, 12), 255, np.uint8)
    expected[2:8, 1:9] = VALUES
    np.testing.assert_array_equal(found, expected)


def test_a_turned_map_has_no_class_in_its_corners():
    image, found = moved(np.full((21, 21), 7, np.uint8), RotationTransform(21, 21, 45, expand=False))
    assert set(np.unique(found)) == {7, 255} and (found[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    assert (image[found == 255] < 7).all() and found[10, 10] == 7


def test_another_ignore_value_is_filled_in():
    _, found = moved(np.zeros(SIZE, np.uint8), PadTransform(0, 0, 1, 0), ignore_value=200)
    assert found[:, -1].tolist() == [200] * 6 and not found[:, :-1].any()


def test_crops_and_flips_move_pixels_and_change_none():
    image, found = moved(VALUES, HFlipTransform(8), CropTransform(2, 1, 4, 3))
    np.testing.assert_array_equal(found, VALUES[1:4, ::-1][:, 2:6])
    np.testing.assert_array_equal(image, found)


def test_the_target_is_a_tensor_of_class_numbers():
    given = SemanticInput(np.zeros((*SIZE, 3), np.uint8), VALUES, 255)
    target = SemanticMaps().target(given)["sem_seg"]
    assert target.dtype == torch.int64 and target.tolist() == VALUES.tolist()
