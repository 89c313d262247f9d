"""Our RoI heads and models where Detectron2's own code calls them."""

import copy

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.structures import PolygonMasks

from tests.configs.reduced import build, example, reduced_model
from tests.modeling.htc.small import HTC, MASK_RCNN, WITHOUT_SEMANTIC, seeded_losses, without_gradient


def stock(leaf):
    """The same reduced model in Detectron2's own meta-architecture."""
    config = reduced_model(leaf)
    config._target_ = GeneralizedRCNN
    config.pop("sem_seg_ignore_value", None)
    torch.manual_seed(0)
    return instantiate(config)


def own_frame(num_objects, seed=0):
    """An input whose output frame is the image itself, where both post-processings do the same."""
    return example(num_objects, seed=seed) | {"height": 64, "width": 96}


@pytest.mark.parametrize("leaf", [WITHOUT_SEMANTIC, MASK_RCNN])
def test_stock_meta_architecture_trains_and_pastes_our_masks(leaf):
    theirs, ours = stock(leaf), build(leaf)
    ours.load_state_dict(theirs.state_dict())
    inputs = [own_frame(2), own_frame(1, seed=1)]
    losses, _ = seeded_losses(theirs, [inputs])
    assert losses == seeded_losses(ours, [inputs])[0]
    assert not without_gradient(theirs)
    with torch.no_grad():
        wanted = [x["instances"] for x in theirs.eval()(inputs)]
        found = [x["instances"] for x in ours.eval()(inputs)]
    for one, other in zip(found, wanted, strict=True):
        assert len(one) and one.pred_masks.any()
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert one.pred_masks.dtype == other.pred_masks.dtype == torch.bool
        assert torch.equal(one.pred_masks, other.pred_masks)


def test_stock_meta_architecture_hands_no_semantic_maps_on():
    """Detectron2 gives the RoI heads no semantic maps, which training must not pass over in silence."""
    model = stock_with_semantics()
    with pytest.raises(ValueError, match="sem_seg"):
        model([own_frame(1)])
    with torch.no_grad():
        assert model.eval()([own_frame(1)])[0]["instances"].pred_masks.shape[1:] == (64, 96)


def stock_with_semantics():
    config = reduced_model(HTC)
    config._target_ = GeneralizedRCNN
    config.roi_heads.context.semantic.ignore_value = 255
    del config["sem_seg_ignore_value"]
    return instantiate(config)


def time_augmented(model, inputs, flip):
    """What Detectron2's augmentation finds; it reads these values from a yacs config."""
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = (64,), 200, flip
    with torch.no_grad():
        return GeneralizedRCNNWithTTA(cfg, model.eval())([inputs])[0]["instances"]


def test_augmentation_by_detectron2_with_one_view_changes_nothing():
    model, inputs = build(HTC), own_frame(2)
    found = time_augmented(model, inputs, flip=False)
    with torch.no_grad():
        wanted = model([inputs])[0]["instances"][:20]
    assert len(found) == 20
    assert torch.equal(found.scores, wanted.scores)
    torch.testing.assert_close(found.pred_boxes.tensor, wanted.pred_boxes.tensor)
    assert torch.equal(found.pred_masks, wanted.pred_masks) and found.pred_masks.any()


def test_augmentation_by_detectron2_averages_masks_of_the_mirrored_image():
    model, inputs = build(HTC), own_frame(2)
    found = time_augmented(model, inputs, flip=True)
    assert found.pred_masks.shape == (len(found), 64, 96) and found.pred_masks.any()
    mirrored = time_augmented(model, inputs | {"image": inputs["image"].flip(2)}, flip=True)
    assert len(found) == len(mirrored) == 20
    torch.testing.assert_close(found.scores, mirrored.scores)
    assert (found.pred_masks != mirrored.pred_masks.flip(2)).float().mean() < 1e-3


def test_polygons_train_like_bitmaps():
    """Ground truth as Detectron2's mapper gives it by default; rasterized differently, so losses are near."""
    model = build(WITHOUT_SEMANTIC)
    bitmaps = [example(2), example(1, seed=1)]
    polygons = copy.deepcopy(bitmaps)
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    for item in polygons:
        boxes = item["instances"].gt_boxes.tensor.numpy()
        center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        rings = (center[:, None] + half[:, None] * circle).reshape(len(boxes), -1)
        item["instances"].gt_masks = PolygonMasks([[ring] for ring in rings])
    losses, _ = seeded_losses(model, [bitmaps])
    found, _ = seeded_losses(model, [polygons])
    for k in range(3):
        name = f"loss_mask_stage{k}"
        torch.testing.assert_close(found[name], losses[name], atol=0, rtol=0.05)
        assert losses[name] > 0
    assert found["loss_box_reg_stage0"] == losses["loss_box_reg_stage0"]
