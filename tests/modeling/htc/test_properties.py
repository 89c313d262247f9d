"""What must hold for any weights: no semantics, mirrored inputs, batches."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances

from tests.configs.reduced import build, example, reduced_model
from tests.modeling.htc.small import (
    CASCADE_MASK_RCNN,
    HTC,
    MASK_RCNN,
    WITHOUT_SEMANTIC,
    heads_inputs_near_objects,
    randomise,
    seeded_losses,
)


def test_without_embedding_the_semantic_branch_changes_nothing_else():
    """Zero weights give zero semantic features; what is left is HTC without semantics."""
    full, plain = randomise(build(HTC)), build(WITHOUT_SEMANTIC)
    embedding = full.roi_heads.context.semantic.embedding
    before = [p.clone() for p in embedding.parameters()]
    for parameter in embedding.parameters():
        parameter.data.zero_()
    unused = plain.load_state_dict(full.state_dict(), strict=False)
    assert not unused.missing_keys
    assert all("context.semantic" in key for key in unused.unexpected_keys)
    inputs = [example(3), example(1, seed=1)]

    losses, gradients = seeded_losses(full, [inputs])
    plain_losses, plain_gradients = seeded_losses(plain, [inputs])
    assert set(losses) - set(plain_losses) == {"loss_sem_seg"}
    for name, loss in plain_losses.items():
        assert torch.equal(losses[name], loss), name
    name = "roi_heads.mask_branch.heads.0.convs.0.weight"
    torch.testing.assert_close(gradients[name], plain_gradients[name])

    def detect(model):
        with torch.no_grad():
            return [x["instances"] for x in model.eval()(inputs)]

    for one, other in zip(detect(full), detect(plain), strict=True):
        assert len(one)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_masks, other.pred_masks)
    # With the weights it began with, the branch does change detections.
    for parameter, value in zip(embedding.parameters(), before, strict=True):
        parameter.data.copy_(value)
    assert not torch.equal(detect(full)[0].scores, detect(plain)[0].scores)


SIZE = (64, 128)


def mirrored_boxes(boxes):
    """Boxes (R, 4) seen in a mirror."""
    x1, y1, x2, y2 = boxes.tensor.unbind(1)
    return Boxes(torch.stack([SIZE[1] - x2, y1, SIZE[1] - x1, y2], dim=1))


def mirrored(images, maps, proposals, targets, sem_seg):
    """The same inputs seen in a mirror."""
    maps = {name: x.flip(-1) for name, x in maps.items()}
    proposals = [Instances(SIZE, proposal_boxes=mirrored_boxes(p.proposal_boxes)) for p in proposals]
    turned = [
        Instances(
            SIZE,
            gt_boxes=mirrored_boxes(t.gt_boxes),
            gt_classes=t.gt_classes,
            gt_masks=BitMasks(t.gt_masks.tensor.flip(-1)),
        )
        for t in targets
    ]
    return images, maps, proposals, turned, sem_seg.flip(-1)


@torch.no_grad()
def mirror_weights(heads):
    """Turn RoI heads into those that do the same in a mirror."""
    for name, parameter in heads.named_parameters():
        if parameter.ndim == 4:
            parameter.copy_(parameter.flip(-1))
        elif name.endswith("fcs.0.weight"):
            parameter.copy_(parameter.view(len(parameter), -1, 7, 7).flip(-1).flatten(1))
        elif "bbox_pred" in name:
            parameter[0::4] *= -1  # dx of every box


def losses_and_map_gradients(heads, images, maps, *others):
    """Losses by name and the gradients of the maps."""
    maps = {name: x.clone().requires_grad_() for name, x in maps.items()}
    _, losses = heads.train()(images, maps, *others)
    return losses, torch.autograd.grad(sum(losses.values()), maps.values(), allow_unused=True)


def assert_mirroring_commutes_with_the_loss(leaf, mirror):
    """Fail unless mirrored inputs, seen by weights that ``mirror`` has mirrored in place, cost the same."""
    config = reduced_model(leaf)
    for stage in config.roi_heads.stages:
        # All candidates are taken, so that nothing is drawn by chance.
        stage.sampler.update(batch_size_per_image=1000, positive_fraction=1.0)
    torch.manual_seed(0)
    heads = randomise(instantiate(config.roi_heads), box_std=0.1)
    inputs = heads_inputs_near_objects(SIZE, distance=4)
    losses, gradients = losses_and_map_gradients(heads, *inputs)
    unmirrored, _ = losses_and_map_gradients(heads, *mirrored(*inputs))
    mirror(heads)
    found, found_gradients = losses_and_map_gradients(heads, *mirrored(*inputs))
    assert set(found) == set(losses)
    for name, loss in losses.items():
        assert loss > 0
        torch.testing.assert_close(found[name], loss, atol=0, rtol=1e-5)
        assert (unmirrored[name] - loss).abs() > 1e-4 * loss, name
    for ours, theirs in zip(found_gradients, gradients, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours.flip(-1), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("leaf", [HTC, WITHOUT_SEMANTIC, CASCADE_MASK_RCNN, MASK_RCNN])
def test_mirroring_image_boxes_masks_and_map_commutes_with_the_loss(leaf):
    assert_mirroring_commutes_with_the_loss(leaf, mirror_weights)


@pytest.fixture(scope="module", params=[HTC, CASCADE_MASK_RCNN, MASK_RCNN])
def decided(request):
    """A model whose scores are far apart, so that rounding does not change their order."""
    model = randomise(build(request.param))
    for stage in model.roi_heads.stages:
        stage.head.cls_score.weight.data *= 50
    return model.eval()


def test_a_batch_equals_its_images_one_by_one(decided):
    inputs = [example(2, seed=5), example(0, seed=6), example(1, seed=7)]
    with torch.no_grad():
        together = [x["instances"] for x in decided(inputs)]
        alone = [decided([item])[0]["instances"] for item in inputs]
    for one, other in zip(together, alone, strict=True):
        assert len(one) and one.pred_masks.any()
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-5)
        assert torch.equal(one.pred_classes, other.pred_classes)
        torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3, rtol=0)
        assert one.pred_masks.shape == (len(one), 96, 72)
        assert (one.pred_masks != other.pred_masks).float().mean() < 1e-4


def test_soft_masks_of_a_batch_equal_those_of_its_images(decided):
    inputs = [example(2, seed=5), example(1, seed=7)]
    with torch.no_grad():
        together = decided.inference(inputs, do_postprocess=False)
        alone = [decided.inference([item], do_postprocess=False)[0] for item in inputs]
    for one, other in zip(together, alone, strict=True):
        assert one.pred_masks.shape == (len(one), 1, 28, 28)
        torch.testing.assert_close(one.pred_masks, other.pred_masks, atol=1e-4, rtol=0)
