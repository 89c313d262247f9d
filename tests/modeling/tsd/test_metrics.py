"""The accuracies that TSD's stages write: when, where, and under which names."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.modeling.tsd.small import images, maps, proposals, roi_heads, targets
from tests.recorded import tensors

PERIOD = 20


def train_step(case, storage):
    """Run the RoI heads of a case in training, inside of a storage if there is one; return all its names."""
    heads, arrays, size = roi_heads(case), tensors("tsd", case), (320, 352)
    given_proposals = proposals(size, *(arrays[f"in{i}_proposals"] for i in range(2)))
    features = maps(case, f"{case}.train", 2, size)
    heads.train()
    try:
        with torch.no_grad():
            inputs = images(size, 2), features, given_proposals, targets(arrays, size, 2)
            if storage is None:
                _, losses = heads(*inputs)
                return losses, {}
            with storage:
                _, losses = heads(*inputs)
    finally:
        heads.eval()
    return losses, {name: history.latest() for name, history in storage.histories().items()}


@pytest.mark.parametrize("iteration", [PERIOD - 1, 3 * PERIOD - 1])
def test_of_every_stage(iteration):
    """A plain stage of a cascade has none; accuracies are not among the losses."""
    losses, found = train_step("cascade_mixed", EventStorage(iteration))
    names = [f"tsd/{head}accuracy_stage{k}" for k in (1, 2) for head in ("", "sibling_")]
    assert sorted(found) == sorted(names)
    assert all(0 <= value <= 100 for value in found.values())
    assert all(name.startswith("loss_") for name in losses)


@pytest.mark.parametrize("iteration", [0, PERIOD - 2, PERIOD])
def test_only_now_and_then(iteration):
    """To read a number makes a GPU wait."""
    assert not train_step("cascade_mixed", EventStorage(iteration))[1]


def test_without_a_storage():
    losses, _ = train_step("cascade_mixed", None)
    with_storage, _ = train_step("cascade_mixed", EventStorage(PERIOD - 1))
    assert losses == with_storage


def test_names_of_a_single_stage():
    heads, size = roi_heads("train_small"), (320, 416)
    box = torch.tensor([[10.0, 10, 100, 100]])
    target = Instances(size, gt_boxes=Boxes(box), gt_classes=torch.tensor([3]))
    heads.train()
    try:
        with torch.no_grad(), EventStorage(PERIOD - 1) as storage:
            given_proposals = [Instances(size, proposal_boxes=Boxes(box))]
            heads(images(size, 1), maps("train_small", "train.small", 1, size), given_proposals, [target])
    finally:
        heads.eval()
    assert set(storage.histories()) == {"tsd/accuracy", "tsd/sibling_accuracy"}
