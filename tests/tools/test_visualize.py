"""The command that draws what a model finds: its pictures, its options, and what it refuses."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate

from htd.engine.config import load_config
from htd.errors import UserError
from htd.visualize import draw_model
from tests.static.source import ROOT
from tools import visualize

LEAF, OTHER = str(ROOT / "configs/demo/faster_rcnn_toy.py"), str(ROOT / "configs/demo/cascade_rcnn_toy.py")
CPU, CLASSES = "train.device=cpu", ["disc", "square", "triangle", "star", "plus", "bowtie"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, random weights of the leaf, and the names of its classes, if one looks there."""
    folder = tmp_path_factory.mktemp("visualize")
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(LEAF).model)
    torch.save({"model": model.state_dict()}, folder / "weights.pth")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        image = generator.integers(0, 256, (12, 18, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / name), cv2.resize(image, (180, 120)))
    (folder / "data/toy/annotations").mkdir(parents=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": [], "annotations": [], "categories": categories}
    (folder / "data/toy/annotations/instances_val.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(autouse=True)
def data(folder, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "data"))


def flags(folder, output, *more, config=LEAF, checkpoint="weights.pth", images="images"):
    files = ["--checkpoint", str(folder / checkpoint), "--input", str(folder / images)]
    return ["--config-file", config, *files, "--output", str(output), *more]


def test_pictures_are_those_of_the_configured_input(folder, tmp_path):
    """The model sees what the test mapper makes of an image; what is found is drawn on the image itself."""
    change = "dataloader.test.mapper.augmentations=[{_target_: htd.data.ResizeCV2,"
    change += "short_edge_length: 96,max_size: 200}]"
    options = ["--score-threshold", "0.05", "--max-objects", "4", CPU, change]
    visualize.main(flags(folder, tmp_path / "new" / "out", *options))
    assert sorted(os.listdir(tmp_path / "new" / "out")) == ["a_detections.jpg", "b_detections.jpg"]
    config = load_config(LEAF, [CPU, change])
    model = visualize.load_model(config, LEAF, str(folder / "weights.pth")).eval()
    image = cv2.cvtColor(cv2.imread(str(folder / "images" / "b.png")), cv2.COLOR_BGR2RGB)
    small = torch.from_numpy(cv2.resize(image, (144, 96)).transpose(2, 0, 1).copy())
    inputs = {"image": small, "height": 120, "width": 180}
    expected = draw_model(model, inputs, image, CLASSES, score_threshold=0.05, max_objects=4)["detections"]
    picture = cv2.imread(str(tmp_path / "new/out/b_detections.jpg"))[..., ::-1].astype(int)
    assert picture.shape == expected.shape == (24 + 320, 480, 3)
    assert np.abs(picture - expected).mean() < 2
    without = draw_model(model, inputs, image, CLASSES, score_threshold=1.0)["detections"]
    assert np.abs(picture - without).mean() > 4


@pytest.mark.parametrize(
    ("leaf", "name", "width"),
    [("tsd_faster_toy", "tsd", 724), ("htd_toy", "htd", 724), ("htc_toy", "htc", 4 * 364 - 4)],
)
def test_systems_have_pictures_of_their_own(folder, tmp_path, leaf, name, width):
    leaf = str(ROOT / f"configs/demo/{leaf}.py")
    torch.manual_seed(0)
    model = instantiate(LazyConfig.load(leaf).model)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    arguments = ["--config-file", leaf, "--checkpoint", str(tmp_path / "weights.pth"), "--output"]
    more = [str(tmp_path / "out"), "--input", str(folder / "images/a.jpg"), "--max-regions", "2", CPU]
    visualize.main([*arguments, *more, "--score-threshold", "0"])
    assert sorted(os.listdir(tmp_path / "out")) == ["a_detections.jpg", f"a_{name}.jpg"]
    assert cv2.imread(str(tmp_path / f"out/a_{name}.jpg")).shape[1] == width


def test_overrides_may_stand_behind_the_input(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=1.jpg").touch()
    start = ["--config-file", LEAF, "--checkpoint", "w"]
    read = visualize.parse_arguments([*start, "--input", "a.jpg", "x=1.jpg", CPU])
    assert read.input == ["a.jpg", "x=1.jpg"] and read.overrides == [CPU]
    read = visualize.parse_arguments([CPU, *start, "--input", "a", "--input", "b", "--output", "o", "k=v"])
    assert read.input == ["a", "b"] and read.overrides == [CPU, "k=v"]
    with pytest.raises(SystemExit):
        visualize.parse_arguments([*start, "--input", CPU])
    assert "--input names no image and no folder" in capsys.readouterr().err


def test_names_of_the_classes(folder, monkeypatch, caplog):
    config = load_config(LEAF, [CPU])
    assert visualize.class_names(config) == CLASSES
    config.model.roi_heads.num_classes = 3  # the weights are of other data than the config's
    with caplog.at_level("WARNING", "htd.visualize"):
        assert visualize.class_names(config) == []
    assert "6 classes, the model has another number" in caplog.text
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder / "nowhere"))
    assert visualize.class_names(load_config(LEAF, [CPU])) == []
    coco = load_config(str(ROOT / "configs/baselines/faster_rcnn_r50_fpn_1x.py"))
    assert visualize.class_names(coco)[:2] == ["person", "bicycle"]


