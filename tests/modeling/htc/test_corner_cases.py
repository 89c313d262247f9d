"""HTC and Mask R-CNN where there is almost nothing: no objects, no labels, no proposals, no detections."""

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes, Instances

from tests.configs.reduced import build, example
from tests.modeling.htc.small import (
    CASCADE_MASK_RCNN,
    HTC,
    MASK_RCNN,
    WITHOUT_SEMANTIC,
    assert_trains,
    assert_trains_alike_in_half_precision,
    changed,
    detections_among,
    heads_inputs,
    seeded_losses,
)

LEAVES = [HTC, WITHOUT_SEMANTIC, CASCADE_MASK_RCNN, MASK_RCNN]
HTD_MASK = "configs/htd/htd_mask_r50_fpn_1x.py"


@pytest.fixture(scope="module", params=LEAVES)
def model(request):
    return build(request.param)


@pytest.fixture(scope="module")
def htc():
    return build(HTC)


@pytest.mark.parametrize("num_gt", [0, 1])
@pytest.mark.parametrize("counts", [(0,), (0, 3), (3, 0, 1)])
def test_training_from_few_proposals(model, counts, num_gt):
    losses = assert_trains(model.roi_heads, heads_inputs(counts, num_gt))
    masks = [loss for name, loss in losses.items() if name.startswith("loss_mask")]
    assert masks and all((loss == 0) == (num_gt == 0) for loss in masks)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_from_nothing_with_checkpointing(checkpointed):
    def change(config):
        config.roi_heads.mask_branch.checkpoint_heads = checkpointed

    assert_trains(changed(HTC, change).roi_heads, heads_inputs((0, 0), 0))


@pytest.mark.parametrize("objects", [(0,), (0, 0), (2, 0)])
def test_images_without_objects(model, objects):
    losses = assert_trains(model, [[example(n, seed=i) for i, n in enumerate(objects)]])
    masks = [loss for name, loss in losses.items() if name.startswith("loss_mask")]
    assert masks and all((loss > 0) == any(objects) for loss in masks)


@pytest.mark.parametrize("counts", [(0,), (0, 3), (3, 0, 1)])
def test_detection_from_few_proposals(model, counts):
    model.roi_heads.postprocessing.score_threshold = 0.0
    for detections in detections_among(model.roi_heads, counts):
        assert detections.pred_masks.shape == (len(detections), 1, 28, 28)
        assert detections.pred_masks.dtype == torch.float32


def test_no_detections(model):
    threshold, model.roi_heads.postprocessing.score_threshold = (
        model.roi_heads.postprocessing.score_threshold,
        1.0,
    )
    images, maps, proposals, _, _ = heads_inputs((4, 2))
    try:
        with torch.no_grad():
            soft, _ = model.roi_heads.eval()(images, maps, proposals)
            found = model.eval()([example(1), example(0, seed=1)])
    finally:
        model.roi_heads.postprocessing.score_threshold = threshold
    for detections in soft:
        assert detections.pred_masks.shape == (0, 1, 28, 28)
    for item in found:
        masks = item["instances"].pred_masks
        assert masks.shape == (0, 96, 72) and masks.dtype == torch.bool
        item["instances"].to("cpu")


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (20, 200)])
def test_tiny_and_narrow_images(htc, size):
    assert_trains(htc, [[example(0, size=size), example(1, size=(64, 64))]])
    with torch.no_grad():
        found = htc.eval()([example(0, size=size) | {"height": 7, "width": 9}])[0]["instances"]
    assert torch.isfinite(found.scores).all()
    assert found.pred_masks.shape == (len(found), 7, 9)


def test_one_class():
    model = build(HTC, num_classes=1)
    assert_trains(model, [[example(2, num_classes=1), example(0)]])


def test_output_frames_of_any_size(htc):
    inputs = [example(2, seed=5), example(2, seed=5) | {"height": 33.5, "width": 150.25}]
    with torch.no_grad():
        first, second = (x["instances"] for x in htc.eval()(inputs))
    assert first.image_size == (96, 72)
    assert second.image_size == (33.5, 150.25)
    assert second.pred_masks.shape == (len(second), 34, 150)
    assert second.pred_masks.any()


