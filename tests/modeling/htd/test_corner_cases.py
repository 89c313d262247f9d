"""HTD where there is almost nothing: no proposals, one RoI, one class, tiny images."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.modeling.cascade import RoILabeler
from tests.configs.reduced import build, example
from tests.modeling.htc.small import assert_trains, detections_among, given_proposals

LEAF = "configs/htd/htd_r50_fpn_1x.py"
SIZE = (64, 96)


@pytest.fixture(scope="module")
def model():
    return build(LEAF)


@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3), (1,), (3, 0, 1)])
def test_detection_from_few_proposals(model, counts):
    model.roi_heads.postprocessing.score_threshold = 0.0
    detections_among(model.roi_heads, counts)


@pytest.mark.parametrize("num_gt", [0, 1])
@pytest.mark.parametrize("counts", [(0,), (0, 0), (0, 3), (1,), (3, 0, 1)])
def test_training_from_few_proposals(model, counts, num_gt):
    losses = assert_trains(model.roi_heads, given_proposals(counts, num_gt))
    assert (losses["loss_box_reg_stage1"] == 0) == (num_gt == 0)


def test_one_roi_gives_what_it_gives_among_others_of_other_levels(model):
    images, maps, _, _ = given_proposals((1,))
    heads = model.roi_heads.eval()
    first, second = heads.stages
    boxes = torch.tensor([[1.0, 2, 31, 33], [0, 0, 200, 150], [0, 0, 300, 260]])

    def outputs(boxes):
        context, _ = heads.make_context(images.image_sizes, maps)
        rois, rows = context.rois([boxes]), torch.arange(len(boxes))
        common = first.head.classify(context, rois)
        decoupled = second.head.classify(context, rois, common.classifier)
        return decoupled.logits, second.head.regress(context, rois, decoupled, rows)

    with torch.no_grad():
        for alone, among in zip(outputs(boxes[:1]), outputs(boxes), strict=True):
            torch.testing.assert_close(alone, among[:1])


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (20, 200)])
def test_tiny_and_narrow_images(model, size):
    image = example(0, size=size)
    small = example(1, size=(64, 64))
    sum(model.train()([image, small]).values()).backward()
    with torch.no_grad():
        found = model.eval()([image])[0]["instances"]
    assert torch.isfinite(found.scores).all()


def test_one_class():
    model = build(LEAF, num_classes=1)
    losses = model([example(2, num_classes=1), example(0)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.roi_heads.postprocessing.score_threshold = 0.0
    with torch.no_grad():
        found = model.eval()([example(0)])[0]["instances"]
    assert set(found.pred_classes.tolist()) == {0}


def test_stages_without_resampling_share_the_flow():
    model = build(LEAF)
    stage = model.roi_heads.stages[1]
    stage.sampler = RoILabeler(matcher=stage.sampler.matcher, num_classes=stage.num_classes)
    losses = model([example(2), example(1, seed=1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_given_detections_only_change_their_frame_without_a_mask_branch(model):
    given = Instances(SIZE, pred_boxes=Boxes(torch.tensor([[2.0, 4.0, 10.0, 20.0]])))
    given.pred_classes = torch.tensor([1])
    inputs = [example(0) | {"height": 2 * SIZE[0], "width": SIZE[1] / 2}]
    found = model.eval().inference(inputs, detected_instances=[given])[0]["instances"]
    assert found.pred_boxes.tensor.tolist() == [[1.0, 8.0, 5.0, 40.0]]
    assert found.image_size == (2 * SIZE[0], SIZE[1] / 2) and not found.has("pred_masks")
