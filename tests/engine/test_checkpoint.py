"""Checkpoints: atomic writes, which ones stay, and what fits a model."""

import logging
import os

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torch import nn

from htd.checkpoint import weights as weights_module
from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import check_weights_file, load_whole, local_file
from htd.engine.config import load_config
from htd.engine.config.own_data import class_dependent
from htd.engine.run import start_from, train
from htd.errors import UserError
from htd.layers import ContinuousBoxes, InclusiveBoxes
from tests.configs.reduced import reduced_model
from tests.engine.tiny import TINY, TinyModel

LOGGER = "htd.checkpoint.weights"


@pytest.fixture
def weights(tmp_path):
    """Return a function that saves a state dict and returns the file's name."""

    def save(state, name="weights.pth"):
        torch.save({"model": state}, tmp_path / name)
        return str(tmp_path / name)

    return save


def model_config(classes=2):
    return load_config(TINY, [f"model.num_classes={classes}"]).model


@pytest.mark.parametrize("error", [OSError("No space left on device"), RuntimeError("unexpected pos 1 vs 2")])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_debris(tmp_path, monkeypatch, error):
    checkpointer = TrainingCheckpointer(nn.Linear(1, 1), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    before = sorted(os.listdir(tmp_path)), (tmp_path / "model_0000001.pth").read_bytes()

    def half(data, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half)
    for name in ("model_0000001", "model_0000002"):
        with pytest.raises(UserError, match=f"{name}.pth cannot be written .*--resume"):
            checkpointer.save(name, iteration=2)
    assert (sorted(os.listdir(tmp_path)), (tmp_path / "model_0000001.pth").read_bytes()) == before
    assert checkpointer.last_checkpoint() == tmp_path / "model_0000001.pth"


def test_the_last_n_checkpoints_stay_also_over_a_resume(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model_0099999.pth").write_bytes(b"of another run")
    config = tiny("train.max_iter=5", "train.checkpointer.period=1", "train.checkpointer.max_to_keep=2")

    def names():
        return sorted(file.name for file in (tmp_path / "run").glob("model_[0-9]*.pth"))

    train(config)
    assert names() == ["model_0000002.pth", "model_0000003.pth", "model_0099999.pth"]
    config.train.max_iter = 7
    train(config, resume=True)
    # The end of the first part was saved as model_final.pth, which the end of the second replaced.
    assert names() == ["model_0000003.pth", "model_0000005.pth", "model_0099999.pth"]
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


def test_training_starts_from_weights_of_other_classes(weights, caplog):
    source, target = TinyModel(num_classes=80), TinyModel(num_classes=2)
    fresh = target.head["cls"].weight.detach().clone()
    path = weights(source.state_dict())
    with caplog.at_level(logging.INFO, LOGGER):
        start_from(TrainingCheckpointer(target), path, model_config())
    assert torch.equal(target.body[0].weight, source.body[0].weight)
    assert torch.equal(target.head["cls"].weight, fresh)
    (line,) = [record.message for record in caplog.records if record.name == LOGGER]
    assert line == (
        f"weights: 8 of 10 tensors from {path}; "
        "re-initialized for num_classes=2: head.cls.bias, head.cls.weight"
    )


def test_what_began_anew_and_what_was_left_over_is_said(weights, caplog):
    state = {k: v for k, v in TinyModel().state_dict().items() if k.startswith("body")}
    path = weights({**state, "fc.weight": torch.zeros(1)})
    with caplog.at_level(logging.INFO, LOGGER):
        start_from(TrainingCheckpointer(TinyModel()), path, model_config())
    assert "6 of 10 tensors" in caplog.text
    assert (
        "began anew: head.box (2), head.cls (2); in the file, not in the model: fc.weight (1)" in caplog.text
    )


def test_class_dependent_tensors_are_found():
    assert class_dependent(model_config()) == {"head.cls.weight", "head.cls.bias"}


def test_htc_starts_from_weights_of_other_semantic_maps(weights, caplog):
    leaf, predictor = "configs/htc/htc_r50_fpn_1x.py", "roi_heads.context.semantic.predictor"
    config = reduced_model(leaf)
    assert config.roi_heads.context.semantic.num_semantic_classes == 183
    path = weights(instantiate(config).state_dict())
    config.roi_heads.context.semantic.num_semantic_classes = 7
    target = instantiate(config)
    with caplog.at_level(logging.INFO, LOGGER):
        start_from(TrainingCheckpointer(target), path, config)
    said = f"; re-initialized for num_classes=4, num_semantic_classes=7: {predictor}.bias, {predictor}.weight"
    assert caplog.messages[-1].endswith(said)
    config.roi_heads.num_classes = 5
    start_from(TrainingCheckpointer(instantiate(config)), path, config)
    config.roi_heads.context.semantic.channels = 8
    with pytest.raises(UserError, match="of another architecture"):
        start_from(TrainingCheckpointer(instantiate(config)), path, config)


@pytest.mark.parametrize(
    "state, text",
    [
        (
            TinyModel(width=8).state_dict(),
            r"another architecture: body.0.bias is \(8,\) in the file and \(4,\)",
        ),
        ({"other.weight": torch.zeros(1)}, "no tensor of this model"),
    ],
)
def test_weights_of_another_model_are_refused(weights, state, text):
    with pytest.raises(UserError, match=text):
        start_from(TrainingCheckpointer(TinyModel()), weights(state), model_config())


def test_evaluation_needs_every_tensor(weights):
    state = TinyModel(num_classes=80).state_dict()
    with pytest.raises(UserError, match=r"head.cls.bias is \(81,\) in the file and \(3,\) in the model"):
        load_whole(TrainingCheckpointer(TinyModel()), weights(state), everything=False)
    state = {k: v for k, v in TinyModel().state_dict().items() if "head.box" not in k}
    with pytest.raises(UserError, match=r"lacks 2 tensors of the model: head.box \(2\)"):
        load_whole(TrainingCheckpointer(TinyModel()), weights(state), everything=False)


class TestBoxConvention:
    """What boxes mean is in no shape, so the files say it."""

    @pytest.fixture
    def model(self):
        model = TinyModel()
        model.roi_heads = nn.Module()
        model.box_convention = InclusiveBoxes()
        return model

    @pytest.mark.parametrize("save", ["save", "save_model"])
    def test_other_boxes_are_refused(self, model, tmp_path, save):
        getattr(TrainingCheckpointer(model, str(tmp_path)), save)("a", iteration=1)
        path = str(tmp_path / "a.pth")
        load_whole(TrainingCheckpointer(model), path, everything=False)
        start_from(TrainingCheckpointer(model), path, model_config())
        model.box_convention = ContinuousBoxes()
        text = r"a.pth was trained with InclusiveBoxes, but .* is ContinuousBoxes: .*; take a config"
        with pytest.raises(UserError, match=text):
            load_whole(TrainingCheckpointer(model), path, everything=False)
        with pytest.raises(UserError, match=text):
            start_from(TrainingCheckpointer(model), path, model_config())

    def test_what_does_not_tell_is_loaded(self, model, weights, tmp_path):
        load_whole(TrainingCheckpointer(model), weights(TinyModel().state_dict()), everything=False)
        TrainingCheckpointer(model, str(tmp_path)).save_model("a")
        load_whole(TrainingCheckpointer(TinyModel()), str(tmp_path / "a.pth"), everything=False)
        TrainingCheckpointer(TinyModel(), str(tmp_path)).save_model("b")
        assert set(torch.load(tmp_path / "b.pth")) == {"model"}


def test_damaged_missing_and_unconverted_files_are_named(tmp_path, weights, monkeypatch):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="cut.pth cannot be read"):
        load_whole(TrainingCheckpointer(TinyModel()), str(tmp_path / "cut.pth"), everything=False)
    with pytest.raises(UserError, match="no.pth does not exist"):
        check_weights_file(str(tmp_path / "no.pth"), "c.py")
    path = weights({})
    with pytest.raises(
        UserError, match=r"tools/convert_checkpoint.py --config-file c.py \S+s.pth \S+_converted.pth$"
    ):
        monkeypatch.setattr(weights_module, "find_unconverted", lambda path: ("HTD", ""))
        check_weights_file(path, "c.py")
    with pytest.raises(UserError, match="holds the weights of HTC: take others"):
        monkeypatch.setattr(weights_module, "find_unconverted", lambda path: ("HTC", "take others"))
        check_weights_file(path, "c.py")
    monkeypatch.setattr(weights_module, "find_unconverted", lambda path: None)
    for fine in (path, "", "imagenet://torchvision/resnet50"):
        check_weights_file(fine, "c.py")


NAN = torch.full((2,), torch.nan)


@pytest.mark.parametrize(
    "contents, text",
    [
        ({"epoch": 3}, "odd.pth holds no weights: give one that has tensors"),
        ({"model": {"a": 1}}, "odd.pth holds no weights"),
        ({"model": {**TinyModel().state_dict(), "epoch": 3}}, r"other values than tensors .*: epoch \(int\)"),
        ({"model": {"a": np.float64(1)}}, r"other objects than tensors .*numpy.*\): a published file"),
        (
            {"model": {**TinyModel().state_dict(), "body.0.bias": NAN, "x": NAN}},
            "finite: body.0.bias, x; take",
        ),
    ],
)
def test_odd_contents_are_named_in_one_line(tmp_path, contents, text):
    torch.save(contents, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=text) as caught:
        load_whole(TrainingCheckpointer(TinyModel()), str(tmp_path / "odd.pth"), everything=False)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


def test_weights_under_state_dict_are_taken(tmp_path):
    source, target = TinyModel(), TinyModel()
    torch.save({"state_dict": source.state_dict(), "meta": {}}, tmp_path / "a.pth")
    load_whole(TrainingCheckpointer(target), str(tmp_path / "a.pth"), everything=False)
    assert torch.equal(source.head["cls"].weight, target.head["cls"].weight)


@pytest.mark.parametrize("uri", ["foo://bar.pth", "catalog://foo", "imagenet://x"])
def test_addresses_that_lead_nowhere_are_named(uri):
    with pytest.raises(UserError, match="cannot be fetched|no ImageNet weights"):
        local_file(uri)
