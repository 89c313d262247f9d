"""What must hold for TSD with any weights: batches, orders, offsets of zero, mirrored inputs."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from htd.layers import roi_align
from tests.configs.reduced import build, example
from tests.layers import offset_pooling
from tests.modeling.htc.small import heads_inputs, randomise
from tests.modeling.htc.test_properties import assert_mirroring_commutes_with_the_loss, mirror_weights
from tests.modeling.tsd.leaves import CASCADE, CONTINUOUS, FASTER, MASK, ON_HTC, ON_HTD, first_head


@pytest.mark.parametrize("leaf", [FASTER, MASK, CASCADE])
def test_a_batch_equals_its_images_one_by_one(leaf):
    model = randomise(build(leaf)).eval()
    for stage in model.roi_heads.stages:
        # Scores that are far apart: rounding does not change their order.
        stage.head.classification.cls_score.weight.data *= 10
    inputs = [example(2, seed=5), example(0, seed=6, size=(48, 80)), example(1, seed=7)]
    with torch.no_grad():
        together = [x["instances"] for x in model(inputs)]
        alone = [model([item])[0]["instances"] for item in inputs]
    for one, other in zip(together, alone, strict=True):
        assert len(one)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-5)
        assert torch.equal(one.pred_classes, other.pred_classes)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3, rtol=0)
        if leaf == MASK:
            assert one.pred_masks.any() and (one.pred_masks != other.pred_masks).float().mean() < 1e-4


@torch.no_grad()
def answers(head, context, rois):
    """Return all that the head says of the RoIs: (R, ...) each."""
    classified = head.classify(context, rois)
    every = torch.arange(len(rois))
    deltas = head.regress(context, rois, classified, every)
    sibling = classified.sibling
    return (
        classified.logits,
        classified.boxes,
        deltas,
        sibling.logits,
        head.sibling.bbox_pred(sibling.features[every]),
    )


@pytest.mark.parametrize("leaf", [FASTER, CONTINUOUS, ON_HTC, ON_HTD])
def test_permuted_rois_permute_what_the_head_says(leaf):
    head, context, rois = first_head(leaf)
    assert set(rois.levels.tolist()) >= {0, 1, 2, 3}
    order = torch.randperm(len(rois), generator=torch.Generator().manual_seed(0))
    for found, wanted in zip(answers(head, context, rois[order]), answers(head, context, rois), strict=True):
        torch.testing.assert_close(found, wanted[order], atol=1e-5, rtol=1e-5)
        assert (wanted[order] - wanted).abs().max() > 1e-3


def aligned(context, rois, table):
    return roi_align(
        table, rois.boxes, rois.image_index, rois.levels, output_size=7, sampling_ratio=4, aligned=True
    )


def plain_features(leaf, context, rois):
    """What is pooled where nothing is displaced, by other code than that of the displaced."""
    if leaf == FASTER:
        regions = rois.boxes, rois.image_index, rois.levels
        zeros = torch.zeros(len(rois), 2, 7, 7)
        return offset_pooling.written_out(context.table.maps, regions, zeros, output_size=7, samples=4)
    found = aligned(context, rois, context.table)
    if leaf == ON_HTD:
        found = found + context.image_vector[rois.image_index][:, :, None, None]
    if leaf == ON_HTC:
        first = type(rois)(rois.boxes, rois.image_index, torch.zeros_like(rois.levels))
        found = found + aligned(context, first, context.semantic_features)
    return found


@pytest.mark.parametrize("leaf", [FASTER, CONTINUOUS, ON_HTC, ON_HTD])
def test_towers_without_offsets_see_the_plain_pooling_of_their_convention(leaf, monkeypatch):
    head, context, rois = first_head(leaf, counts=(4, 3))
    monkeypatch.setattr(offset_pooling, "STRIDES", context.table.strides)
    before = answers(head, context, rois)
    for tower in (head.classification, head.regression):
        for parameter in tower.shift[2].parameters():
            parameter.data.zero_()
    logits, boxes, deltas, *sibling = answers(head, context, rois)
    assert torch.equal(boxes, rois.boxes)
    with torch.no_grad():
        x = plain_features(leaf, context, rois)
        wanted = head.classification.cls_score(head.classification.fcs(x))
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
        wanted = head.regression.bbox_pred(head.regression.fcs(x))
        torch.testing.assert_close(deltas, wanted, atol=1e-5, rtol=1e-5)
    # With the offsets that it began with the head says something else; the sibling never does.
    for found, other in zip((logits, boxes, deltas), before[:3], strict=True):
        assert (found - other).abs().max() > 1e-3
    assert all(torch.equal(*pair) for pair in zip(sibling, before[3:], strict=True))


def test_the_factor_scales_the_offsets():
    head, context, rois = first_head(FASTER)
    wanted = answers(head, context, rois)
    head.shift_factor *= 2
    assert (answers(head, context, rois)[0] - wanted[0]).abs().max() > 1e-3
    for tower in (head.classification, head.regression):
        for parameter in tower.shift[2].parameters():
            parameter.data /= 2
    for found, one in zip(answers(head, context, rois), wanted, strict=True):
        torch.testing.assert_close(found, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("leaf", [FASTER, CASCADE, ON_HTC])
@torch.no_grad()
def test_without_deltas_each_stage_moves_boxes_by_its_offset(leaf):
    heads = build(leaf).roi_heads.eval()
    for stage in heads.stages:
        shift, predictor = stage.head.regression.shift[2], stage.head.regression.bbox_pred
        for parameter in (shift.weight, predictor.weight, predictor.bias):
            parameter.zero_()
        shift.bias.copy_(torch.tensor([0.5, -1.0]))
    images, maps, *_ = heads_inputs((2,))
    boxes = torch.tensor([[40.0, 30, 60, 50], [20, 20, 40, 60]])
    context, _ = heads.make_context(images.image_sizes, maps)
    (found,) = heads.predict(context, [Instances((64, 96), proposal_boxes=Boxes(boxes))], every_roi=True)
    # A twentieth of the width to the right, a tenth of the height upwards.
    move = len(heads.stages) * torch.tensor([[1.0, -2, 1, -2], [1, -4, 1, -4]])
    each = found.boxes.unflatten(1, (-1, 4))
    torch.testing.assert_close(each, (boxes + move)[:, None].expand_as(each), atol=1e-4, rtol=0)


@torch.no_grad()
def mirror_tsd(heads):
    """Turn RoI heads with TSD into those that do the same in a mirror."""
    mirror_weights(heads)
    for stage in heads.stages:
        head = stage.head
        trunk = head.trunk.weight
        trunk.copy_(trunk.view(len(trunk), -1, 7, 7).flip(-1).flatten(1))
        for parameter in head.regression.shift[2].parameters():
            parameter[0] *= -1
        for parameter in head.classification.shift[2].parameters():
            turned = parameter.view(2, 7, 7, -1).flip(2)
            turned[0] *= -1
            parameter.copy_(turned.reshape(parameter.shape))


@pytest.mark.parametrize("leaf", [CONTINUOUS, ON_HTC])
def test_mirroring_commutes_with_the_loss(leaf):
    """With continuous boxes; the published rounding and sampling prefer a side."""
    assert_mirroring_commutes_with_the_loss(leaf, mirror_tsd)
