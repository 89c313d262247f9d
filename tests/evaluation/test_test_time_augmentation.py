"""Test-time augmentation: the published averaging, and what must not depend on the views."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from detectron2.evaluation import inference_context
from detectron2.structures import Boxes, Instances

from htd.data import ResizeCV2
from htd.errors import UserError
from htd.evaluation import AveragedViews, View
from htd.evaluation.test_time_augmentation import (
    SeenView,
    add_averaged_masks,
    averaged,
    merged_proposals,
    predicted_in_views,
)
from htd.evaluation.views import ViewFrame
from htd.layers import ContinuousBoxes, HardNMS, InclusiveBoxes
from htd.modeling.cascade.postprocessing import RoIPredictions
from tests import recorded
from tests.configs.reduced import build, example
from tests.evaluation.detectors import different_but_for_the_backbone
from tests.modeling.tsd import small

FASTER = "configs/baselines/faster_rcnn_r50_fpn_1x.py"
HTD, MASKS = "configs/htd/htd_r50_fpn_1x.py", "configs/htc/htc_r50_fpn_1x.py"
SIZE = (64, 96)
# (scale, mirrored) of the views of the reference arrays, whose image has 352 x 448 pixels.
REFERENCE_VIEWS = [(1.0, False), (1.0, True), (1.5, False), (1.5, True)]
REFERENCE_SIZE = (352, 448)


def reference_frame(scale, mirrored):
    view_size = tuple(int(side * scale + 0.5) for side in REFERENCE_SIZE)
    return ViewFrame(REFERENCE_SIZE, view_size, mirrored, InclusiveBoxes())


def test_merged_proposals_are_the_published_ones():
    case = recorded.tensors("tsd", "det_small")
    frames = [reference_frame(*view) for view in REFERENCE_VIEWS]
    proposals = [
        Instances(
            frame.view_size,
            proposal_boxes=Boxes(recorded.extents(case[f"aug{v}_proposals"][:, :4])),
            objectness_logits=case[f"aug{v}_proposals"][:, 4],
        )
        for v, frame in enumerate(frames)
    ]
    boxes, scores = merged_proposals(proposals, frames, HardNMS(iou_threshold=0.7), 30)
    recorded.close(recorded.inclusive(boxes), case["aug_merged_proposals"][:, :4], atol=0.02)
    recorded.close(scores, case["aug_merged_proposals"][:, 4], atol=5e-4)


@torch.no_grad()
def test_detections_of_four_views_are_the_published_ones():
    """Those of TSD's head, in the published conventions: the same classes in the same order."""
    case, heads = recorded.tensors("tsd", "det_small"), small.roi_heads("det_small")
    seen = []
    for v, view in enumerate(REFERENCE_VIEWS):
        frame = reference_frame(*view)
        maps = small.maps("det_small", f"det.small.aug{v}", 1, frame.view_size)
        context, _ = heads.make_context([frame.view_size], maps)
        seen.append(SeenView(replace(frame, convention=context.box_convention), context, proposals=None))
    predictions = predicted_in_views(heads, seen, recorded.extents(case["proposals"][:, :4]))
    found = heads.postprocessing(averaged(predictions, [one.frame for one in seen]))
    assert torch.equal(found.pred_classes, case["label_aug"])
    recorded.close(recorded.inclusive(found.pred_boxes.tensor), case["det_aug"][:, :4], atol=0.02)
    recorded.close(found.scores, case["det_aug"][:, 4], atol=5e-4)


def test_averages_are_row_by_row_in_the_image():
    frames = [
        ViewFrame((10, 20), (10, 20), False, ContinuousBoxes()),
        ViewFrame((10, 20), (20, 40), True, ContinuousBoxes()),
    ]
    # Two boxes a row; the second view's are (4, 4, 8, 8) and (2, 2, 6, 6) in the image.
    boxes = torch.tensor([[2.0, 2, 6, 6, 0, 0, 4, 4]]), torch.tensor([[24.0, 8, 32, 16, 28, 4, 36, 12]])
    scores = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.2, 0.5, 0.3]])
    both = [RoIPredictions(*x, f.view_size) for *x, f in zip(boxes, scores, frames, strict=True)]
    mean = averaged(both, frames)
    recorded.close(mean.boxes, torch.tensor([[3.0, 3, 7, 7, 1, 1, 5, 5]]), atol=1e-6)
    recorded.close(mean.scores, torch.tensor([[0.5, 0.3, 0.2]]), atol=1e-6)
    assert mean.image_size == (10, 20)


def augmented(model, *views, iou_threshold=0.7):
    return AveragedViews(
        model=model, views=views, proposal_nms=HardNMS(iou_threshold=iou_threshold), max_proposals=1000
    )


def original(seed=5, size=SIZE):
    """Return an input as it comes without a resize."""
    return {"image": example(0, seed=seed, size=size)["image"], "height": size[0], "width": size[1]}


def resized(short):
    return ResizeCV2(short_edge_length=short, max_size=10 * short)


def detector(leaf):
    """Return the reduced model of a leaf, which gives detections without training."""
    model = build(leaf).eval()
    model.roi_heads.postprocessing.score_threshold = 0.0
    return model


def same(found, wanted, mask_pixels=1e-3):
    assert found.image_size == wanted.image_size and len(found) == len(wanted) > 0
    assert torch.equal(found.pred_classes, wanted.pred_classes)
    recorded.close(found.scores, wanted.scores, atol=1e-5)
    recorded.close(found.pred_boxes.tensor, wanted.pred_boxes.tensor, atol=2e-3)
    assert found.has("pred_masks") == wanted.has("pred_masks")
    if found.has("pred_masks"):
        assert (found.pred_masks != wanted.pred_masks).float().mean() < mask_pixels


