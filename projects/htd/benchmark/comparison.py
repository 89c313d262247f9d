"""Trains small forms of the systems and of the detectors they change on toy data, and measures them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig
from torch import nn

from htd.analysis import Boxes, correlate, match
from htd.benchmark import ROOT
from htd.benchmark.measure import side_by_side
from htd.benchmark.training_runs import read_json, run_training, write_json
from htd.checkpoint.training import TrainingCheckpointer
from htd.checkpoint.weights import load_whole
from htd.data.toy import make_toy_data
from htd.engine.config import load_config
from htd.engine.evaluation import Evaluation
from htd.engine.run import build_model
from htd.errors import UserError

LEAST_IOUS = (0.1, 0.5)  # of boxes that enter a correlation; the first is that of the table
LEAST_SCORE = 0.05
UNLIMITED = 1_000_000
FINAL, LATEST = "model_final.pth", "last_checkpoint"


@dataclass(frozen=True)
class Form:
    """A small form of a detector.

    Attributes:
        title: its name in tables.
        config: name of its config under ``configs/demo``, without the ending.
        fractions: key of the config -> fraction of the iterations that it is set to, for values that do not
            follow the length of the training by themselves.
    """

    title: str
    config: str
    fractions: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def path(self) -> Path:
        """The config file."""
        return ROOT / "configs" / "demo" / f"{self.config}.py"


class Pair(NamedTuple):
    """A system and the detector that it changes."""

    system: Form
    baseline: Form


# TOOD's assignment changes after a third of the training, as in the published one.
PAIRS = {
    "htd": Pair(Form("HTD", "htd_toy"), Form("Cascade R-CNN", "cascade_rcnn_toy")),
    "tsd": Pair(Form("TSD", "tsd_faster_toy"), Form("Faster R-CNN", "faster_rcnn_toy")),
    "htc": Pair(Form("HTC", "htc_toy"), Form("Cascade Mask R-CNN", "cascade_mask_rcnn_toy")),
    "tood": Pair(Form("TOOD", "tood_toy", {"model.criterion.switch_iter": 1 / 3}), Form("ATSS", "atss_toy")),
    "salt": Pair(Form("SALT-Net", "salt_toy"), Form("GFL", "gfl_toy")),
}


class Training(NamedTuple):
    """One training of the comparison."""

    form: Form
    strength: float
    seed: int

    def __str__(self) -> str:
        return f"{self.form.config}, strength {self.strength:g}, seed {self.seed}"


@dataclass(frozen=True)
class Lengths:
    """What all trainings of a comparison have in common.

    Attributes:
        iterations: of each training; as all configs have the same batch size, also the number of images.
        train, val: numbers of training and validation images.
        overrides: changes of all configs.
    """

    iterations: int
    train: int
    val: int
    overrides: list[str]


class Comparison:
    """A folder of trainings, their data and what was measured.

    Args:
        output: the folder.
        lengths: of all trainings.
    """

    def __init__(self, output: Path, lengths: Lengths):
        self.output = output
        self.lengths = lengths

    def check_lengths(self) -> None:
        """Record the lengths, and refuse others once a training has a checkpoint.

        Raises:
            UserError: the folder has trainings of other lengths.
        """
        record = self.output / "settings.json"
        begun = [file for name in (FINAL, LATEST) for file in (self.output / "cells").rglob(name)]
        known = read_json(record) if begun and record.is_file() else None
        if known not in (None, asdict(self.lengths)):
            raise UserError(
                f"{self.output} has trainings with {known}; give the same flags or another --output"
            )
        if known is None:
            write_json(record, asdict(self.lengths))

    def folder(self, training: Training) -> Path:
        """Return the folder of a training and its results."""
        names = training.form.config, f"strength-{training.strength:g}", f"seed-{training.seed}"
        return self.output.joinpath("cells", *names)

    def result_file(self, training: Training) -> Path:
        """Return the file that marks a training as finished."""
        return self.folder(training) / "result.json"

    def results(self, trainings: Sequence[Training]) -> dict[Training, dict]:
        """Return what was measured of the finished trainings."""
        files = {training: self.result_file(training) for training in trainings}
        return {training: read_json(file) for training, file in files.items() if file.is_file()}

    def make_data(self, strength: float) -> Path:
        """Make the toy data of a strength unless they exist; returns the folder above them.

        The layout of the images is the same at all strengths.
        """
        folder = self.output / "datasets" / f"strength-{strength:g}"
        sizes = {"train": self.lengths.train, "val": self.lengths.val}
        make_toy_data(folder / "toy", strength=strength, seed=0, **sizes)
        return folder

    def train(self, training: Training) -> None:
        """Train unless that is done; a training that was stopped is resumed.

        The seed decides the initial weights and the order of the images.
        """
        folder = self.folder(training) / "train"
        if (folder / FINAL).is_file():
            return
        arguments = ["--resume"] if (folder / LATEST).is_file() else []
        arguments += [*self.lengths.overrides, *length_overrides(training.form, self.lengths.iterations)]
        arguments.append(f"train.seed={training.seed}")
        data, log = self.make_data(training.strength), self.folder(training) / "train_net.log"
        run_training(training.form.path, folder, data, arguments, log=log)

    def measure(self, training: Training) -> dict:
        """Measure a trained model and keep the result.

        Returns:
            ``AP``, ``AP50``, ``AP75`` of boxes in percent, ``parameters``, ``candidates``, and
            ``correlation``: least IoU -> ``pearson``, ``spearman``, ``n``.
        """
        config = self.trained_config(training)
        model = load_model(config)
        scores = Evaluation(config.dataloader)(model)["bbox"]
        keep_candidates(config.model)
        candidates, candidate_scores = find_candidates(load_model(config), config)
        objects, crowd = read_objects(Path(config.dataloader.test.dataset.json_file))
        matches = match(candidates, objects, crowd)
        counted = ~matches.in_crowd
        result = {name: scores[name] for name in ("AP", "AP50", "AP75")}
        result["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        result["candidates"] = len(candidate_scores)
        result["correlation"] = {
            f"{least:g}": correlate(
                candidate_scores[counted], matches.ious[counted], least_iou=least
            )._asdict()
            for least in LEAST_IOUS
        }
        write_json(self.result_file(training), result)
        return result

    def trained_config(self, training: Training) -> DictConfig:
        """Return the config of a trained model, with the evaluator and the test data of the comparison."""
        config = load_config(str(self.folder(training) / "train" / "config.yaml"))
        config.dataloader.evaluator = load_config(str(training.form.path)).dataloader.evaluator
        toy = self.make_data(training.strength) / "toy"
        file = str(toy / "annotations/instances_val.json")
        # In Detectron2's catalogs a name stands for one file, and each strength has its own.
        config.dataloader.test.dataset.update(name=file, json_file=file, image_root=str(toy / "val"))
        return config

    def times(self, setup: dict[str, float], forms: Sequence[Form]) -> dict:
        """Return the last measurement of times; empty if it had another setup or not all forms.

        Returns:
            ``setup``, and ``seconds``: name of a config -> seconds per image.
        """
        file = self.output / "times.json"
        known = read_json(file) if file.is_file() else {}
        complete = known.get("setup") == setup and {form.config for form in forms} <= known["seconds"].keys()
        return known if complete else {}

    def measure_times(self, setup: dict[str, float], forms: Sequence[Form]) -> None:
        """Measure the time per image of trained models, in turns, and keep it.

        Args:
            setup: ``strength`` and ``seed`` of the trainings; ``images`` and ``rounds`` to measure.
            forms: of the models.
        """
        trainings = [Training(form, setup["strength"], setup["seed"]) for form in forms]
        configs = [self.trained_config(training) for training in trainings]
        values = seconds_per_image(configs, setup["images"], setup["rounds"])
        seconds = {form.config: value for form, value in zip(forms, values, strict=True)}
        write_json(self.output / "times.json", {"setup": setup, "seconds": seconds})


def all_trainings(systems: Sequence[str], strengths: Sequence[float], seeds: Sequence[int]) -> list[Training]:
    """Return the trainings in their order: all systems with one seed before the next seed."""
    pairs = [PAIRS[name] for name in systems]
    return [Training(form, s, seed) for seed in seeds for pair in pairs for s in strengths for form in pair]


def length_overrides(form: Form, iterations: int) -> list[str]:
    """Return the overrides that set the length of a training and leave out evaluations and pictures."""
    values = {
        "train.max_iter": iterations,
        "train.checkpointer.period": max(iterations // 4, 1),
        "train.checkpointer.max_to_keep": 1,
        "train.eval_period": 0,
        "train.vis_period": 0,
        "dataloader.evaluator": "null",
    }
    values |= {key: int(fraction * iterations) for key, fraction in form.fractions.items()}
    return [f"{key}={value}" for key, value in values.items()]


def load_model(config: DictConfig) -> nn.Module:
    """Return a trained model in evaluation mode."""
    model = build_model(config)
    load_whole(TrainingCheckpointer(model), str(Path(config.train.output_dir) / FINAL), everything=False)
    return model.eval()


def keep_candidates(node: DictConfig | ListConfig) -> None:
    """Change the config of a model, in place, so that it returns all pairs above a score, none suppressed."""
    if isinstance(node, DictConfig):
        if "score_threshold" in node:
            values = {"score_threshold": LEAST_SCORE, "topk": UNLIMITED}
            node.update({key: value for key, value in values.items() if key in node})
        if "max_detections" in node:
            node.max_detections = UNLIMITED
            node.nms.iou_threshold = 1.0
    for child in node.values() if isinstance(node, DictConfig) else node:
        if isinstance(child, DictConfig | ListConfig):
            keep_candidates(child)


@torch.no_grad()
def find_candidates(model: nn.Module, config: DictConfig) -> tuple[Boxes, np.ndarray]:
    """Return the boxes on the test data of a model changed by :func:`keep_candidates`, and their scores."""
    images, classes, corners, scores = [], [], [], []
    for batch in instantiate(config.dataloader.test):
        for single, output in zip(batch, model(batch), strict=True):
            instances = output["instances"].to("cpu")
            # A score can be a product of which the model compares only one factor with the threshold.
            instances = instances[instances.scores > LEAST_SCORE]
            images.append(np.full(len(instances), single["image_id"]))
            classes.append(instances.pred_classes.numpy())
            corners.append(instances.pred_boxes.tensor.numpy())
            scores.append(instances.scores.numpy())
    boxes = Boxes(np.concatenate(images), np.concatenate(classes), np.concatenate(corners))
    return boxes, np.concatenate(scores)


def read_objects(json_file: Path) -> tuple[Boxes, np.ndarray]:
    """Return the objects of a COCO file in the order of their ids, and which are crowd regions (G,) bool."""
    content = json.loads(json_file.read_text())
    classes = {key: i for i, key in enumerate(sorted(entry["id"] for entry in content["categories"]))}
    entries = sorted(content["annotations"], key=lambda entry: entry["id"])
    corners = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    images = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
    class_index = np.array([classes[entry["category_id"]] for entry in entries], dtype=np.int64)
    crowd = np.array([entry["iscrowd"] for entry in entries], dtype=bool)
    return Boxes(images, class_index, corners), crowd


def seconds_per_image(configs: list[DictConfig], images: int, rounds: int) -> list[float]:
    """Return the median time per image of each trained model, given one image at a time."""
    device = torch.device(configs[0].train.device)
    inputs = [single for batch in instantiate(configs[0].dataloader.test) for single in batch][:images]
    runs = [partial(_run, load_model(config), inputs) for config in configs]
    side_by_side(runs, 1, device)  # warm-up
    return [time / len(inputs) for time in side_by_side(runs, rounds, device)]


@torch.no_grad()
def _run(model: nn.Module, inputs: list[dict]) -> None:
    for single in inputs:
        model([single])
