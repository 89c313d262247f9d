"""Several processes."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from detectron2.config import LazyCall as L
from detectron2.utils import comm

from htd.engine.config import load_config
from htd.engine.guard import NonFiniteLossError
from htd.engine.launch import Processes, _free_port, launch
from htd.engine.run import train
from htd.errors import UserError
from tests.engine.tiny import TINY, NoObjectsOnRank


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def two_ranks(folder):
    """Train with an empty rank, resume, evaluate with an empty rank, then meet a NaN on rank 1."""
    folder = Path(folder)

    def config(output, *overrides):
        return load_config(TINY, [f"train.output_dir={folder / output}", *overrides])

    empty = config("empty", "train.max_iter=2")
    empty.dataloader.train = L(NoObjectsOnRank)(empty=1, broken=-1, total_batch_size=2)
    train(empty)

    whole = config("run", "dataloader.train.num_workers=1")
    train(whole)
    comm.synchronize()
    before = weights(folder / "run")
    comm.synchronize()
    if comm.is_main_process():
        (folder / "run" / "last_checkpoint").write_text("model_0000003.pth")
    comm.synchronize()
    train(whole, resume=True)
    comm.synchronize()
    same = all(torch.equal(value, before[name]) for name, value in weights(folder / "run").items())
    (folder / f"rank{comm.get_rank()}.json").write_text(json.dumps([comm.get_local_rank(), same]))

    broken = config("broken")
    broken.dataloader.train = L(NoObjectsOnRank)(empty=0, broken=1, total_batch_size=2)
    try:
        train(broken)
    except NonFiniteLossError:
        (folder / f"stopped{comm.get_rank()}").touch()
        comm.synchronize()
        raise


@pytest.mark.dist
def test_two_processes_one_without_objects(tmp_path):
    with pytest.raises(UserError) as caught:
        launch(two_ranks, Processes(per_machine=2), device="cpu", args=(str(tmp_path),))
    # The last step of each rank: the message that reached this process, from the rank that met the NaN.
    text = str(caught.value)
    assert "not finite at iteration 2, images rank1.jpg (id 1)," in text and "rank0.jpg" not in text
    assert "first non-finite output: body.0" in text
    assert (tmp_path / "stopped0").exists() and (tmp_path / "stopped1").exists()
    ranks = json.loads((tmp_path / "broken" / "nonfinite_0000002.json").read_text())["ranks"]
    assert [rank["images"][0]["image_id"] for rank in ranks] == [0, 1]
    assert [bool(rank["non_finite"]) for rank in ranks] == [False, True]

    assert [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)] == [
        [0, True],
        [1, True],
    ]
    saved = torch.load(tmp_path / "empty" / "model_final.pth", weights_only=True)
    assert len(saved["random_states"]) == 2
    assert not torch.equal(*(state["torch"] for state in saved["random_states"]))
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def note_ranks(file):
    Path(file).write_text(json.dumps([dist.get_world_size(), comm.get_local_rank(), comm.get_rank()]))


def test_torchrun_says_how_many_processes_there_are(tmp_path, monkeypatch):
    names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": _free_port()}
    for name, value in {**names, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, str(value))
    launch(note_ranks, Processes(per_machine=7), device="cpu", args=(str(tmp_path / "ranks"),))
    assert json.loads((tmp_path / "ranks").read_text()) == [1, 0, 0]
    assert not dist.is_initialized()


def test_one_process_needs_no_group():
    seen = []
    launch(seen.append, Processes(), device="cpu", args=(dist.is_initialized(),))
    assert seen == [False]


@pytest.mark.parametrize(
    "processes, device, text",
    [
        (Processes(per_machine=0), "cpu", "the counts start at 1"),
        (Processes(machines=2, machine_rank=2, url="tcp://a:1"), "cpu", "rank of a machine lies below"),
        (Processes(machines=2), "cpu", "--dist-url tcp://FIRST_MACHINE:PORT"),
        (Processes(url="foo"), "cpu", "--dist-url foo is no place to meet: write tcp://"),
        (Processes(url="tcp://host:port"), "cpu", "no place to meet"),
        (Processes(), "gpu", "train.device=gpu names no device"),
        (Processes(per_machine=99), "cuda", "--num-gpus 99, but this machine has"),
    ],
)
def test_layouts_that_cannot_be_are_refused(processes, device, text):
    with pytest.raises(UserError, match=text):
        launch(note_ranks, processes, device=device)
