"""Semantic maps: how files are read and found, and that one transform moves image, boxes, masks and map."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import (
    AugmentationList,
    FixedSizeCrop,
    PadTransform,
    RandomCrop,
    RandomFlip,
    ResizeTransform,
    RotationTransform,
)
from detectron2.structures import BoxMode
from PIL import Image

from htd.data import DetectionMapper, ResizeCV2, SemanticMaps, coco_dataset, draw_semantic_maps
from htd.data.semantic import NoSemanticMaps, SemanticInput
from htd.data.transforms import CV2ResizeTransform
from htd.errors import UserError

SIZE = (6, 8)
HEIGHT, WIDTH = 60, 90
CLASS, BACKGROUND = 5, 9
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
    assert SemanticMaps().read(str(path), SIZE).dtype == np.uint8
    np.testing.assert_array_equal(SemanticMaps().read(str(path), SIZE), VALUES)
    # Gray with a transparent value is still gray.
    Image.fromarray(VALUES).save(path, transparency=3)
    np.testing.assert_array_equal(SemanticMaps().read(str(path), SIZE), VALUES)


@pytest.mark.parametrize(
    "mode, message",
    [
        ("P", "a palette with 8 bits"),
        ("RGB", "3 channels with 8 bits"),
        ("RGBA", "4 channels with 8 bits"),
        ("LA", "2 channels with 8 bits"),
        ("1", "gray with 1 bits"),
        ("I;16", "gray with 16 bits"),
    ],
)
def test_other_kinds_of_png_are_refused(path, mode, message):
    Image.fromarray(VALUES).convert(mode).save(path)
    refused(message, path)


def test_other_files_are_refused(path):
    whole = path.read_bytes()
    for data in (b"", b"not an image", cv2.imencode(".jpg", VALUES)[1].tobytes()):
        path.write_bytes(data)
        refused("is not a PNG", path)
    path.write_bytes(whole[: len(whole) // 2])
    refused("cannot be decoded", path)
    path.unlink()
    path.mkdir()
    refused("cannot be read", path)


def test_another_size_or_unknown_values_are_refused(path):
    refused("is 6 x 8 pixels .* 6 x 7", path, size=(6, 7))
    values = VALUES.copy()
    values[0, :3] = (183, 254, 200)
    cv2.imwrite(str(path), values)
    refused(r"\[183, 200, 254\]; classes are 0..182", path)


def test_the_number_of_classes_decides_and_the_background_is_one_more(path):
    cv2.imwrite(str(path), np.resize(np.uint8([0, 1, 2, 3]), SIZE))
    assert SemanticMaps(4).read(str(path), SIZE).max() == 3
    assert SemanticMaps(3, background=True).read(str(path), SIZE).max() == 3
    refused(r"\[3\]; classes are 0..2", path, num_classes=3)
    refused(r"\[2, 3\]; classes are 0..1,", path, num_classes=1, background=True)
    cv2.imwrite(str(path), np.resize(np.uint8([0, 1, 3]), SIZE))
    assert SemanticMaps(2, ignore_value=3).read(str(path), SIZE).max() == 3
    cv2.imwrite(str(path), np.resize(np.uint8([0, 1, 2, 3]), SIZE))
    refused(r"\[2\]; classes are 0..1, and 3 is", path, num_classes=2, ignore_value=3)


@pytest.mark.parametrize("count, background", [(0, False), (255, True), (256, False)])
def test_classes_that_do_not_fit_into_a_map_are_refused(count, background):
    assert SemanticMaps(254, background=True).channels == SemanticMaps(255).channels == 255
    with pytest.raises(UserError, match=f"cannot hold {count + background} classes beside ignore_value=255"):
        SemanticMaps(count, background=background)


def test_a_missing_map(path):
    path.unlink()
    refused("does not exist; .*semantic_root", path)
    with pytest.raises(UserError, match="image a.jpg has no semantic map"):
        SemanticMaps().attach({"file_name": "a.jpg"}, np.zeros((*SIZE, 3), np.uint8))
    plain = NoSemanticMaps()
    image = np.zeros((*SIZE, 3), np.uint8)
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


def test_the_target_is_a_tensor_of_class_numbers():
    given = SemanticInput(np.zeros((*SIZE, 3), np.uint8), VALUES, 255)
    target = SemanticMaps().target(given)["sem_seg"]
    assert target.dtype == torch.int64 and target.tolist() == VALUES.tolist()


@pytest.fixture
def sample(tmp_path):
    """Write an image whose red is the row, green the column and blue 255 on one object, and its map."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    blob = ((rows - 25) ** 2 / 15**2 + (columns - 40) ** 2 / 24**2 <= 1) & (rows + columns < 80)
    pixels = np.stack([255 * blob, columns, rows], axis=2).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), pixels)
    cv2.imwrite(str(tmp_path / "map.png"), np.where(blob, CLASS, BACKGROUND).astype(np.uint8))
    x, y, w, h = cv2.boundingRect(blob.astype(np.uint8))
    rle = mask_util.encode(np.asfortranarray(blob.astype(np.uint8)))
    near = {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 3, "iscrowd": 0}
    corner = [80.0, 50, 90, 50, 90, 60, 80, 60]
    far = near | {"bbox": [80, 50, 10, 10], "category_id": 1, "segmentation": [corner]}
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "map.png"),
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": [near | {"segmentation": rle}, far],
    }