@torch.no_grad()
@pytest.mark.parametrize("leaf", [FASTER, HTD, MASKS])
def test_one_view_is_the_model_itself(leaf):
    """With the suppression across levels, which the model alone does not have, taken out of action."""
    model = detector(leaf)
    item, view = original(), View(augmentations=[resized(80)])
    (wanted,) = model([item | {"image": view(item["image"])}])
    (found,) = augmented(model, view, iou_threshold=1.0)([item])
    same(found["instances"], wanted["instances"])


@pytest.mark.parametrize("leaf", different_but_for_the_backbone("roi_heads"))
def test_a_mirrored_image_gives_mirrored_detections(leaf):
    model = detector(leaf)
    item = original()
    views = [View(augmentations=[], mirrored=mirrored) for mirrored in (False, True)]
    images = item["image"], item["image"].flip(2)
    found = augmented(model, *views)([item | {"image": image} for image in images])
    plain, mirrored = (each["instances"] for each in found)
    x1, y1, x2, y2 = mirrored.pred_boxes.tensor.unbind(1)
    mirrored.pred_boxes = Boxes(torch.stack([SIZE[1] - x2, y1, SIZE[1] - x1, y2], dim=1))
    if mirrored.has("pred_masks"):
        assert 0 < mirrored.pred_masks.float().mean() < 1
        mirrored.pred_masks = mirrored.pred_masks.flip(2)
    # The published rule of pasting rounds boxes to whole pixels, which is not symmetric.
    rounds = isinstance(model.box_convention, InclusiveBoxes)
    same(mirrored, plain, mask_pixels=0.015 if rounds else 1e-3)


def test_a_roi_below_the_threshold_in_one_view_counts_there_too():
    """Of the averages, not of a view's scores, those above the threshold are selected."""
    model, item = detector(HTD), original()
    several = augmented(model, *(View(augmentations=[resized(short)]) for short in (64, 112)))
    every = several([item])[0]["instances"]
    model.roi_heads.postprocessing.score_threshold = float(every.scores[20])
    best = several([item])[0]["instances"]
    same(best, every[every.scores > every.scores[20]])
    assert len(best) == 20


def test_a_batch_is_its_images_one_by_one():
    model = detector(HTD)
    several = augmented(model, View(augmentations=[]), View(augmentations=[resized(96)], mirrored=True))
    items = [original(), original(seed=6, size=(80, 48))]
    together = several(items)
    assert [x["instances"].image_size for x in together] == [SIZE, (80, 48)]
    for item, found in zip(items, together, strict=True):
        same(found["instances"], several([item])[0]["instances"])


@torch.no_grad()
def test_masks_are_averaged_over_views():
    """With two views, one the other mirrored, a mask is the mean of those that the views give its box."""
    model = detector(MASKS)
    item = original()
    (found,) = augmented(model, View(augmentations=[]), View(augmentations=[], mirrored=True))([item])
    found = found["instances"]
    sides = []
    for mirrored in (False, True):
        frame = ViewFrame(SIZE, SIZE, mirrored, ContinuousBoxes())
        given = Instances(SIZE, pred_boxes=Boxes(frame.enter(found.pred_boxes.tensor)))
        given.pred_classes = found.pred_classes
        image = item["image"].flip(2) if mirrored else item["image"]
        (result,) = model.inference([{"image": image}], [given], do_postprocess=False)
        sides.append(frame.upright(result.pred_masks))
    mean = Instances(SIZE, pred_boxes=found.pred_boxes, pred_masks=(sides[0] + sides[1]) / 2)
    assert (sides[0] - sides[1]).abs().max() > 1e-3
    assert torch.equal(model.roi_heads.mask_branch.paste(mean).pred_masks, found.pred_masks)


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_leaves_the_model_in_its_mode(training):
    model = detector(FASTER).train(training)
    with inference_context(augmented(model, View(augmentations=[]))):
        assert not any(part.training for part in model.modules())
    assert all(part.training == training for part in model.modules())


@torch.no_grad()
def test_tables_of_rows_are_not_kept_for_all_views():
    model = detector(MASKS)
    seen = [augmented(model, View(augmentations=[]))._look(View(augmentations=[]), original()["image"], SIZE)]
    predictions = predicted_in_views(model.roi_heads, seen, seen[0].proposals.proposal_boxes.tensor)
    detections = model.roi_heads.postprocessing(averaged(predictions, [seen[0].frame]))
    add_averaged_masks(model.roi_heads.mask_branch, seen, detections)
    assert detections.has("pred_masks") and seen[0].context.table._rows is None


def test_what_cannot_be_averaged_is_an_error():
    model = SimpleNamespace(roi_heads=SimpleNamespace())
    with pytest.raises(UserError, match="a SimpleNamespace has none"):
        augmented(model, View(augmentations=[]))
    with pytest.raises(UserError, match="views is empty"):
        augmented(model)


@pytest.mark.parametrize("number", [0, -1])
def test_proposals_that_are_too_few(number):
    with pytest.raises(UserError, match=f"max_proposals is {number}; it has to be at least 1"):
        AveragedViews(model=None, views=[View(augmentations=[])], proposal_nms=None, max_proposals=number)


@pytest.mark.parametrize("named", [{"height": 128, "width": 192}, {"height": 64, "width": 97}])
def test_an_image_of_another_size_is_an_error(named):
    several = augmented(detector(HTD), View(augmentations=[]))
    with pytest.raises(UserError, match=r"image a.jpg of .* came as 64 x 96"):
        several([original() | named | {"file_name": "a.jpg"}])


def test_without_a_named_size_the_image_is_the_original():
    several = augmented(detector(HTD), View(augmentations=[]))
    assert several([{"image": original()["image"]}])[0]["instances"].image_size == SIZE
