"""One transform moves image, boxes, masks and semantic map, on both versions of Detectron2."""

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.transforms import (
    FixedSizeCrop,
    PadTransform,
    RandomCrop,
    RandomCrop_CategoryAreaConstraint,
    RandomFlip,
    ResizeShortestEdge,
)
from detectron2.structures import BitMasks, BoxMode, PolygonMasks

from htd.data import DetectionMapper, ResizeCV2, SemanticMaps
from htd.errors import UserError

HEIGHT, WIDTH = 60, 90
CLASS, BACKGROUND = 5, 9


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


def mapped(sample, *augmentations, seed=0, mask_format="bitmask", **options):
    np.random.seed(seed)
    return DetectionMapper(
        is_train=True,
        augmentations=augmentations,
        mask_format=mask_format,
        semantic_maps=SemanticMaps(10, **options),
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


def blob(sample):
    return cv2.imread(sample["sem_seg_file_name"], cv2.IMREAD_UNCHANGED) == CLASS


def test_objects_outside_a_crop_go_and_the_map_stays(sample):
    for seed in range(20):
        found = mapped(sample, RandomCrop("absolute", (20, 30)), seed=seed)
        check_together(found)
        top, left = (int(found["image"][channel, 0, 0]) for channel in (0, 1))
        near = blob(sample)[top : top + 20, left : left + 30].any()
        far = top + 20 > 50 and left + 30 > 80
        assert found["instances"].gt_classes.tolist() == [3] * int(near) + [1] * int(far)
        assert found["sem_seg"].shape == (20, 30)


@pytest.mark.parametrize("seed", range(3))
def test_resizing_keeps_mask_and_map_equal_to_the_pixel(sample, seed):
    augmentations = ResizeCV2((70, 140), 400, "range"), RandomFlip(prob=0.5)
    found = mapped(sample, *augmentations, seed=seed)
    assert check_together(found).all()
    object_pixels = found["image"][2] > 127
    assert (object_pixels ^ (found["sem_seg"] == CLASS)).float().mean() < 0.02
    box = found["instances"].gt_masks[:1].get_bounding_boxes().tensor
    assert (box - found["instances"].gt_boxes.tensor[0]).abs().max() <= 2


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


def test_detectron2s_resize_moves_mask_and_map_alike_to_a_pixel(sample):
    found = mapped(sample, ResizeShortestEdge(130, 400, "choice"))
    mask = found["instances"].gt_masks.tensor[0].numpy().astype(np.uint8)
    wide = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - cv2.erode(mask, np.ones((3, 3), np.uint8))
    assert not ((mask == 1) ^ (found["sem_seg"] == CLASS).numpy())[wide == 0].any()


def test_augmentations_may_look_at_the_map(sample):
    """This crop draws up to ten times, until no class fills more than the given share of it."""

    def background(crop):
        maps = [mapped(sample, crop, seed=seed)["sem_seg"] for seed in range(20)]
        return np.array([(values == BACKGROUND).float().mean() for values in maps])

    looking = background(RandomCrop_CategoryAreaConstraint("absolute", (20, 30), 0.7))
    assert (looking < 0.7).mean() > 0.9 > 0.6 > (background(RandomCrop("absolute", (20, 30))) < 0.7).mean()


@pytest.mark.parametrize("mask_format, kind", [("bitmask", BitMasks), ("polygon", PolygonMasks)])
def test_samples_without_objects_have_empty_masks(sample, mask_format, kind):
    empty = mapped(sample | {"annotations": []}, mask_format=mask_format)["instances"]
    assert isinstance(empty.gt_masks, kind) and len(empty.gt_masks) == len(empty) == 0
    assert len(empty.gt_boxes) == len(empty.gt_classes) == 0


def test_without_a_mask_format_there_are_no_masks(sample):
    found = DetectionMapper(is_train=True, augmentations=[])(sample)
    assert not found["instances"].has("gt_masks") and "sem_seg" not in found
    with pytest.raises(UserError, match="'rle' is unknown; take one of 'polygon', 'bitmask', or null"):
        DetectionMapper(is_train=True, augmentations=[], mask_format="rle")


def test_polygon_masks_refuse_run_lengths(sample):
    sample["annotations"][0]["id"] = 71
    with pytest.raises(UserError, match="mask of annotation 71 is an RLE.*mask_format=bitmask"):
        mapped(sample, mask_format="polygon")


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_masks_that_were_not_loaded(sample, mask_format):
    sample["annotations"][0] = {k: v for k, v in sample["annotations"][0].items() if k != "segmentation"}
    with pytest.raises(
        UserError, match="comes without a mask; .*dataset.masks=True, or .*htc_box_r50_fpn_1x.py"
    ):
        mapped(sample, mask_format=mask_format)


def test_a_faulty_map_stops_the_sample_by_name(sample):
    cv2.imwrite(sample["sem_seg_file_name"], np.full((HEIGHT, WIDTH), 10, np.uint8))
    with pytest.raises(UserError, match=r"map.png has the values \[10\]; classes are 0..9"):
        mapped(sample)
