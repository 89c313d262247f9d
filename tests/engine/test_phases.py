"""Which phase of a two-phase criterion each step of a training has, and what the log says of it."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm

from htd.engine.config import load_config
from htd.engine.config.scaling import scale_to_batch
from htd.engine.launch import Processes, launch
from htd.engine.run import build_model, evaluate, train
from htd.errors import UserError
from tests.engine.tiny import TINY, NoObjectsOnRank, Stop
from tests.engine.two_phases import STEPS, phased

INITIAL, ALIGNED = "starts in the initial phase", "starts in the aligned phase"
SWITCHED, TOO_SHORT = "the aligned phase of the training begins at iteration", "before its aligned phase"


@pytest.fixture(autouse=True)
def no_steps_of_other_tests():
    STEPS.clear()


def switched_at(switch, start=0, end=9):
    return [(k, k >= switch) for k in range(start, end)]


def said(text):
    """Count the lines of a log of each kind."""
    return [text.count(part) for part in (INITIAL, ALIGNED, SWITCHED, TOO_SHORT)]


@pytest.mark.parametrize(
    "switch, lines", [(0, [0, 1, 0, 0]), (1, [1, 0, 1, 0]), (5, [1, 0, 1, 0]), (8, [1, 0, 1, 0])]
)
def test_the_phase_follows_from_the_iteration(tiny, log, switch, lines):
    config = phased(tiny("train.eval_period=2"), switch_iter=switch)
    train(config)
    assert STEPS == switched_at(switch)
    assert said(log()) == lines
    assert not switch or f"begins at iteration {switch}\n" in log()
    assert f"from iteration {switch} on" in log()


@pytest.mark.parametrize("switch", [9, 100])
def test_a_training_that_ends_before_the_switch_warns_at_the_start(tiny, log, switch):
    config = phased(tiny(), switch_iter=switch)
    train(config)
    assert STEPS == switched_at(switch)
    assert said(log()) == [1, 0, 0, 1]
    assert f"ends at iteration 9, {TOO_SHORT}, which would begin at iteration {switch}: lower " in log()
    assert "WARNING" in next(line for line in log().splitlines() if TOO_SHORT in line)
    assert log().index(TOO_SHORT) < log().index("iteration 4/9")


@pytest.mark.parametrize("switch, lines", [(3, [1, 1, 1, 0]), (4, [1, 1, 1, 0]), (5, [2, 0, 2, 0])])
def test_a_resumed_training_is_at_once_in_the_right_phase(tiny, stop_after, log, switch, lines):
    whole, parts = (phased(tiny(output=name), switch_iter=switch) for name in ("whole", "parts"))
    train(whole)
    stop_after(6)  # saved after 4
    with pytest.raises(Stop):
        train(parts)
    STEPS.clear()
    train(parts, resume=True)
    assert STEPS == switched_at(switch, start=4)
    assert said(log("parts")) == lines
    one, other = (
        torch.load(f"{c.train.output_dir}/model_final.pth", weights_only=True) for c in (whole, parts)
    )
    assert all(torch.equal(value, other["model"][name]) for name, value in one["model"].items())


def test_checkpoints_have_the_keys_of_a_model_without_phases(tiny):
    plain, two = tiny("train.max_iter=3", output="plain"), phased(tiny(), switch_iter=2)
    train(plain)
    train(two)
    files = [torch.load(f"{c.train.output_dir}/model_final.pth", weights_only=True) for c in (plain, two)]
    assert list(files[0]["model"]) == list(files[1]["model"])
    assert files[0].keys() == files[1].keys() and files[0]["trainer"].keys() == files[1]["trainer"].keys()


def test_an_evaluation_knows_no_phase(tiny):
    config = phased(tiny(), switch_epochs=2)
    train(config)
    config.train.init_checkpoint = f"{config.train.output_dir}/model_final.pth"
    results = [evaluate(config)]
    for switch in ({"switch_iter": 0}, {"switch_iter": 10**6}):
        results.append(evaluate(phased(config, **switch)))
    assert results[0] == results[1] == results[2] and results[0]


# 11 images: 6 steps an epoch at 2 images, 3 at 4; one is left of a batch of 11.
@pytest.mark.parametrize("batch, epochs, switch", [(2, 1, 6), (2, 0.5, 3), (4, 2, 6), (11, 3, 3), (2, 0, 0)])
def test_epochs_follow_from_images_and_batch(tiny, log, batch, epochs, switch):
    config = phased(tiny(f"dataloader.train.total_batch_size={batch}"), switch_epochs=epochs)
    config.dataloader.train.aspect_ratio_grouping = False
    train(config)
    assert STEPS == switched_at(switch)
    assert said(log()) == ([1, 0, 1, 0] if switch else [0, 1, 0, 0])


def test_too_many_epochs_are_warned_of_by_their_key(tiny, log):
    train(phased(tiny(), switch_epochs=4))
    assert "would begin at iteration 24: lower switch_epochs" in log()


def test_epochs_of_a_loader_that_does_not_say_their_length_are_refused(tiny):
    config = phased(tiny("train.max_iter=2"), switch_epochs=1)
    config.dataloader.train = L(NoObjectsOnRank)(empty=-1, broken=-1)
    with pytest.raises(UserError, match="iterations_an_epoch.*switch_iter"):
        train(config)
    train(phased(config, switch_iter=1))
    assert STEPS == [(0, False), (1, True)]


@pytest.mark.parametrize(
    "switch, batch, given, expected, line",
    [
        (29320, 4, (), 117280, "model.criterion.switch_iter 29320 -> 117280"),
        (29320, 32, (), 14660, "model.criterion.switch_iter 29320 -> 14660"),
        (1, 64, (), 1, "model.criterion.switch_iter 1 -> 1"),
        (
            29320,
            4,
            ("model.criterion.switch_iter",),
            29320,
            "as given: model.criterion.switch_iter=29320",
        ),
        (0, 4, (), 0, None),
        (-1, 4, (), -1, None),  # left for the model to refuse
        (None, 4, (), None, None),
    ],
)
def test_the_switch_follows_the_batch_by_the_rule_of_the_length(switch, batch, given, expected, line):
    config = load_config(
        TINY,
        [
            "train.reference_batch_size=16",
            "train.max_iter=29320",
            f"dataloader.train.total_batch_size={batch}",
        ],
    )
    config = phased(config, switch_iter=switch, switch_epochs=4 if switch is None else None)
    said = scale_to_batch(config, set(given))
    assert config.model.criterion.switch_iter == expected
    if line:
        assert line in said
    else:
        assert "switch_iter" not in said
    assert config.model.criterion.switch_epochs == (4 if switch is None else None)


def test_detectron2s_own_trainer_needs_no_hook(tiny):
    model = build_model(phased(tiny(), switch_iter=2)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = SimpleTrainer(model, NoObjectsOnRank(empty=-1, broken=-1), optimizer)
    trainer.train(0, 5)
    trainer.train(3, 5)
    assert STEPS == switched_at(2, end=5) + switched_at(2, start=3, end=5)


def two_ranks(folder):
    """Train with a rank without objects, then resume from a checkpoint before the switch."""
    folder = Path(folder)
    epochs = load_config(TINY, [f"train.output_dir={folder / 'epochs'}", "train.max_iter=7"])
    train(phased(epochs, switch_epochs=1))

    settings = [f"train.output_dir={folder / 'run'}", "train.checkpointer.period=2", "train.max_iter=6"]
    config = phased(load_config(TINY, settings), switch_iter=3)
    config.dataloader.train = L(NoObjectsOnRank)(empty=1, broken=-1)
    train(config)
    comm.synchronize()
    if comm.is_main_process():
        (folder / "run" / "last_checkpoint").write_text("model_0000001.pth")
    comm.synchronize()
    train(config, resume=True)
    (folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(STEPS))


@pytest.mark.dist
def test_two_processes_are_in_the_same_phase(tmp_path):
    launch(two_ranks, Processes(per_machine=2), device="cpu", args=(str(tmp_path),))
    # An epoch is 6 steps of 2 images, one on each rank.
    expected = switched_at(6, end=7) + switched_at(3, end=6) + switched_at(3, start=2, end=6)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == [list(step) for step in expected]
    assert said((tmp_path / "run" / "log.txt").read_text()) == [2, 0, 2, 0]
    assert said((tmp_path / "run" / "log.txt.rank1").read_text()) == [0, 0, 0, 0]