def mapped(sample, *augmentations, seed=0, mask_format="bitmask"):
    np.random.seed(seed)
    return DetectionMapper(
        is_train=True, augmentations=augmentations, mask_format=mask_format, semantic_maps=SemanticMaps(10)
    )(sample)


def check_together(found):
    """Check that map, mask and box of the first object say the same; return where the image is."""
    semantic, instances = found["sem_seg"], found["instances"]
    assert semantic.shape == found["image"].shape[1:] == instances.image_size
    inside = semantic != 255
    assert set(semantic[inside].tolist()) <= {CLASS, BACKGROUND}
    assert len(instances.gt_masks) == len(instances)
    for k in torch.nonzero(instances.gt_classes == 3)[:, 0]:
        assert torch.equal(instances.gt_masks.tensor[k], semantic == CLASS)
    return inside


def blob(sample):
    return cv2.imread(sample["sem_seg_file_name"], cv2.IMREAD_UNCHANGED) == CLASS


@pytest.mark.parametrize("seed", range(6))
def test_flips_and_crops_move_all_four_alike(sample, seed):
    found = mapped(sample, RandomFlip(prob=0.5), RandomCrop("relative_range", (0.5, 0.5)), seed=seed)
    assert check_together(found).all()
    rows, columns, blue = found["image"].long()
    flipped = bool(columns[0, 0] > columns[0, -1])
    steps = columns.diff(dim=1)
    assert (steps == (-1 if flipped else 1)).all() and (rows.diff(dim=0) == 1).all()
    assert torch.equal(blue == 255, found["sem_seg"] == CLASS)
    boxes = found["instances"].gt_boxes.tensor
    left, top = (WIDTH - 1 - columns[0, 0] if flipped else columns[0, 0]), rows[0, 0]
    whole = torch.tensor(cv2.boundingRect((blob(sample)).astype(np.uint8))).float()
    x = WIDTH - whole[0] - whole[2] if flipped else whole[0]
    expected = torch.stack([x - left, whole[1] - top, x + whole[2] - left, whole[1] + whole[3] - top])
    height, width = found["sem_seg"].shape
    expected = expected.clamp(min=0).minimum(torch.tensor([width, height, width, height]).float())
    assert boxes[0].tolist() == expected.tolist()


def test_objects_outside_a_crop_go_and_the_map_stays(sample):
    for seed in range(20):
        found = mapped(sample, RandomCrop("absolute", (20, 30)), seed=seed)
        check_together(found)
        top, left = (int(found["image"][channel, 0, 0]) for channel in (0, 1))
        near = blob(sample)[top : top + 20, left : left + 30].any()
        far = top + 20 > 50 and left + 30 > 80
        assert found["instances"].gt_classes.tolist() == [3] * int(near) + [1] * int(far)
        assert found["sem_seg"].shape == (20, 30)


def test_a_flip_and_a_resize_commute_exactly(sample):
    """Twice the size, mirrored: the map of the original image, mirrored and each pixel four times."""
    found = mapped(sample, RandomFlip(prob=1.0), ResizeCV2(2 * HEIGHT, 1000))
    expected = np.where(blob(sample), CLASS, BACKGROUND)[:, ::-1].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(found["sem_seg"], expected)


