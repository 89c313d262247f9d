"""A user's own files by flags."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from htd.engine.config import load_config
from htd.engine.config.own_data import OwnData, apply_own_data
from htd.engine.evaluation import Evaluation
from htd.errors import UserError


@pytest.fixture
def config():
    heads = {
        "num_classes": 80,
        "stages": [{"num_classes": 80}, {"num_classes": "${model.roi_heads.num_classes}"}],
    }
    node = {"name": "coco", "json_file": "coco/a.json", "image_root": "coco"}
    data = {"train": {"dataset": dict(node)}, "test": {"dataset": dict(node)}, "evaluator": {"name": "x"}}
    return DictConfig({"model": {"roi_heads": heads}, "dataloader": data})


def write_categories(file, *names):
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    image = {"id": 1, "file_name": "1.png", "height": 8, "width": 8}
    content = {"images": [image], "annotations": [], "categories": categories}
    Path(file).write_text(json.dumps(content))


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("train.json", "val.json"):
        write_categories(name, "cat", "dog", "emu")
    return ("train.json", "images"), ("val.json", "images")


def test_files_and_class_count_reach_every_place(config, files, tmp_path):
    line = apply_own_data(config, OwnData(*files))
    heads = config.model.roi_heads
    assert (heads.num_classes, heads.stages[0].num_classes, heads.stages[1].num_classes) == (3, 3, 3)
    assert heads.stages[1]._get_node("num_classes")._value() == "${model.roi_heads.num_classes}"
    train = config.dataloader.train.dataset
    assert (train.json_file, train.image_root) == (str(tmp_path / "train.json"), str(tmp_path / "images"))
    assert train.name != config.dataloader.test.dataset.name
    assert "3 classes (cat, dog, emu)" in line and "\n" not in line


@pytest.mark.parametrize(("leaf", "labels"), [("htc_r50_fpn_1x_instance_maps", 4), ("htc_r50_fpn_1x", 183)])
def test_masks_and_drawn_maps_follow_the_class_count(files, request, leaf, labels):
    config = load_config(str(request.config.rootpath / "configs" / "htc" / f"{leaf}.py"))
    apply_own_data(config, OwnData(*files))
    with torch.device("meta"):
        heads = instantiate(config.model.roi_heads)
    assert {head.predictor.out_channels for head in heads.mask_branch.heads} == {3}
    maps = instantiate(config.dataloader.train.mapper.semantic_maps)
    assert heads.context.semantic.num_labels == maps.channels == labels


def test_without_validation_data_nothing_is_evaluated(config, files):
    write_categories("train.json", "cat")
    line = apply_own_data(config, OwnData(train=files[0]))
    assert line.startswith("own data: 1 class (cat);") and "nothing is evaluated" in line
    assert config.dataloader.evaluator and config.dataloader.test.dataset.json_file is None
    assert not Evaluation(config.dataloader).build()


def test_a_config_without_test_data_takes_training_data(config, files):
    config.dataloader.test = None
    assert "nothing is evaluated" in apply_own_data(config, OwnData(train=files[0]))
    assert not Evaluation(config.dataloader).build()


def test_no_flags_change_nothing(config):
    before = config.copy()
    assert apply_own_data(config, OwnData()) == "" and config == before


@pytest.mark.parametrize(
    "data, text",
    [
        (OwnData(train=("no.json", "images")), "--train-json no.json is not a file"),
        (OwnData(val=("val.json", "none")), "--val-images none is not a folder"),
        (OwnData(("train.json", "images"), ("other.json", "images")), "the same categories"),
        (OwnData(train=("empty.json", "images")), "categories"),
    ],
)
def test_files_that_do_not_fit_are_named(config, files, data, text):
    write_categories("other.json", "cat", "emu", "dog")
    write_categories("empty.json")
    with pytest.raises(UserError, match=text):
        apply_own_data(config, data)