def test_names_of_open_images(tmp_path):
    (tmp_path / "classes.csv").write_text("/m/01,Disc\n/m/02,Square\n")
    file = f"dataloader.train.dataset.classes_file={tmp_path}/classes.csv"
    leaf = str(ROOT / "configs/baselines/faster_rcnn_r50_fpn_openimages.py")
    config = load_config(leaf, [file, "model.roi_heads.num_classes=2"])
    assert visualize.class_names(config) == ["Disc", "Square"]


@pytest.fixture(scope="module")
def bad(folder):
    """Files that are not what they should be."""
    (folder / "bad.pth").write_bytes(b"no checkpoint")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "x.jpg").write_bytes(b"no image")
    head = {"roi_head.bbox_head.fc_cls.weight": torch.zeros(7, 4), "backbone.conv1.weight": torch.zeros(1)}
    published = {name: torch.zeros(1) for name in ("backbone.layer1.0.conv1.weight", "rpn_head.rpn_cls.bias")}
    torch.save({"state_dict": head | published}, folder / "published.pth")
    return folder


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"images": "no.jpg"}, "no.jpg does not exist"),
        ({"images": "empty"}, "empty holds no image"),
        ({"checkpoint": "no.pth"}, "--checkpoint .*no.pth is not a file: name the weights"),
        ({"checkpoint": "images"}, "--checkpoint .*images is not a file: name the weights"),
        ({"checkpoint": "bad.pth"}, "bad.pth is truncated, damaged or no PyTorch checkpoint"),
        ({"checkpoint": "published.pth"}, "published weights .* were not converted; convert them first"),
        ({"config": OTHER}, "weights.pth does not fit the model|weights.pth lacks .* tensors of the model"),
        ({"config": "configs/no.py"}, "config configs/no.py does not exist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(bad, tmp_path, what, words):
    with pytest.raises(UserError, match=words):
        visualize.main(flags(bad, tmp_path / "out", CPU, **what))
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_leaves_the_pictures_before_it_whole(bad, tmp_path):
    arguments = flags(bad, tmp_path / "out", "--input", str(bad / "broken"), CPU)
    with pytest.raises(UserError, match="x.jpg cannot be decoded"):
        visualize.main(arguments)
    assert sorted(os.listdir(tmp_path / "out")) == ["a_detections.jpg", "b_detections.jpg"]
    assert all(cv2.imread(str(path)) is not None for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--score-threshold", "1.5"], "--score-threshold has to be between 0 and 1"),
        (["--max-regions", "0"], "--max-regions at least 1"),
        (["dataloader.test=null"], "no dataloader.test.mapper, which prepares images"),
        (["train.device=nonsense"], "names no device"),
    ],
)
def test_options_are_checked(folder, tmp_path, more, words):
    with pytest.raises(UserError, match=words):
        visualize.main(flags(folder, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_at_the_shell_a_mistake_is_one_line(folder, tmp_path):
    command = [sys.executable, str(ROOT / "tools/visualize.py"), *flags(folder, tmp_path, images="no")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (f"error: input {folder}/no does not exist; name an image or a folder of images\n")
