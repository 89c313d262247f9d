"""Measures one trained cell of the comparison: box AP, parameters, and how scores and IoUs agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig
from torch import nn

from benchmark_measure import side_by_side
from compare_cells import Cell
from compare_train import FINAL
from htd.analysis import Boxes, correlate, match
from htd.engine.checkpoint import TrainingCheckpointer
from htd.engine.config import load_config
from htd.engine.evaluation import Evaluation
from htd.engine.run import build_model
from htd.engine.weights import load_whole

LEAST_IOUS = (0.1, 0.5)  # of detections that count; the first gives the figures of the table
_LEAST_SCORE = 0.05
_ALL = 1_000_000  # more than there are


def trained_config(cell: Cell, output: Path, data: Path) -> DictConfig:
    """Return the config of a trained cell, with an evaluation, its test data under a name of their own."""
    config = load_config(str(cell.folder(output) / "train" / "config.yaml"))
    config.dataloader.evaluator = load_config(str(cell.form.path)).dataloader.evaluator
    file = str(data / "toy/annotations/instances_val.json")
    # In Detectron2's catalogs a name stands for one set of files, and here are several.
    config.dataloader.test.dataset.update(name=file, json_file=file, image_root=str(data / "toy/val"))
    return config


def load_model(config: DictConfig) -> nn.Module:
    """Return a trained model in evaluation mode."""
    model = build_model(config)
    load_whole(TrainingCheckpointer(model), str(Path(config.train.output_dir) / FINAL), everything=False)
    return model.eval()


def measure_cell(cell: Cell, output: Path, data: Path) -> dict:
    """Return what is measured of a trained cell.

    Returns:
        ``AP``, ``AP50``, ``AP75`` of boxes in percent, ``parameters``, ``candidates``, and ``correlation``:
        least IoU -> ``pearson``, ``spearman``, ``n``.
    """
    config = trained_config(cell, output, data)
    model = load_model(config)
    scores = Evaluation(config.dataloader)(model)["bbox"]
    keep_candidates(config.model)
    found, candidate_scores = find_candidates(load_model(config), config)
    objects, crowd = read_objects(Path(config.dataloader.test.dataset.json_file))
    matches = match(found, objects, crowd)
    counted = ~matches.in_crowd
    correlation = {
        f"{least:g}": correlate(candidate_scores[counted], matches.ious[counted], least_iou=least)._asdict()
        for least in LEAST_IOUS
    }
    return {
        **{name: scores[name] for name in ("AP", "AP50", "AP75")},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "candidates": len(candidate_scores),
        "correlation": correlation,
    }


def keep_candidates(node: DictConfig | ListConfig) -> None:
    """Change a model's config, in place, so that it gives all pairs above a score, none of them suppressed.

    Whatever has a score threshold chooses candidates, and whatever has a bound of detections suppresses.
    """
    if isinstance(node, DictConfig):
        if "score_threshold" in node:
            node.update({key: value for key, value in _CANDIDATES.items() if key in node})
        if "max_detections" in node:
            node.max_detections = _ALL
            node.nms.iou_threshold = 1.0
    for child in node.values() if isinstance(node, DictConfig) else node:
        if isinstance(child, DictConfig | ListConfig):
            keep_candidates(child)


_CANDIDATES = {"score_threshold": _LEAST_SCORE, "topk": _ALL}


def find_candidates(model: nn.Module, config: DictConfig) -> tuple[Boxes, np.ndarray]:
    """Return the candidates of a model of :func:`keep_candidates` on the test data, and their scores."""
    images, classes, corners, scores = [], [], [], []
    for batch, outputs in _outputs(model, config):
        for single, output in zip(batch, outputs, strict=True):
            instances = output["instances"].to("cpu")
            # A score can be a product of which the threshold has seen one factor.
            instances = instances[instances.scores > _LEAST_SCORE]
            images.append(np.full(len(instances), single["image_id"]))
            classes.append(instances.pred_classes.numpy())
            corners.append(instances.pred_boxes.tensor.numpy())
            scores.append(instances.scores.numpy())
    boxes = Boxes(np.concatenate(images), np.concatenate(classes), np.concatenate(corners))
    return boxes, np.concatenate(scores)


def _outputs(model: nn.Module, config: DictConfig) -> Iterator[tuple[list[dict], list[dict]]]:
    with torch.no_grad():
        for batch in instantiate(config.dataloader.test):
            yield batch, model(batch)


def read_objects(json_file: Path) -> tuple[Boxes, np.ndarray]:
    """Return the objects of a COCO file in the order of their ids, and which are crowd regions (G,) bool."""
    content = json.loads(json_file.read_text())
    classes = {key: i for i, key in enumerate(sorted(entry["id"] for entry in content["categories"]))}
    entries = sorted(content["annotations"], key=lambda entry: entry["id"])
    corners = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    images = np.array([entry["image_id"] for entry in entries], dtype=np.int64)
    of_class = np.array([classes[entry["category_id"]] for entry in entries], dtype=np.int64)
    crowd = np.array([entry["iscrowd"] for entry in entries], dtype=bool)
    return Boxes(images, of_class, corners), crowd


def seconds_per_image(configs: list[DictConfig], images: int, rounds: int) -> list[float]:
    """Return the median time of each trained model for an image; they take turns, image by image alone."""
    device = torch.device(configs[0].train.device)
    inputs = []
    for batch in instantiate(configs[0].dataloader.test):
        inputs += batch
    inputs = inputs[:images]
    runs = [partial(_run, load_model(config), inputs) for config in configs]
    side_by_side(runs, 1, device)  # for warmth
    return [time / len(inputs) for time in side_by_side(runs, rounds, device)]


def _run(model: nn.Module, inputs: list[dict]) -> None:
    with torch.no_grad():
        for single in inputs:
            model([single])