PADDING = [FixedSizeCrop((80, 100)), *(PadTransform(0, 0, 10, 20, seg_pad_value=k) for k in (0, 7, 255))]


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
@pytest.mark.parametrize("padding", PADDING, ids=str)
def test_what_is_padded_has_no_class_and_no_mask(sample, mask_format, padding):
    sample["annotations"] = sample["annotations"][1 if mask_format == "polygon" else 0 :]
    found = mapped(sample, padding, mask_format=mask_format)
    assert found["sem_seg"].shape == (80, 100)
    semantic = found["sem_seg"].clone()
    assert (semantic[:HEIGHT, :WIDTH] != 255).all()
    semantic[:HEIGHT, :WIDTH] = 255
    assert (semantic == 255).all()
    masks = found["instances"].gt_masks
    if mask_format == "bitmask":
        check_together(found)
        assert not masks.tensor[:, HEIGHT:].any() and not masks.tensor[:, :, WIDTH:].any()
    else:
        assert masks.get_bounding_boxes().tensor.tolist() == [[80, 50, 90, 60]]


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_semantic_maps_by_the_names_of_the_images(coco, tmp_path):
    names = "sub/1.jpg", str(tmp_path / "images" / "2.png")
    inside = [{"id": k, "file_name": name, "height": 40, "width": 40} for k, name in enumerate(names, 1)]
    files = coco([(40, 40), (40, 40)], change={"images": inside})
    (tmp_path / "images/sub").mkdir()
    (tmp_path / "images/1.png").rename(tmp_path / "images/sub/1.jpg")
    touch(tmp_path / "maps", "sub/1.png", "2.png")
    records = coco_dataset("semantic", **files, semantic_root="maps")
    expected = [str(tmp_path / "maps" / name) for name in ("sub/1.png", "2.png")]
    assert [record["sem_seg_file_name"] for record in records] == expected
    assert MetadataCatalog.get("semantic").sem_seg_root == str(tmp_path / "maps")
    assert DatasetCatalog.get("semantic") == records
    assert coco_dataset("semantic", **files, semantic_root=str(tmp_path / "maps")) == records
    assert "sem_seg_file_name" not in coco_dataset("semantic", **files)[0]


def test_missing_maps_are_found_before_a_training(coco, tmp_path):
    files = coco([(40, 40)] * 3)
    options = files | {"semantic_root": "maps"}
    with pytest.raises(UserError, match=f"folder {tmp_path}/maps .*semantic_root, .*draw_semantic_maps.py"):
        coco_dataset("s", **options)
    touch(tmp_path / "maps", "1.png")
    with pytest.raises(UserError, match=f"2 of 3 semantic maps are missing, first {tmp_path}/maps/2.png"):
        coco_dataset("s", **options)
    touch(tmp_path / "maps", "2.png", "3.png")
    touch(tmp_path / "other", "1.png", "2.png", "3.png")
    assert len(coco_dataset("s", **options)) == 3
    with pytest.raises(UserError, match="'s' .*sem_seg_root, .*maps, not .*other"):
        coco_dataset("s", **files, semantic_root="other")


def test_maps_of_another_state_of_the_annotations(coco, tmp_path, caplog):
    triangle = {"segmentation": [[1, 1, 9, 1, 5, 8]]}
    coco([(40, 40)] * 2, [triangle, triangle | {"image_id": 2}])
    path = tmp_path / "instances.json"
    folder = draw_semantic_maps(path, tmp_path / "maps")
    options = {"masks": True, "semantic_root": "maps"}
    coco_dataset("same state", "instances.json", "images", **options)
    assert "another state" not in caplog.text
    (folder / "2.png").rename(tmp_path / "2.png")
    with pytest.raises(UserError, match="1 of 2 .*first .*maps/2.png; draw them"):
        coco_dataset("absent", "instances.json", "images", **options)
    content = json.loads(path.read_text())
    content["annotations"].pop(0)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="1 of 2 .*first .*maps/2.png; draw all of them into another folder"):
        coco_dataset("absent", "instances.json", "images", **options)
    (tmp_path / "2.png").rename(folder / "2.png")
    coco_dataset("other state", "instances.json", "images", **options)
    assert ["WARNING"] == [r.levelname for r in caplog.records if "data set other state" in r.getMessage()]
