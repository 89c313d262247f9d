"""Which parts of TSD's head a loss teaches, as published, and which it leaves alone."""

import pytest
import torch
from torch import nn

from tests.configs.reduced import build
from tests.modeling.htc.small import heads_inputs_near_objects, randomise
from tests.modeling.tsd.leaves import CASCADE, FASTER

SIBLING = {"sibling.fcs"}
CLASSES = {"classification.fcs", "classification.cls_score", "classification.shift", "trunk"}
BOXES = {"regression.fcs", "regression.bbox_pred", "regression.shift", "trunk"}
TAUGHT = {
    "loss_cls": SIBLING | {"sibling.cls_score"},
    "loss_box_reg": SIBLING | {"sibling.bbox_pred"},
    "loss_cls_tsd": CLASSES,
    "loss_margin_cls": CLASSES,
    "loss_box_reg_tsd": BOXES,
    "loss_margin_loc": BOXES,
}


@pytest.fixture(params=[FASTER, CASCADE])
def heads(request):
    return randomise(build(request.param).roi_heads, box_std=0.1).train()


@pytest.fixture
def inputs():
    return heads_inputs_near_objects((64, 128), distance=4)


def part_of(name):
    """Return the part of the head that a parameter is of: trunk.weight -> trunk."""
    first, *rest = name.split(".")
    return first if first == "trunk" else f"{first}.{rest[0]}"


def taught(head, loss):
    """Return the parts of a head that a loss has a gradient for."""
    names, parameters = zip(*head.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return {part_of(n) for n, g in zip(names, gradients, strict=True) if g is not None and g.abs().sum() > 0}


def test_each_loss_teaches_its_own_parts(heads, inputs):
    _, losses = heads(*inputs)
    several = len(heads.stages) > 1
    assert set(losses) == {
        f"{name}_stage{k}" if several else name for name in TAUGHT for k in range(len(heads.stages))
    }
    for k, stage in enumerate(heads.stages):
        for name, parts in TAUGHT.items():
            assert taught(stage.head, losses[f"{name}_stage{k}" if several else name]) == parts, name
        # Boxes of the next stage are constants.
        others = [s.head for s in heads.stages if s is not stage]
        own = sum(loss for name, loss in losses.items() if not several or name.endswith(f"_stage{k}"))
        assert not any(taught(head, own) for head in others)


def test_all_losses_reach_the_maps(heads, inputs):
    images, maps, *others = inputs
    maps = {name: m.clone().requires_grad_() for name, m in maps.items()}
    _, losses = heads(images, maps, *others)
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, maps.values(), retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in gradients), name


class Unmoved(nn.Module):
    """Pools as if nothing were displaced, so that no gradient comes through pooling."""

    def __init__(self, pooler):
        super().__init__()
        self.pooler = pooler

    def forward(self, context, rois, offsets):
        return self.pooler(context, rois, torch.zeros_like(offsets))


def test_shifts_of_boxes_also_learn_from_targets_and_decoded_boxes(inputs):
    heads = randomise(build(FASTER).roi_heads, box_std=0.1).train()
    head = heads.stages[0].head
    for tower in (head.classification, head.regression):
        tower.pooler = Unmoved(tower.pooler)
    _, losses = heads(*inputs)
    assert taught(head, losses["loss_box_reg_tsd"]) == BOXES
    assert taught(head, losses["loss_margin_loc"]) == BOXES
    assert taught(head, losses["loss_cls_tsd"]) == {"classification.fcs", "classification.cls_score"}