@pytest.mark.parametrize("leaf", LEAVES)
def test_training_data_without_masks_are_refused(leaf):
    inputs = example(2)
    inputs["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="gt_masks"):
        build(leaf)([inputs])


def test_images_without_objects_need_no_masks():
    """Detectron2's own mapper gives them no field for masks."""
    model, inputs = build(WITHOUT_SEMANTIC), [example(0), example(2)]
    losses, _ = seeded_losses(model, [inputs])
    inputs[0]["instances"].remove("gt_masks")
    assert seeded_losses(model, [inputs])[0] == losses


@pytest.mark.parametrize("leaf", [HTC, MASK_RCNN])
def test_half_precision_gives_nearly_the_same(leaf):
    model, inputs = build(leaf), [example(3), example(1, seed=1)]
    # bfloat16 rounds by up to 0.4 %.
    assert_trains_alike_in_half_precision(model, inputs, atol=1e-4, rtol=0.01)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        masks = model.eval()(inputs)[0]["instances"].pred_masks
    assert len(masks) and masks.any()


def test_htd_with_masks_on_its_last_stage():
    model, plain = build(HTD_MASK), build("configs/htd/htd_r50_fpn_1x.py")
    unused = plain.load_state_dict(model.state_dict(), strict=False)
    assert not unused.missing_keys
    assert all(".mask_branch." in key for key in unused.unexpected_keys)
    inputs = [example(3), example(0, seed=1), example(1, seed=2)]
    losses = assert_trains(model, [inputs])
    plain_losses, _ = seeded_losses(plain, [inputs])
    assert set(losses) - set(plain_losses) == {"loss_mask_stage1"}
    assert losses["loss_mask_stage1"] > 0
    assert all(torch.equal(losses[name], loss) for name, loss in plain_losses.items())
    for heads in (model.roi_heads, plain.roi_heads):
        heads.postprocessing.score_threshold = 0.0
    with torch.no_grad():
        found, boxes_only = (m.eval()(inputs)[0]["instances"] for m in (model, plain))
    assert len(found) and found.pred_masks.shape == (len(found), 96, 72)
    assert torch.equal(found.pred_boxes.tensor, boxes_only.pred_boxes.tensor)
    assert torch.equal(found.scores, boxes_only.scores)
    assert not boxes_only.has("pred_masks")


def test_given_detections_get_masks(htc):
    """Masks of known boxes, in both axes' own scale, equal those that the model finds for them."""
    inputs = [example(2, seed=5), example(1, seed=6)]
    with torch.no_grad():
        raw = htc.eval().inference(inputs, do_postprocess=False)
        soft = [x.pred_masks.clone() for x in raw]
        given = [Instances(x.image_size, pred_boxes=x.pred_boxes, pred_classes=x.pred_classes) for x in raw]
        found = htc.inference(inputs, detected_instances=given)
        again = htc.inference(inputs, detected_instances=given, do_postprocess=False)
        features = htc.backbone(htc.preprocess_image(inputs).tensor)
        direct = htc.roi_heads.forward_with_given_boxes(features, given)
    for k, item in enumerate(found):
        masks = item["instances"]
        torch.testing.assert_close(again[k].pred_masks, soft[k])
        torch.testing.assert_close(direct[k].pred_masks, soft[k])
        assert masks.image_size == (96, 72)
        scale = torch.tensor([0.75, 1.5, 0.75, 1.5])
        torch.testing.assert_close(masks.pred_boxes.tensor, raw[k].pred_boxes.tensor * scale)
        wanted = paste_masks_in_image(soft[k][:, 0], masks.pred_boxes, (96, 72), threshold=0.5)
        assert wanted.any() and (masks.pred_masks != wanted).float().mean() < 1e-4


def test_given_boxes_without_a_mask_branch_stay_as_they_are():
    heads = build("configs/htc/htc_box_r50_fpn_1x.py").roi_heads.eval()
    _, maps, _, _, _ = heads_inputs((1,))
    boxes = Boxes(torch.tensor([[1.0, 2, 30, 40]]))
    given = [Instances((64, 96), pred_boxes=boxes, pred_classes=torch.tensor([1]))]
    found = heads.forward_with_given_boxes(maps, given)
    assert found is given and not found[0].has("pred_masks")
