"""The implementations of COCO evaluation that may be installed, behind one call.

All give the same numbers; they differ in time and memory. Each takes ground truth as pycocotools'
``COCO`` object and detections as a list in COCO's result format, and changes neither.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from htd.errors import UserError


@dataclass(frozen=True)
class CocoScores:
    """Result of one evaluation, with the attributes that Detectron2 reads from a COCOeval."""

    stats: np.ndarray  # (12,) float64, the numbers of ``COCOeval.summarize``; -1 where undefined
    eval: dict[str, np.ndarray]  # "precision": IoU thresholds, recalls, classes, areas, detection caps


Evaluate = Callable[[COCO, list, str, "Sequence[int] | None"], CocoScores]


def choose_backend(name: str) -> tuple[str, Evaluate]:
    """Return a printable name and the evaluating function.

    Args:
        name: ``"hotcoco"``, ``"detectron2"`` (its compiled extension), ``"pycocotools"``, or ``"auto"`` for
            the first of these that is installed.
    """
    if name == "auto":
        name = next(key for key, (_, installed) in _BACKENDS.items() if installed())
    if name not in _BACKENDS:
        raise UserError(f"evaluation backend {name!r} is unknown; take auto or one of {', '.join(_BACKENDS)}")
    evaluate, installed = _BACKENDS[name]
    if not installed():
        raise UserError(f"evaluation backend {name!r} is not installed; take backend=auto")
    package = "detectron2._C" if name == "detectron2" else f"{name} {importlib.metadata.version(name)}"
    return package, evaluate


def _with_hotcoco(truth: COCO, detections: list, iou_type: str, image_ids) -> CocoScores:
    import hotcoco

    with quiet():
        hot = hotcoco.COCO(truth.dataset)
        return _run(hotcoco.COCOeval(hot, hot.loadRes(detections), iou_type), image_ids)


def _with_detectron2(truth: COCO, detections: list, iou_type: str, image_ids) -> CocoScores:
    from detectron2.evaluation.fast_eval_api import COCOeval_opt

    with quiet():
        return _run(COCOeval_opt(truth, _load_results(truth, detections), iou_type), image_ids)


def _with_pycocotools(truth: COCO, detections: list, iou_type: str, image_ids) -> CocoScores:
    with quiet():
        return _run(COCOeval(truth, _load_results(truth, detections), iou_type), image_ids)


_BACKENDS = {
    "hotcoco": (_with_hotcoco, lambda: importlib.util.find_spec("hotcoco") is not None),
    "detectron2": (_with_detectron2, lambda: importlib.util.find_spec("detectron2._C") is not None),
    "pycocotools": (_with_pycocotools, lambda: True),
}


def _load_results(truth: COCO, detections: list) -> COCO:
    """Return detections as a ``COCO`` object; pycocotools' own function fails where there are none."""
    if detections:
        return truth.loadRes([dict(item) for item in detections])
    empty = COCO()
    empty.dataset = {key: truth.dataset[key] for key in ("images", "categories")} | {"annotations": []}
    empty.createIndex()
    return empty


def _run(evaluation, image_ids: Sequence[int] | None) -> CocoScores:
    if image_ids is not None:
        evaluation.params.imgIds = list(image_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return CocoScores(np.asarray(evaluation.stats), {"precision": np.asarray(evaluation.eval["precision"])})


def quiet():
    """Return a context in which what the packages print is dropped."""
    return contextlib.redirect_stdout(io.StringIO())
