"""From records to model inputs: reading, targets in both conventions, masks."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import CropTransform, RandomFlip
from detectron2.structures import BitMasks, BoxMode, PolygonMasks

from htd.data import CachedReader, DetectionMapper, ResizeCV2, coco_dataset, read_image
from htd.errors import UserError
from htd.layers import InclusiveBoxes
from tests.configs.reduced import build
from tests.recorded import arrays, extents, image, inclusive

# Seed of the picture, and what brings the stored boxes to pixels: OpenImages' are relative.
CASES = {"down": (91, False), "up": (92, True)}


def record(path, boxes, size=(20, 40), mode=BoxMode.XYWH_ABS, **changes):
    """Return a data set's dictionary of an image of ``size`` (H, W)."""
    annotations = [
        {"bbox": box, "bbox_mode": mode, "category_id": k, "iscrowd": 0} for k, box in enumerate(boxes)
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


def test_reading(tmp_path, picture):
    gray = tmp_path / "gray.png"
    cv2.imwrite(str(gray), np.full((4, 6), 77, np.uint8))
    np.testing.assert_array_equal(read_image(str(gray), "RGB"), np.full((4, 6, 3), 77, np.uint8))
    with pytest.raises(UserError, match="XYZ"):
        read_image(str(gray), "XYZ")
    with pytest.raises(UserError, match="gone.png"):
        read_image(str(tmp_path / "gone.png"), "RGB")
    for data in (b"", b"not an image"):
        (tmp_path / "bad.png").write_bytes(data)
        with pytest.raises(UserError, match="bad.png cannot be decoded"):
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
    with pytest.raises(UserError, match="turned.jpg .*EXIF"):
        mapper(record(tmp_path / "turned.jpg", [], size=(16, 32)))


def test_another_size_than_annotated(picture):
    with pytest.raises(UserError, match="picture.png is 20 x 40 .* 25 x 40"):
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


def inclusive_mapper(*augmentations, **settings):
    return DetectionMapper(
        is_train=True, augmentations=augmentations, convention=InclusiveBoxes(), **settings
    )


def areas(path, boxes, size=(20, 40)):
    return record(path, boxes.tolist(), size, BoxMode.XYXY_ABS)


@pytest.fixture(scope="module")
def preprocess():
    """Normalization and padding of a configured model."""
    return build("configs/baselines/faster_rcnn_r50_fpn_1x.py").preprocess_image


@pytest.mark.parametrize("tag", CASES)
def test_published_pipeline(tag, tmp_path, preprocess):
    """Tolerances: one gray level, boxes 1e-3 pixels, normalized values 0.02."""
    seed, relative = CASES[tag]
    wanted = arrays("tsd", f"pipeline_{tag}")
    height, width = wanted["image_hw"].tolist()
    longest, shortest = wanted["scale"].tolist()
    cv2.imwrite(str(tmp_path / "picture.png"), image(f"pipe.{tag}", height, width, seed)[:, :, ::-1])
    pixels = torch.from_numpy(wanted["src_boxes"].astype(np.float64))
    pixels = pixels * torch.tensor([width, height] * 2) if relative else pixels
    flip = RandomFlip(prob=float(wanted["flip"]))
    mapper = inclusive_mapper(ResizeCV2(shortest, longest), flip)
    mapped = mapper(areas(tmp_path / "picture.png", extents(pixels), (height, width)))

    assert mapped["image"].shape[1:] == tuple(wanted["img_shape"][:2])
    found = mapped["image"].permute(1, 2, 0).numpy()
    unflipped = found[:, ::-1] if wanted["flip"] else found
    assert np.abs(unflipped.astype(int) - wanted["resized_rgb"]).max() <= 1
    boxes = inclusive(mapped["instances"].gt_boxes.tensor)
    np.testing.assert_allclose(boxes, wanted["boxes"], atol=1e-3, rtol=0)

    final = preprocess([mapped]).tensor[0].permute(1, 2, 0).numpy()
    assert final.shape == tuple(wanted["pad_shape"])
    np.testing.assert_allclose(final.mean(axis=(0, 1)), wanted["final_mean"], atol=0.02)
    np.testing.assert_allclose(final[:20, :20], wanted["final_corner"], atol=0.02)
    np.testing.assert_allclose(final[-40:, -40:], wanted["final_edge"], atol=0.02)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_clipped_boxes_keep_a_pixel(picture, flip):
    """Last pixels stop at side - 1; first ones, too: what reaches into the image at all keeps one pixel."""
    boxes = torch.tensor([[-5, -5, 60, 60], [39.5, 19.75, 50, 50], [-8, 3, 0.25, 9], [40, 0, 45, 5.0]])
    found = inclusive_mapper(RandomFlip(prob=flip))(areas(picture, boxes))
    # The last box lies outside.
    expected = torch.tensor([[0, 0, 40, 20], [39, 19, 40, 20], [0, 3, 1, 9.0]])
    if flip:
        expected[:, [0, 2]] = 40 - expected[:, [2, 0]]
    torch.testing.assert_close(found["instances"].gt_boxes.tensor, expected)


def test_a_crop_drops_what_it_leaves_out(picture):
    """An object outside of the crop is no object of one pixel at its border."""
    boxes = torch.tensor([[0, 0, 5, 5], [12, 2, 18, 8.0]])
    mapper = inclusive_mapper(CropTransform(10, 0, 10, 10))
    found = mapper(areas(picture, boxes))
    torch.testing.assert_close(found["instances"].gt_boxes.tensor, torch.tensor([[2, 2, 8, 8.0]]))


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_masks_follow_the_image_in_both_conventions(toy, monkeypatch, mask_format):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy.parent))
    files = ("toy_masks", "toy/annotations/instances_train.json", "toy/train")
    first = coco_dataset(*files, masks=True, filter_empty=True)[0]
    augmentations = [ResizeCV2(300, 1000), RandomFlip(prob=1.0)]
    plain = DetectionMapper(is_train=True, augmentations=augmentations, mask_format=mask_format)(first)
    ours = inclusive_mapper(*augmentations, mask_format=mask_format)(first)
    assert torch.equal(plain["image"], ours["image"])
    masks, others = (item["instances"].gt_masks.get_bounding_boxes().tensor for item in (plain, ours))
    assert torch.equal(masks, others)
    boxes, theirs = (item["instances"].gt_boxes.tensor for item in (ours, plain))
    assert (masks - theirs).abs().max() <= 2.5
    scale = 300 / min(first["height"], first["width"])
    # Mirrored, the near x is the far one: the box ends scale - 1 pixels sooner there.
    torch.testing.assert_close(boxes - theirs, torch.tensor([scale - 1, 0, 0, 1 - scale]).expand_as(boxes))


@pytest.mark.parametrize("mask_format, kind", [("bitmask", BitMasks), ("polygon", PolygonMasks)])
def test_masks_of_no_object(picture, mask_format, kind):
    mapper = DetectionMapper(is_train=True, augmentations=[], mask_format=mask_format)
    empty = mapper(record(picture, []))["instances"]
    assert isinstance(empty.gt_masks, kind) and len(empty.gt_masks) == len(empty) == 0
    with pytest.raises(UserError, match="annotation 71 .*dataset.masks"):
        given = record(picture, [[0, 0, 10, 10]])
        given["annotations"][0]["id"] = 71
        mapper(given)


def test_mask_formats(picture):
    given = record(picture, [[5, 5, 10, 10]])
    given["annotations"][0] |= {"segmentation": {"size": [20, 40], "counts": "0"}, "id": 71}
    assert not DetectionMapper(is_train=True, augmentations=[])(given)["instances"].has("gt_masks")
    with pytest.raises(UserError, match="annotation 71 is an RLE.*bitmask"):
        DetectionMapper(is_train=True, augmentations=[], mask_format="polygon")(given)
    with pytest.raises(UserError, match="'rle'"):
        DetectionMapper(is_train=True, augmentations=[], mask_format="rle")
