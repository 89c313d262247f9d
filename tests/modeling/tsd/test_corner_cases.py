"""TSD where there is almost nothing, or too much: no objects, no proposals, one class, far offsets."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from tests.configs.reduced import build, example
from tests.modeling.htc.small import (
    assert_trains,
    assert_trains_alike_in_half_precision,
    changed,
    detections_among,
    heads_inputs,
    seeded_losses,
)
from tests.modeling.tsd.leaves import CASCADE, CONTINUOUS, FASTER, MASK


@pytest.fixture(scope="module", params=[FASTER, CASCADE, MASK])
def model(request):
    return build(request.param)


@pytest.mark.parametrize("num_gt", [0, 1])
@pytest.mark.parametrize("counts", [(0,), (0, 3), (3, 0, 1)])
def test_training_from_few_proposals(model, counts, num_gt):
    losses = assert_trains(model.roi_heads, heads_inputs(counts, num_gt))
    of_positives = [loss for name, loss in losses.items() if "box_reg" in name or "mask" in name]
    assert of_positives and all((loss == 0) == (num_gt == 0) for loss in of_positives)
    margins = [loss for name, loss in losses.items() if "margin" in name]
    assert len(margins) == 2 * len(model.roi_heads.stages)
    assert num_gt or all(loss == 0 for loss in margins)


def test_background_alone_is_no_concern_of_the_margins(model):
    """Images without objects are learned from, but nobody compares the heads there."""
    losses = assert_trains(model, [[example(0), example(0, seed=1)]])
    for name, loss in losses.items():
        if "margin" in name:
            assert loss == 0
        elif name.startswith("loss_cls"):
            assert loss > 0


@pytest.mark.parametrize("counts", [(0,), (0, 3), (3, 0, 1)])
def test_detection_from_few_proposals(model, counts):
    detections_among(model.roi_heads, counts)


@pytest.mark.parametrize("leaf", [CASCADE, "configs/baselines/cascade_rcnn_r50_fpn_1x.py"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_deltas_of_a_stage_end_in_losses_that_are_not_finite(leaf, value):
    """A training that has diverged is reported by its losses, not by a box that no map has."""
    heads = build(leaf).roi_heads
    first = heads.stages[0].head
    with torch.no_grad():
        (getattr(first, "regression", first)).bbox_pred.weight.fill_(value)
    inputs = heads_inputs((9, 6))
    losses, _ = seeded_losses(heads, inputs)
    assert not torch.isfinite(losses["loss_box_reg_stage0" if leaf != CASCADE else "loss_box_reg_tsd_stage0"])
    with torch.no_grad():
        found, _ = heads.eval()(*inputs[:3])
    assert all(torch.isfinite(each.pred_boxes.tensor).all() for each in found)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (20, 200)])
@pytest.mark.parametrize("leaf", [FASTER, CONTINUOUS])
def test_tiny_and_narrow_images(leaf, size):
    model = build(leaf)
    assert_trains(model, [[example(0, size=size), example(1, size=(64, 64))]])
    with torch.no_grad():
        found = model.eval()([example(0, size=size) | {"height": 7, "width": 9}])[0]["instances"]
    assert len(found) and torch.isfinite(found.pred_boxes.tensor).all()


def one_class(config):
    config.roi_heads.num_classes = 1


def class_agnostic(config):
    head = config.roi_heads.stages[0].head
    head.regression.class_agnostic = head.sibling.class_agnostic = True


@pytest.mark.parametrize("change", [one_class, class_agnostic])
@pytest.mark.parametrize("leaf", [FASTER, CONTINUOUS])
def test_one_box_a_roi(leaf, change):
    model = changed(leaf, change)
    head = model.roi_heads.stages[0].head
    assert head.regression.bbox_pred.out_features == head.sibling.bbox_pred.out_features == 4
    classes = model.roi_heads.num_classes
    inputs = [example(2, num_classes=classes), example(0, seed=1)]
    losses = assert_trains(model, [inputs])
    assert len(losses) == 8 and losses["loss_margin_loc"] > 0
    with torch.no_grad():
        found = model.eval()(inputs)[0]["instances"]
    assert len(found) and found.pred_classes.max() < classes


@pytest.mark.parametrize("background_box", [False, True])
def test_cascade_of_one_class(background_box):
    """One box for all classes, or one for the class and one for the background."""

    def change(config):
        one_class(config)
        for stage in config.roi_heads.stages:
            for part in (stage.head.regression, stage.head.sibling):
                part.update(class_agnostic=not background_box, background_box=background_box)

    model = changed(CASCADE, change)
    inputs = [example(2, num_classes=1), example(0, seed=1)]
    assert_trains(model, [inputs])
    with torch.no_grad():
        assert len(model.eval()(inputs)[0]["instances"])


@pytest.mark.parametrize("leaf", [FASTER, CONTINUOUS, CASCADE])
@pytest.mark.parametrize("far", [30.0, 1e6])
def test_offsets_that_leave_the_image(leaf, far):
    """Nothing bounds an offset: the towers then see zeros, and boxes lie where they were moved to."""
    model = build(leaf)
    for stage in model.roi_heads.stages:
        for tower in (stage.head.classification, stage.head.regression):
            tower.shift[2].bias.data.fill_(far)
    inputs = [example(2), example(1, seed=1)]
    assert_trains(model, [inputs])
    with torch.no_grad():
        found = model.eval()(inputs)
    for item in found:
        assert torch.isfinite(item["instances"].pred_boxes.tensor).all()


@pytest.mark.parametrize("leaf", [FASTER, CASCADE, MASK])
def test_half_precision_gives_nearly_the_same(leaf):
    model, inputs = build(leaf), [example(3), example(1, seed=1)]
    # bfloat16 rounds by up to 0.4 %; which RoIs are sampled may change.
    assert_trains_alike_in_half_precision(model, inputs, atol=0.02, rtol=0.05)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model.eval()(inputs)[0]["instances"]
    assert len(found) and torch.isfinite(found.pred_boxes.tensor).all()


def test_given_detections_get_masks():
    """Masks of known boxes equal those that the model finds for them, in the input and pasted."""
    model, inputs = build(MASK).eval(), [example(2, seed=5), example(1, seed=6)]
    with torch.no_grad():
        raw = model.inference(inputs, do_postprocess=False)
        soft = [x.pred_masks.clone() for x in raw]
        given = [Instances(x.image_size, pred_boxes=x.pred_boxes, pred_classes=x.pred_classes) for x in raw]
        found = model.inference(inputs, detected_instances=given)
        features = model.backbone(model.preprocess_image(inputs).tensor)
        direct = model.roi_heads.forward_with_given_boxes(features, given)
    for k, item in enumerate(found):
        assert len(soft[k])
        torch.testing.assert_close(direct[k].pred_masks, soft[k])
        masks = item["instances"]
        # Legacy: the numbers of first and last pixels are scaled, not the areas.
        scale = torch.tensor([0.75, 1.5, 0.75, 1.5])
        one = torch.tensor([0, 0, 1, 1])
        wanted = Boxes((raw[k].pred_boxes.tensor - one) * scale + one)
        torch.testing.assert_close(masks.pred_boxes.tensor, wanted.tensor)
        pasted = model.roi_heads.mask_branch.paste_masks(soft[k][:, 0], wanted, (96, 72), threshold=0.5)
        assert pasted.any() and (masks.pred_masks != pasted.bool()).float().mean() < 1e-4
