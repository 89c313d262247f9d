"""The comparison of the systems: its resuming, its tables and its refusals."""

import json
import math

import pytest
import torch
from detectron2.config import instantiate

import compare
import compare_train
from compare_cells import PAIRS, Cell, Pair
from compare_train import FINAL, Settings, make_data, train_cell
from htd.engine.config import load_config, save_config
from htd.errors import UserError
from tests.configs.leaves import config_of

SETTINGS = Settings(iterations=6, train=4, val=3, overrides=["train.device=cpu"])
FLAGS = ["train.device=cpu", "--iterations", "6", "--train", "4", "--val", "3", "--seeds", "0"]
CELL = Cell(PAIRS["tsd"].system, 0.5, 0)
RESULT = {
    "AP": 40.0,
    "AP50": 60.0,
    "AP75": 41.25,
    "parameters": 1_500_000,
    "candidates": 12,
    "correlation": {"0.1": {"pearson": 0.25, "spearman": math.nan, "n": 10}},
}


def trained_at_once(config_file, folder, datasets, arguments, log=None):
    """Stand in for a training: random weights are its result."""
    folder.mkdir(parents=True)
    config = load_config(str(config_file), [*arguments, f"train.output_dir={folder}"])
    save_config(config, folder / "config.yaml")
    torch.manual_seed(config.train.seed)
    torch.save({"model": instantiate(config.model).state_dict()}, folder / FINAL)


@pytest.fixture
def trainings(monkeypatch):
    """The arguments of all trainings, which are done at once."""
    asked = []

    def train(*arguments, **more):
        asked.append(arguments)
        trained_at_once(*arguments, **more)

    monkeypatch.setattr(compare_train, "train_net", train)
    return asked


@pytest.fixture
def measured(monkeypatch):
    """The cells that were measured, and stand-ins for all that takes long."""
    cells = []

    def measure(cell, output, data):
        cells.append(cell)
        return RESULT

    monkeypatch.setattr(compare, "train_cell", lambda *given: None)
    monkeypatch.setattr(compare, "trained_config", lambda cell, *given: cell)
    monkeypatch.setattr(compare, "measure_cell", measure)
    monkeypatch.setattr(compare, "plot", lambda *given: b"a picture")
    monkeypatch.setattr(compare, "seconds_per_image", lambda configs, *given: [0.05] * len(configs))
    return cells


def call(output, *flags):
    compare.main([*FLAGS, "--output", str(output), *flags])


def test_layouts_are_the_same_at_all_strengths(tmp_path):
    found = []
    for strength in (0.0, 0.5):
        folder = make_data(tmp_path, strength, SETTINGS)
        content = json.loads((folder / "toy/annotations/instances_val.json").read_text())
        found.append([(entry["image_id"], entry["category_id"]) for entry in content["annotations"]])
    assert found[0] == found[1] and len(found[0]) > 1


def test_a_stopped_training_goes_on(trainings, tmp_path):
    folder = train_cell(CELL, tmp_path, SETTINGS)
    assert "--resume" not in trainings[0][3] and "train.seed=0" in trainings[0][3]
    train_cell(CELL, tmp_path, SETTINGS)
    assert len(trainings) == 1
    (folder / FINAL).rename(folder / "last_checkpoint")
    with pytest.raises(FileExistsError):  # the folder is left to what goes on in it
        train_cell(CELL, tmp_path, SETTINGS)
    assert trainings[1][3][0] == "--resume"


def test_measurements_of_real_models(trainings, monkeypatch, tmp_path):
    """Of one with RoI heads and one without."""
    pair = Pair(PAIRS["htd"].baseline, PAIRS["tood"].system)
    monkeypatch.setitem(PAIRS, "mixed", pair)
    call(tmp_path, "--systems", "mixed", "--strengths", "0", "--time-images", "1", "--time-rounds", "1")
    content = json.loads((tmp_path / "compare.json").read_text())
    assert [cell["config"] for cell in content["cells"]] == [form.config for form in pair]
    for cell, form in zip(content["cells"], pair, strict=True):
        model = instantiate(config_of(str(form.path)).model)
        assert cell["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert 0 <= cell["AP75"] <= cell["AP50"] <= 100
        assert cell["correlation"]["0.5"]["n"] <= cell["correlation"]["0.1"]["n"] <= cell["candidates"]
        assert content["times"]["seconds"][form.config] > 0
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "compare.csv").read_text().splitlines()) == 1 + 2 * 2


def test_second_call_does_what_is_left(measured, tmp_path, caplog):
    call(tmp_path, "--systems", "htd")
    assert len(measured) == 4
    call(tmp_path, "--systems", "htd")
    assert len(measured) == 4
    call(tmp_path, "--systems", "htd", "tood")
    assert [cell.form.title for cell in measured[4:]] == ["TOOD", "ATSS"] * 2
    assert "8 of 8: atss_toy, strength 0.5, seed 0: box AP 40.0" in caplog.text


def test_what_was_interrupted_is_made_again(measured, monkeypatch, tmp_path):
    def interrupt(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compare, "measure_cell", interrupt)
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path, "--systems", "htd")
    assert not list(tmp_path.rglob("result.json"))
    call(tmp_path, "--systems", "htd")
    assert len(measured) == 4


def test_times_are_measured_again_when_asked(measured, monkeypatch, tmp_path):
    call(tmp_path, "--systems", "htd")
    monkeypatch.setattr(compare, "seconds_per_image", lambda configs, *given: [0.125] * len(configs))
    call(tmp_path, "--systems", "htd")
    assert "| 50.0 |" in (tmp_path / "compare.md").read_text()
    call(tmp_path, "--systems", "htd", "--time-again")
    assert "| 125.0 |" in (tmp_path / "compare.md").read_text()


