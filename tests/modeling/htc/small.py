"""Reduced models of the cascade family and inputs for their RoI heads alone."""

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, ImageList, Instances

from htd.layers import clip_boxes
from tests.boxes import random_boxes
from tests.configs.reduced import example, reduced_model

HTC = "configs/htc/htc_r50_fpn_1x.py"
WITHOUT_SEMANTIC = "configs/htc/htc_without_semantic_r50_fpn_1x.py"
CASCADE_MASK_RCNN = "configs/baselines/cascade_mask_rcnn_r50_fpn_1x.py"
MASK_RCNN = "configs/baselines/mask_rcnn_r50_fpn_1x.py"


def given_proposals(counts, num_gt=0, size=(64, 96)):
    """Images, maps, ``counts`` proposals an image, and targets for RoI heads alone."""
    generator = torch.Generator().manual_seed(sum(counts))
    maps = {
        f"p{level}": torch.randn(len(counts), 16, size[0] >> level, size[1] >> level, generator=generator)
        for level in range(2, 7)
    }
    proposals = [Instances(size, proposal_boxes=Boxes(random_boxes(generator, n, *size))) for n in counts]
    targets = [example(num_gt, seed=i)["instances"] for i in range(len(counts))]
    return ImageList(torch.zeros(len(counts), 3, *size), [size] * len(counts)), maps, proposals, targets


def heads_inputs(counts, num_gt=2):
    """Like :func:`given_proposals`, with semantic maps."""
    sem_seg = torch.stack([example(num_gt, seed=i)["sem_seg"] for i in range(len(counts))])
    return *given_proposals(counts, num_gt), sem_seg


def heads_inputs_near_objects(size, distance, num_images=2, num_gt=3):
    """Like `heads_inputs`, with half of the proposals some ``distance`` pixels off an object.

    ``size`` are multiples of 64: images, maps and semantic maps have no padding at any stride.
    """
    generator = torch.Generator().manual_seed(0)
    items = [example(num_gt, seed=i, size=size) for i in range(num_images)]
    maps = {
        f"p{k}": torch.randn(num_images, 16, size[0] >> k, size[1] >> k, generator=generator)
        for k in range(2, 7)
    }
    proposals = []
    for item in items:
        boxes = item["instances"].gt_boxes.tensor.repeat(4, 1)
        boxes = boxes + distance * torch.randn(boxes.shape, generator=generator)
        boxes = torch.cat([boxes, random_boxes(generator, 12, *size)])
        proposals.append(Instances(size, proposal_boxes=Boxes(clip_boxes(boxes, size))))
    images = ImageList(torch.zeros(num_images, 3, *size), [size] * num_images)
    targets = [item["instances"] for item in items]
    return images, maps, proposals, targets, torch.stack([item["sem_seg"] for item in items])


def randomise(module, seed=0, box_std=0.05):
    """Draw all biases and the box regression anew, so that nothing is zero and boxes move visibly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.1, generator=generator)
        elif "bbox_pred" in name:
            parameter.data.normal_(0, box_std, generator=generator)
    return module


def changed(path, *changes):
    """Return a seeded reduced model whose config the functions ``changes`` have changed in place."""
    config = reduced_model(path)
    for change in changes:
        change(config)
    torch.manual_seed(0)
    return instantiate(config)


def without_gradient(module):
    """Return the names of the parameters that have no finite gradient."""
    return [
        name
        for name, p in module.named_parameters()
        if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())
    ]


def seeded_losses(module, inputs, seed=0):
    """Train one step without an update from a fixed seed; return the losses and the gradients by name."""
    module.train().zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    result = module(*inputs)
    losses = result if isinstance(result, dict) else result[1]
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def assert_trains(module, inputs):
    """Train one step; fail unless all losses and all gradients are there and finite. Return the losses."""
    losses, _ = seeded_losses(module, inputs)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not without_gradient(module)
    return losses


def detections_among(heads, counts):
    """Return what RoI heads find among ``counts`` proposals an image: finite boxes, some where those are."""
    with torch.no_grad():
        found, losses = heads.eval()(*given_proposals(counts)[:3])
    assert losses == {}
    for detections, count in zip(found, counts, strict=True):
        assert bool(len(detections)) == bool(count)
        assert torch.isfinite(detections.pred_boxes.tensor).all()
    return found


def assert_trains_alike_in_half_precision(model, inputs, **tolerance):
    """Fail unless bfloat16 gives nearly the losses of float32, as float32, and all gradients."""
    losses, _ = seeded_losses(model, [inputs])
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = seeded_losses(model, [inputs])
    for name, loss in losses.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], loss, **tolerance)
    assert not without_gradient(model)
