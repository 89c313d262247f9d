"""Training and evaluation on toy data in OpenImages' official format, by the demo's leaf and the commands."""

import json
import math

import pytest
from omegaconf import OmegaConf

from htd.data.toy import make_toy_data, write_open_images
from htd.engine.config import load_config, save_config
from htd.engine.config.own_data import OwnData, apply_own_data
from htd.engine.run import train
from htd.errors import UserError
from tests.engine.test_resume import assert_equal, final
from tests.engine.tiny import Stop
from tests.static.source import ROOT
from tools import convert_open_images_results, evaluate_open_images

LEAF = "configs/demo/faster_rcnn_open_images_toy.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Return a data root with twelve training and four validation images."""
    folder = tmp_path_factory.mktemp("open_images")
    write_open_images(make_toy_data(folder / "toy", train=12, val=4))
    return folder


@pytest.fixture
def config(root, tmp_path, monkeypatch):
    """Return a function that loads the leaf, a short training of it on these data."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))

    def load(output, *overrides):
        short = ["train.max_iter=3", "train.eval_period=0", "train.log_period=1", "train.device=cpu"]
        small = ["dataloader.train.total_batch_size=2", "train.vis_period=0", "train.checkpointer.period=1"]
        names = [f"dataloader.{part}.dataset.name=oi_{root.name}_{part}" for part in ("train", "test")]
        flags = [f"train.output_dir={tmp_path / output}", "train.reference_batch_size=2"]
        return load_config(LEAF, [*short, *small, *names, *flags, *overrides])

    return load


def test_learns_resumes_and_is_evaluated(config, tmp_path, stop_after):
    train(config("whole"))
    records = [json.loads(line) for line in (tmp_path / "whole" / "metrics.json").read_text().splitlines()]
    assert all(math.isfinite(record["total_loss"]) for record in records if "total_loss" in record)
    assert "bbox/AP50" in records[-1] and (tmp_path / "whole" / "model_best.pth").is_file()
    log = (tmp_path / "whole" / "log.txt").read_text()
    assert "train-boxes.csv, images in " in log and "by PublishedRule over" in log

    stop_after(2)
    with pytest.raises(Stop):
        train(config("parts", "dataloader.evaluator=null"))
    train(config("parts", "dataloader.evaluator=null"), resume=True)
    assert_equal(final(config("whole")), final(config("parts")))

    # The file of detections gives the same result again, and other rules theirs.
    detections = tmp_path / "whole" / "inference" / "open_images_detections.txt"
    saved = tmp_path / "saved.yaml"
    save_config(config("whole"), saved)
    arguments = [str(detections), "--config-file", str(saved), "--output", str(tmp_path / "scores.json")]
    evaluate_open_images.main(arguments)
    assert json.loads((tmp_path / "scores.json").read_text())["bbox"]["AP50"] == pytest.approx(
        records[-1]["bbox/AP50"], abs=1e-3
    )
    evaluate_open_images.main([*arguments, "dataloader.evaluator.rule._target_=htd.evaluation.OfficialRule"])


def documented(root):
    """Return the overrides in the documentation that name files, here those below a data root."""
    text = (
        (ROOT / "docs/open_images.md").read_text().partition("T=$PWD/datasets/toy\n")[2].partition("\n\n")[0]
    )
    return [word.replace("$T", str(root / "toy")) for word in text.split() if "=" in word]


def test_documented_overrides_name_all_files(config, root, monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    train(config("mine", "train.max_iter=1", *documented(root)))
    records = [json.loads(line) for line in (tmp_path / "mine" / "metrics.json").read_text().splitlines()]
    assert "bbox/AP50" in records[-1]
    official = load_config("configs/baselines/faster_rcnn_r50_fpn_openimages.py", documented(root))
    assert "openimages/" not in str(OmegaConf.to_container(official.dataloader, resolve=True))


def test_perfect_results_of_coco_score_in_full(config, root, tmp_path):
    """The toy data's own boxes as results: every class is found; a group by one box around it."""
    truth = root / "toy" / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    keys = ("image_id", "category_id", "bbox")
    results = [{key: item[key] for key in keys} | {"score": 0.9} for item in content["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    classes = str(root / "toy" / "open_images" / "classes.csv")
    given = [str(tmp_path / "results.json"), str(tmp_path / "found.txt"), "--classes", classes]
    with pytest.raises(UserError, match="need --annotations"):
        convert_open_images_results.main(given)
    convert_open_images_results.main([*given, "--annotations", str(truth)])
    saved = tmp_path / "saved.yaml"
    save_config(config("run"), saved)
    scores = tmp_path / "scores.json"
    evaluate_open_images.main([given[1], "--config-file", str(saved), "--output", str(scores)])
    assert json.loads(scores.read_text())["bbox"]["AP50"] == pytest.approx(100)

    table = tmp_path / "found.csv"
    convert_open_images_results.main([given[1], str(table), "--classes", classes])
    assert len(table.read_text().splitlines()) == 1 + len(results) and "/m/" in table.read_text()
    with pytest.raises(UserError, match="are converted from .json or .txt to .txt or .csv"):
        convert_open_images_results.main([str(table), given[1], "--classes", classes])


def test_ones_own_coco_files_do_not_fit_these_data(config, root):
    data = OwnData(train=(str(root / "toy/annotations/instances_train.json"), str(root / "toy/train")))
    with pytest.raises(UserError, match="train data of this config are not in COCO's format"):
        apply_own_data(config("own"), data)


@pytest.mark.parametrize(
    ("leaf", "overrides"),
    [
        ("configs/demo/faster_rcnn_toy.py", []),
        (LEAF, ["dataloader.evaluator=null"]),
        (LEAF, ["dataloader.test=null"]),
    ],
)
def test_a_config_that_does_not_evaluate_open_images(leaf, overrides, tmp_path, monkeypatch):
    """That is said before any data are looked for."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match="toy.py has no OpenImagesEvaluator with test data; take a config"):
        evaluate_open_images.main([str(tmp_path / "found.txt"), "--config-file", leaf, *overrides])
