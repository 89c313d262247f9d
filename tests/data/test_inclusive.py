"""Boxes that name their first and last pixels: reference arrays, and what the convention changes."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data.transforms import CropTransform, RandomFlip
from detectron2.structures import BoxMode

from htd.data import DetectionMapper, InclusiveResizeCV2, ResizeCV2, coco_dataset
from htd.data.transforms import InclusiveResizeTransform
from htd.layers import InclusiveBoxes
from tests.configs.reduced import build
from tests.recorded import arrays, extents, image, inclusive
from tests.static.source import ROOT

# Seed of the picture, and what brings the stored boxes to pixels: OpenImages' are relative.
CASES = {"down": (91, False), "up": (92, True)}


def write(path, pixels):
    """Write an RGB image."""
    cv2.imwrite(str(path), pixels[:, :, ::-1])


def record(path, areas, size):
    """Return a data set's dictionary of an image of ``size`` (H, W) with boxes (n, 4), XYXY areas."""
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0} for box in areas.tolist()
    ]
    names = {"file_name": str(path), "image_id": 1, "height": size[0], "width": size[1]}
    return names | {"annotations": annotations}


def train_mapper(*augmentations, **settings):
    return DetectionMapper(
        is_train=True, augmentations=augmentations, convention=InclusiveBoxes(), **settings
    )


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
    write(tmp_path / "picture.png", image(f"pipe.{tag}", height, width, seed))
    pixels = torch.from_numpy(wanted["src_boxes"].astype(np.float64))
    pixels = pixels * torch.tensor([width, height] * 2) if relative else pixels
    flip = RandomFlip(prob=float(wanted["flip"]))
    mapper = train_mapper(InclusiveResizeCV2(shortest, longest), flip)
    mapped = mapper(record(tmp_path / "picture.png", extents(pixels), (height, width)))

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


def test_box_by_hand():
    """Pixels 10 ... 19, doubled: 20 ... 38, that is the area 20 to 39, not 20 to 40."""
    resize = InclusiveResizeCV2(40, 1000).get_transform(np.zeros((20, 30, 3), np.uint8))
    np.testing.assert_allclose(resize.apply_box(np.array([[10, 0, 20, 5]])), [[20, 0, 39, 9]])
    np.testing.assert_allclose(resize.inverse().apply_box(np.array([[20, 0, 39, 9]])), [[10, 0, 20, 5]])
    assert (resize.inverse().new_height, resize.inverse().new_width) == (20, 30)


def test_one_scale_for_both_axes():
    """40 x 31 pixels by 1.5 are 60 x 47; the width is rounded up, but boxes follow 1.5 exactly."""
    resize = InclusiveResizeCV2(1000, 60).get_transform(np.zeros((40, 31, 3), np.uint8))
    assert (resize.new_height, resize.new_width, resize.scale) == (60, 47, 1.5)
    np.testing.assert_allclose(resize.apply_box(np.array([[0, 0, 31, 40]])), [[0, 0, 46, 59.5]])


def test_lengths_are_drawn_as_without_the_convention():
    picture = np.zeros((100, 200, 3), np.uint8)
    sizes = []
    for kind in (ResizeCV2, InclusiveResizeCV2):
        np.random.seed(3)
        drawn = [kind([20, 60], 1000, "range").get_transform(picture) for _ in range(20)]
        sizes.append([(step.new_height, step.new_width) for step in drawn])
    assert sizes[0] == sizes[1] and len(set(sizes[0])) > 5
    assert all(isinstance(step, InclusiveResizeTransform) for step in drawn)


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_clipped_boxes_keep_a_pixel(tmp_path, flip):
    """Last pixels stop at side - 1; first ones, too: what reaches into the image at all keeps one pixel."""
    write(tmp_path / "picture.png", np.zeros((20, 40, 3), np.uint8))
    boxes = torch.tensor([[-5, -5, 60, 60], [39.5, 19.75, 50, 50], [-8, 3, 0.25, 9], [40, 0, 45, 5.0]])
    found = train_mapper(RandomFlip(prob=flip))(record(tmp_path / "picture.png", boxes, (20, 40)))
    # The last box lies outside.
    expected = torch.tensor([[0, 0, 40, 20], [39, 19, 40, 20], [0, 3, 1, 9.0]])
    if flip:
        expected[:, [0, 2]] = 40 - expected[:, [2, 0]]
    torch.testing.assert_close(found["instances"].gt_boxes.tensor, expected)


def test_no_object(tmp_path):
    write(tmp_path / "picture.png", np.zeros((20, 40, 3), np.uint8))
    mapper = train_mapper(InclusiveResizeCV2(10, 100))
    found = mapper(record(tmp_path / "picture.png", torch.zeros(0, 4), (20, 40)))["instances"]
    assert len(found) == 0 and found.gt_boxes.tensor.shape == (0, 4)


def test_a_crop_drops_what_it_leaves_out(tmp_path):
    """An object outside of the crop is no object of one pixel at its border."""
    write(tmp_path / "picture.png", np.zeros((20, 40, 3), np.uint8))
    boxes = torch.tensor([[0, 0, 5, 5], [12, 2, 18, 8.0]])
    mapper = train_mapper(CropTransform(10, 0, 10, 10))
    found = mapper(record(tmp_path / "picture.png", boxes, (20, 40)))
    torch.testing.assert_close(found["instances"].gt_boxes.tensor, torch.tensor([[2, 2, 8, 8.0]]))


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_masks_move_as_without_the_convention(toy, monkeypatch, mask_format):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(toy.parent))
    files = ("toy_inclusive_masks", "toy/annotations/instances_train.json", "toy/train")
    first = coco_dataset(*files, masks=True, filter_empty=True)[0]
    flip = RandomFlip(prob=1.0)
    plain = DetectionMapper(
        is_train=True, augmentations=[ResizeCV2(300, 1000), flip], mask_format=mask_format
    )(first)
    found = train_mapper(InclusiveResizeCV2(300, 1000), flip, mask_format=mask_format)(first)
    assert torch.equal(plain["image"], found["image"])
    masks, others = (item["instances"].gt_masks.get_bounding_boxes().tensor for item in (plain, found))
    assert torch.equal(masks, others)
    ours, theirs = (item["instances"].gt_boxes.tensor for item in (found, plain))
    scale = 300 / min(first["height"], first["width"])
    # Mirrored, the near x is the far one: the box ends scale - 1 pixels sooner there.
    torch.testing.assert_close(ours - theirs, torch.tensor([scale - 1, 0, 0, 1 - scale]).expand_as(ours))


@pytest.mark.parametrize("name", ["coco_inclusive", "coco_inclusive_masks", "toy_inclusive"])
def test_configs_hold_one_difference(name):
    """Augmentation and convention of the training mapper differ from the data that it is built on."""
    folder = ROOT / "configs/common/data"
    ours = LazyConfig.load(str(folder / f"{name}.py")).dataloader
    plain = LazyConfig.load(str(folder / f"{name.replace('_inclusive', '')}.py")).dataloader
    mapper = instantiate(ours.train.mapper)
    assert isinstance(mapper.convention, InclusiveBoxes)
    resizes = [step for step in mapper.augmentations.augs if isinstance(step, ResizeCV2)]
    assert all(isinstance(step, InclusiveResizeCV2) for step in resizes)
    assert len(resizes) == name.startswith("coco")
    for step in ours.train.mapper.augmentations:
        if "InclusiveResizeCV2" in str(step._target_):
            step._target_ = ResizeCV2
    del ours.train.mapper.convention
    assert str(ours) == str(plain)
