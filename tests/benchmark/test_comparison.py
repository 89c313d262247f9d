"""The comparison of the systems: what it trains, what it measures, and how it continues."""

import copy
import json
import math

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import OmegaConf

from htd.benchmark import comparison
from htd.benchmark.comparison import FINAL, PAIRS, Training, all_trainings, keep_candidates
from htd.benchmark.comparison_report import markdown
from htd.engine.config import load_config, save_config
from htd.errors import UserError
from tests.configs.leaves import config_of
from tools import compare

FORMS = [form for pair in PAIRS.values() for form in pair]
RESULT = {
    "AP": 40.0,
    "AP50": 60.0,
    "AP75": 41.25,
    "parameters": 1_500_000,
    "candidates": 12,
    "correlation": {"0.1": {"pearson": 0.25, "spearman": None, "n": 10}},
}


@pytest.fixture
def trainings(monkeypatch):
    """The arguments of all trainings; their results are random weights."""
    calls = []

    def run_training(config_file, folder, datasets, arguments, log=None):
        calls.append(arguments)
        folder.mkdir(parents=True, exist_ok=True)
        config = load_config(str(config_file), [a for a in arguments if "=" in a])
        config.train.output_dir = str(folder)
        save_config(config, folder / "config.yaml")
        torch.manual_seed(config.train.seed)
        torch.save({"model": instantiate(config.model).state_dict()}, folder / FINAL)

    monkeypatch.setattr(comparison, "run_training", run_training)
    return calls


def run(output, *flags):
    """Compare a two-stage with a one-stage detector in little time."""
    short = ["--iterations", "6", "--train", "4", "--val", "3", "--time-images", "1", "--time-rounds", "1"]
    compare.main(["train.device=cpu", *short, "--seeds", "0", "--output", str(output), *flags])


def test_a_comparison_and_its_continuation(trainings, monkeypatch, tmp_path):
    pair = comparison.Pair(PAIRS["htd"].baseline, PAIRS["tood"].system)
    monkeypatch.setitem(PAIRS, "mixed", pair)
    flags = ["--systems", "mixed", "--strengths", "0"]
    run(tmp_path, *flags)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert [cell["config"] for cell in content["cells"]] == [form.config for form in pair]
    for cell, form in zip(content["cells"], pair, strict=True):
        model = instantiate(config_of(str(form.path)).model)
        assert cell["parameters"] == sum(p.numel() for p in model.parameters())
        assert 0 <= cell["AP75"] <= cell["AP50"] <= 100
        assert cell["correlation"]["0.5"]["n"] <= cell["correlation"]["0.1"]["n"] <= cell["candidates"]
        assert content["times"]["seconds"][form.config] > 0
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "compare.csv").read_text().splitlines()) == 1 + 2 * 2
    table = (tmp_path / "compare.md").read_text()

    # The same command again does nothing; another seed trains that seed only.
    run(tmp_path, *flags)
    assert (tmp_path / "compare.md").read_text() == table
    assert ["train.seed=0" in arguments for arguments in trainings] == [True, True]
    run(tmp_path, *flags, "--seeds", "0", "1")
    assert ["train.seed=1" in arguments for arguments in trainings] == [False, False, True, True]
    assert json.loads((tmp_path / "compare.json").read_text())["times"] == content["times"]
    run(tmp_path, *flags, "--time-again")
    assert json.loads((tmp_path / "compare.json").read_text())["times"] != content["times"]

    # A training that was stopped is resumed, and what was not measured is measured.
    result = next(tmp_path.rglob("result.json"))
    result.unlink()
    final = result.parent / "train" / FINAL
    final.rename(final.with_name("last_checkpoint"))
    run(tmp_path, *flags)
    assert result.is_file() and "--resume" in trainings[4] and len(trainings) == 5

    with pytest.raises(UserError, match="'iterations': 6"):
        run(tmp_path, *flags, "--iterations", "7")
    result.write_text("{")
    with pytest.raises(UserError, match="result.json is damaged"):
        run(tmp_path, *flags)


def test_other_lengths_are_free_until_there_is_a_checkpoint(trainings, monkeypatch, tmp_path):
    def fail(*arguments, **settings):
        raise UserError("train_net.py failed")

    flags = ["--systems", "htd", "--strengths", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "run_training", fail)
        with pytest.raises(UserError, match="failed"):
            run(tmp_path, *flags)
    run(tmp_path, *flags, "--iterations", "7")
    assert len(trainings) == 2


