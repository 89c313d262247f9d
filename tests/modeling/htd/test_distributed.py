"""HTD in two processes, one of them without any object."""

from pathlib import Path

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from htd.engine.launch import Processes, launch
from tests.configs.reduced import build, example

LEAF = "configs/htd/htd_r50_fpn_1x.py"


def two_steps(folder):
    """Run two steps; the second fails if a parameter had no part in the losses of the first."""
    torch.set_num_threads(1)
    model = DistributedDataParallel(build(LEAF).train(), find_unused_parameters=False)
    objects = (3, 0)[comm.get_rank()]
    for step in range(2):
        model.zero_grad()
        with EventStorage():
            losses = model([example(objects, seed=step)])
        sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters() if p.requires_grad}
    torch.save(gradients, Path(folder) / f"rank{comm.get_rank()}.pth")


@pytest.mark.dist
def test_rank_without_objects_takes_part(tmp_path):
    launch(two_steps, Processes(per_machine=2), device="cpu", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"rank{i}.pth", weights_only=True) for i in range(2))
    assert len(first) > 50
    for name, gradient in first.items():
        assert torch.isfinite(gradient).all(), name
        torch.testing.assert_close(gradient, second[name])
