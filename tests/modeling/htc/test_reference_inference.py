"""HTC's RoI heads on given features and proposals, from the stages to pasted masks, against the reference."""

import pytest
import torch
from detectron2.config import instantiate

from tests.modeling.htc.reference import (
    BOXES,
    FEATURES,
    check_detections,
    check_last_head,
    check_masks,
    last_head_probabilities,
    maps_of,
    proposals_of,
    run_stages,
    with_weights,
)
from tests.modeling.reference import model_config
from tests.recorded import tensors

NAME, SEED = "roi_head_infer", 103


@pytest.fixture(scope="module")
def case():
    return tensors("htc", NAME)


@pytest.fixture(scope="module")
def heads(device):
    return with_weights(instantiate(model_config("htc/htc_r50_fpn_1x").roi_heads), NAME, device).eval()


@pytest.fixture(scope="module")
def context(case, heads, device):
    maps = maps_of(NAME, SEED, case["batch_size_hw"], device)
    with torch.no_grad():
        return heads.make_context([tuple(size) for size in case["image_sizes"].tolist()], maps)[0]


@pytest.fixture(scope="module")
def predictions(case, heads, context, device):
    with torch.no_grad():
        return heads.predict(context, proposals_of(case, device))


@pytest.fixture(scope="module")
def found(case, heads, context, predictions):
    """Detections in the output frames with soft masks, and the bitmaps of their masks."""
    sizes = [tuple(size) for size in case["output_sizes"].tolist()]
    with torch.no_grad():
        results = [heads.postprocessing(p.resized(*s)) for p, s in zip(predictions, sizes, strict=True)]
        heads.mask_branch.add_masks(context, results)
        soft = [x.pred_masks[:, 0] for x in results]
        return [(heads.mask_branch.paste(x), y) for x, y in zip(results, soft, strict=True)]


def test_semantic_features(case, context):
    found = context.semantic_features.maps[0].mean(dim=(2, 3))
    FEATURES.check(found, case["semantic_feat_channel_mean"])


def test_stages(case, heads, context, device):
    boxes = [p.proposal_boxes.tensor for p in proposals_of(case, device)]
    logits, deltas, rois = run_stages(heads, context, boxes)
    FEATURES.check(logits, case["stage_logits"])
    FEATURES.check(deltas, case["stage_deltas"])
    BOXES.check(rois, case["stage_rois"])


@pytest.mark.parametrize("image", [0, 1])
def test_detections_in_the_input_frame(case, heads, predictions, image):
    check_detections(case, image, heads.postprocessing(predictions[image]), boxes="det_boxes_input")


@pytest.mark.parametrize("image", [0, 1])
def test_detections_and_masks_in_the_output_frame(case, found, image):
    instances, soft = found[image]
    assert instances.image_size == tuple(case["output_sizes"][image].tolist())
    rows = check_detections(case, image, instances)
    check_masks(case, image, rows, soft, instances.pred_masks)


@pytest.mark.parametrize("image", [0, 1])
def test_masks_are_not_those_of_the_last_head(case, heads, context, found, device, image):
    rows = check_detections(case, image, found[image][0])
    boxes = [case[f"det_boxes_input_{i}"][:3] if i == image else torch.zeros(0, 4) for i in (0, 1)]
    classes = case[f"det_labels_{image}"][:3].long().to(device)
    last = last_head_probabilities(heads.mask_branch, context, [b.to(device) for b in boxes], classes)
    check_last_head(case, image, rows, found[image][1], last)