def test_layouts_are_the_same_at_all_strengths(tmp_path):
    lengths = comparison.Lengths(6, train=4, val=3, overrides=[])
    layouts = []
    for strength in (0.0, 0.5):
        folder = comparison.Comparison(tmp_path, lengths).make_data(strength)
        content = json.loads((folder / "toy/annotations/instances_val.json").read_text())
        layouts.append([(entry["image_id"], entry["category_id"]) for entry in content["annotations"]])
    assert layouts[0] == layouts[1] and len(layouts[0]) > 1


def test_all_systems_with_one_seed_come_first():
    trainings = all_trainings(["htd", "salt"], [0.0, 0.5], [3, 4])
    assert len(set(trainings)) == len(trainings) == 16
    assert [t.seed for t in trainings] == [3] * 8 + [4] * 8
    assert [t.form.config for t in trainings[:4]] == ["htd_toy", "cascade_rcnn_toy"] * 2
    assert [t.strength for t in trainings[:4]] == [0.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("name", PAIRS)
def test_both_of_a_pair_see_the_same_images(name):
    system, baseline = (
        load_config(str(form.path), comparison.length_overrides(form, 300)) for form in PAIRS[name]
    )
    assert system.train.max_iter == baseline.train.max_iter == system.lr_multiplier.max_iter == 300
    assert system.dataloader.train.total_batch_size == baseline.dataloader.train.total_batch_size == 8
    for key, fraction in PAIRS[name].system.fractions.items():
        assert OmegaConf.select(system, key) == int(300 * fraction) == 100


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.config)
def test_candidates_are_chosen_by_their_score_alone(form):
    config = copy.deepcopy(config_of(str(form.path)).model)
    before = copy.deepcopy(config)
    keep_candidates(config)
    changed = dict(differences(config, before))
    assert all(value in (0.05, 1.0, 1_000_000) for value in changed.values())
    assert {key.rpartition(".")[2] for key in changed} <= {
        "score_threshold",
        "topk",
        "max_detections",
        "iou_threshold",
    }
    assert any(key.endswith("nms.iou_threshold") for key in changed)
    assert not any("proposal" in key or "assigner" in key for key in changed)


def differences(node, before, key=""):
    """Yield each key whose value is not the one before, and its value."""
    if OmegaConf.is_config(node):
        for name in node if hasattr(node, "keys") else range(len(node)):
            yield from differences(node[name], before[name], f"{key}.{name}")
    elif node != before:
        yield key, node


def test_no_candidate_is_suppressed():
    config = copy.deepcopy(config_of(str(PAIRS["htd"].system.path)).model)
    keep_candidates(config)
    nms = instantiate(config.roi_heads.postprocessing).nms
    same = torch.tensor([[0.1, 0.2, 30.7, 41.3]]).expand(300, 4)
    keep, _ = nms(same, torch.rand(300), torch.zeros(300, dtype=torch.int64))
    assert len(keep) == 300


def test_table_of_two_seeds():
    form, other = PAIRS["htd"]
    results = {Training(form, 0.5, seed): RESULT | {"AP": 20.0 + 10 * seed} for seed in (0, 1)}
    table = markdown(results, [(form, other)], [0.0, 0.5], {form.config: 0.05})
    rest = "41.2 (41.2 to 41.2) | 0.250 (0.250 to 0.250) | -, - | 10 (10 to 10) | 1.50 | 50.0 |"
    assert table.splitlines()[2:] == [f"| HTD | 0.5 | 25.0 (20.0 to 30.0) | {rest}"]


def test_undefined_values_survive_a_file(tmp_path):
    comparison.write_json(tmp_path / "a.json", {"b": {"c": math.nan, "d": 1.5}})
    assert comparison.read_json(tmp_path / "a.json") == {"b": {"c": None, "d": 1.5}}


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--systems", "htd", "yolo"], "yolo"),
        (["--systems", "htd", "htd"], "--systems"),
        (["--seeds", "-1"], "--seeds"),
        (["--strengths", "0", "1.5"], "--strengths"),
        (["--time-rounds", "0"], "--time-rounds is 0"),
        (["model.nothing=1", "--systems", "htd"], "model.nothing"),
    ],
)
def test_wrong_flags(flags, word, tmp_path):
    with pytest.raises(UserError, match=word):
        compare.main([*flags, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_real_trainings(tmp_path):
    run(tmp_path, "--systems", "htc", "--strengths", "0.5")
    table = (tmp_path / "compare.md").read_text()
    assert "| HTC | 0.5 |" in table and "| Cascade Mask R-CNN | 0.5 |" in table
    log = next(tmp_path.rglob("train_net.log")).read_text()
    run(tmp_path, "--systems", "htc", "--strengths", "0.5")
    assert (tmp_path / "compare.md").read_text() == table
    assert next(tmp_path.rglob("train_net.log")).read_text() == log
