"""Resizing and mapping, against numbers worked out by hand."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import RandomFlip
from detectron2.structures import BoxMode

from htd.data import CachedReader, DetectionMapper, ResizeCV2, coco_dataset
from htd.data.reader import read_image
from htd.data.transforms import CV2ResizeTransform
from htd.errors import UserError


@pytest.mark.parametrize(
    "size, new_size",
    [
        # scale = min(1333 / longer, 800 / shorter); a side becomes int(side * scale + 0.5)
        ((480, 640), (800, 1067)),  # scale 800 / 480; 640 * 1.6667 = 1066.67
        ((427, 640), (800, 1199)),  # scale 800 / 427; 640 * 1.87354 = 1199.06
        ((640, 427), (1199, 800)),
        ((300, 1000), (400, 1333)),  # scale 1.333; 300 * 1.333 = 399.9
        ((612, 612), (800, 800)),
    ],
)
def test_new_size(size, new_size):
    resize = ResizeCV2(800, 1333).get_transform(np.zeros((*size, 3), np.uint8))
    assert (resize.new_height, resize.new_width) == new_size
    assert resize.apply_image(np.zeros((*size, 3), np.uint8)).shape == (*new_size, 3)


def test_a_length_is_drawn_as_the_style_says():
    image = np.zeros((100, 200, 3), np.uint8)
    np.random.seed(0)

    def drawn(resize):
        return {resize.get_transform(image).new_height for _ in range(200)}

    assert drawn(ResizeCV2([20, 40, 60], 1000)) == {20, 40, 60}
    assert drawn(ResizeCV2([20, 24], 1000, "range")) == {20, 21, 22, 23, 24}
    with pytest.raises(ValueError, match="smallest and the largest"):
        ResizeCV2([1, 2, 3], 10, "range")
    with pytest.raises(ValueError, match="'choice' or 'range'"):
        ResizeCV2(10, 10, "both")


def test_resize_of_pixels_labels_and_points():
    # Halving with OpenCV's bilinear rule reads at 0.5, 2.5, ...: means of two neighbors, no smoothing.
    row = np.array([[0, 10, 100, 200]], np.uint8)
    resize = CV2ResizeTransform(1, 4, 1, 2)
    np.testing.assert_array_equal(resize.apply_image(row), [[5, 150]])
    np.testing.assert_array_equal(resize.apply_segmentation(row), [[0, 100]])
    np.testing.assert_allclose(
        resize.apply_coords(np.array([[1.0, 0.5], [4.0, 1.0]])), [[0.5, 0.5], [2.0, 1.0]]
    )
    whole = np.array([[3, 1]])
    np.testing.assert_array_equal(resize.apply_coords(whole), [[1.5, 1.0]])
    assert resize.apply_coords(whole.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(resize.inverse().apply_coords(np.array([[2.0, 1.0]])), [[4.0, 1.0]])
    with pytest.raises(ValueError, match="got an array"):
        resize.apply_image(row[:, :2])


def record(path, boxes, size=(20, 40), **changes):
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": k, "iscrowd": 0}
        for k, box in enumerate(boxes)
    ]
    names = {"file_name": str(path), "image_id": 3, "height": size[0], "width": size[1]}
    return names | {"annotations": annotations} | changes


@pytest.fixture
def picture(tmp_path):
    """Write an image of 20 x 40 pixels, left half (R, G, B) = (250, 120, 10), right half black."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = (10, 120, 250)
    cv2.imwrite(str(tmp_path / "picture.png"), pixels)
    return tmp_path / "picture.png"


def test_training_sample(picture):
    mapper = DetectionMapper(is_train=True, augmentations=[ResizeCV2(40, 1000), RandomFlip(prob=1.0)])
    boxes = [[0, 0, 10, 10], [30, 10, 20, 20], [-5, 5, 6, 5], [40, 0, 5, 5]]
    given = record(picture, boxes)
    mapped = mapper(given)
    assert mapped["image"].shape == (3, 40, 80) and mapped["image"].dtype == torch.uint8
    assert mapped["image"][:, 0, 0].tolist() == [0, 0, 0]
    assert mapped["image"][:, 0, 79].tolist() == [250, 120, 10]
    # Doubled, mirrored at width 80 (x -> 80 - x), clipped; the last box is empty then and goes.
    expected = [[60, 0, 80, 20], [0, 20, 20, 40], [78, 10, 80, 20]]
    assert mapped["instances"].gt_boxes.tensor.tolist() == expected
    assert mapped["instances"].gt_classes.tolist() == [0, 1, 2]
    assert mapped["instances"].image_size == (40, 80)
    assert (mapped["image_id"], mapped["height"], mapped["width"]) == (3, 20, 40)
    assert "annotations" not in mapped and given == record(picture, boxes)