def test_times_belong_to_their_flags_and_detectors(measured, monkeypatch, tmp_path):
    asked = []

    def seconds(configs, images, rounds):
        asked.append((len(configs), images, rounds))
        return [len(asked) / 1000] * len(configs)

    monkeypatch.setattr(compare, "seconds_per_image", seconds)
    for flags in (["htd"], ["htd", "tood"], ["tood"], ["tood", "--time-images", "7"], ["htd", "tood"]):
        call(tmp_path, "--strengths", "0.5", "--systems", *flags)
    assert asked == [(2, 20, 5), (4, 20, 5), (2, 7, 5)]
    rows = (tmp_path / "compare.md").read_text().splitlines()[2:]
    assert [row.split("|")[-2].strip() for row in rows] == ["2.0"] * 4


def test_a_report_shows_what_the_call_names(measured, tmp_path):
    call(tmp_path, "--systems", "htd", "salt")
    whole = (tmp_path / "compare.md").read_text()
    call(tmp_path, "--systems", "salt")
    assert not {"HTD", "Cascade R-CNN"} & set((tmp_path / "compare.md").read_text().split(" | "))
    call(tmp_path, "--systems", "htd", "salt")
    assert (tmp_path / "compare.md").read_text() == whole and len(measured) == 8


def test_table_of_two_seeds(measured, monkeypatch, tmp_path):
    values = iter([20.0, 50.0, 30.0, 60.0])
    monkeypatch.setattr(compare, "measure_cell", lambda *given: RESULT | {"AP": next(values)})
    call(tmp_path, "--systems", "htd", "--strengths", "0", "--seeds", "0", "1")
    _, _, system, baseline = (tmp_path / "compare.md").read_text().splitlines()
    rest = "41.2 (41.2 to 41.2) | 0.250 (0.250 to 0.250) | -, - | 10 (10 to 10) | 1.50 | 50.0 |"
    assert system == f"| HTD | 0 | 25.0 (20.0 to 30.0) | {rest}"
    assert baseline == f"| Cascade R-CNN | 0 | 55.0 (50.0 to 60.0) | {rest}"
    cells = json.loads((tmp_path / "compare.json").read_text())["cells"]
    assert [(cell["seed"], cell["AP"]) for cell in cells] == [(0, 20), (0, 50), (1, 30), (1, 60)]
    assert cells[0]["correlation"]["0.1"] == {"pearson": 0.25, "spearman": None, "n": 10}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--systems", "htd", "yolo"], "'yolo' is unknown; choose from htd, tsd"),
        (["--systems", "htd", "htd"], "--systems names a value twice"),
        (["--seeds", "-1"], "--seeds have to be 0 or more"),
        (["--strengths", "0", "1.5"], "--strengths have to lie between 0 and 1"),
        (["--iterations", "0"], "--iterations is 0: it has to be at least 1"),
        (["--train", "0"], "--train is 0: it has to be at least 1"),
        (["--val", "-3"], "--val is -3: it has to be at least 1"),
        (["--time-images", "0"], "--time-images is 0: it has to be at least 1"),
        (["--time-rounds", "0"], "--time-rounds is 0: it has to be at least 1"),
        (["model.nothing=1", "--systems", "htd"], "unknown key .model.nothing"),
    ],
)
def test_wrong_flags(flags, words, tmp_path):
    with pytest.raises(UserError, match=words):
        compare.main([*flags, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_other_settings_and_damaged_files(measured, tmp_path):
    call(tmp_path, "--systems", "htd")
    with pytest.raises(UserError, match="holds trainings with .*'iterations': 6.* another --output"):
        call(tmp_path, "--systems", "htd", "--iterations", "7")
    next(tmp_path.rglob("result.json")).write_text("{")
    with pytest.raises(UserError, match="result.json is damaged"):
        call(tmp_path, "--systems", "htd")


def test_settings_are_free_until_a_training_has_begun(trainings, monkeypatch, tmp_path):
    def fail(config_file, folder, datasets, arguments, log):
        log.parent.mkdir(parents=True)
        log.write_text("no such device")
        raise UserError("train_net.py ended with status 2")

    flags = ["--systems", "htd", "--output", str(tmp_path), "--val", "3", "--iterations"]
    with pytest.raises(UserError, match="take 1 to 999999"):
        compare.main([*flags, "5", "--train", "1000000"])
    with monkeypatch.context() as patch:
        patch.setattr(compare_train, "train_net", fail)
        with pytest.raises(UserError, match="status 2"):
            compare.main([*flags, "5", "--train", "4"])
    monkeypatch.setattr(compare, "measure_cell", fail_to_measure)
    with pytest.raises(UserError, match="not measured"):
        compare.main([*flags, "6", "--train", "4", "train.device=cpu"])
    with pytest.raises(UserError, match="holds trainings with .*'iterations': 6"):
        compare.main([*flags, "7", "--train", "4", "train.device=cpu"])


def fail_to_measure(*given):
    raise UserError("not measured")


@pytest.mark.slow
def test_real_trainings_and_a_call_that_does_nothing(tmp_path):
    call(tmp_path, "--systems", "htc", "--strengths", "0.5", "--time-images", "1")
    log = next(tmp_path.rglob("train_net.log")).read_text()
    table = (tmp_path / "compare.md").read_text()
    assert "| HTC | 0.5 |" in table and "| Cascade Mask R-CNN | 0.5 |" in table
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(made) == 2
    call(tmp_path, "--systems", "htc", "--strengths", "0.5", "--time-images", "1")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == made
    assert next(tmp_path.rglob("train_net.log")).read_text() == log
    assert (tmp_path / "compare.md").read_text() == table