def test_test_sample(picture):
    mapper = DetectionMapper(is_train=False, augmentations=[ResizeCV2(10, 1000)], image_format="BGR")
    mapped = mapper(record(picture, [[0, 0, 10, 10]]))
    assert set(mapped) == {"image", "file_name", "image_id", "height", "width"}
    assert mapped["image"].shape == (3, 10, 20) and mapped["image"][:, 5, 2].tolist() == [10, 120, 250]


def test_crowd_regions_and_empty_images(picture):
    mapper = DetectionMapper(is_train=True, augmentations=[])
    crowd = record(picture, [[0, 0, 10, 10], [5, 5, 10, 10]])
    crowd["annotations"][0]["iscrowd"] = 1
    assert mapper(crowd)["instances"].gt_classes.tolist() == [1]
    nothing = mapper(record(picture, []))["instances"]
    assert len(nothing) == 0 and nothing.gt_boxes.tensor.shape == (0, 4)
    assert nothing.gt_classes.dtype == torch.int64


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_masks_follow_the_image(toy, monkeypatch, mask_format):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy.parent))
    files = ("toy_masks", "toy/annotations/instances_train.json", "toy/train")
    first = coco_dataset(*files, masks=True, filter_empty=True)[0]
    augmentations = [ResizeCV2(300, 1000), RandomFlip(prob=1.0)]
    mapper = DetectionMapper(is_train=True, augmentations=augmentations, mask_format=mask_format)
    instances = mapper(first)["instances"]
    boxes = instances.gt_masks.get_bounding_boxes().tensor
    assert (boxes - instances.gt_boxes.tensor).abs().max() <= 2.5


def test_reading(tmp_path, picture):
    gray = tmp_path / "gray.png"
    cv2.imwrite(str(gray), np.full((4, 6), 77, np.uint8))
    np.testing.assert_array_equal(read_image(str(gray), "RGB"), np.full((4, 6, 3), 77, np.uint8))
    with pytest.raises(UserError, match="'XYZ' is unknown"):
        read_image(str(gray), "XYZ")
    with pytest.raises(UserError, match="gone.png cannot be read .No such file"):
        read_image(str(tmp_path / "gone.png"), "RGB")
    for data in (b"", b"not an image"):
        (tmp_path / "bad.png").write_bytes(data)
        with pytest.raises(UserError, match=f"bad.png cannot be decoded .{len(data)} bytes"):
            read_image(str(tmp_path / "bad.png"), "RGB")


def test_orientation_of_a_camera_is_applied(tmp_path):
    ok, jpeg = cv2.imencode(".jpg", np.zeros((16, 32, 3), np.uint8))
    # An EXIF block with one entry: tag 0x0112 (orientation), type short, value 6 (turned by 90 degrees).
    tiff = bytes.fromhex("49492a0008000000 0100 1201 0300 01000000 06000000 00000000".replace(" ", ""))
    block = b"Exif\0\0" + tiff
    data = jpeg.tobytes()
    turned = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    (tmp_path / "turned.jpg").write_bytes(turned)
    assert ok and read_image(str(tmp_path / "turned.jpg"), "RGB").shape == (32, 16, 3)
    mapper = DetectionMapper(is_train=False, augmentations=[])
    with pytest.raises(UserError, match="turned.jpg is 32 x 16 .* says 16 x 32: .*EXIF"):
        mapper(record(tmp_path / "turned.jpg", [], size=(16, 32)))


def test_another_size_than_annotated(picture):
    with pytest.raises(UserError, match="picture.png is 20 x 40 .* says 25 x 40; correct"):
        DetectionMapper(is_train=False, augmentations=[])(record(picture, [], size=(25, 40)))


def test_cached_images_are_read_once_and_stay_as_they_are(picture):
    reader = CachedReader()
    mapper = DetectionMapper(is_train=True, augmentations=[], reader=reader)
    first = mapper(record(picture, []))["image"]
    expected = first.clone()
    first.zero_()
    picture.unlink()
    assert torch.equal(mapper(record(picture, []))["image"], expected)
    with pytest.raises(ValueError, match="read-only"):
        reader(str(picture), "RGB")[:] = 0
