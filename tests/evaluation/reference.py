"""COCO evaluation by pycocotools alone, and the implementations that are compared with it."""

import contextlib
import copy
import importlib.util
import io

import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

INSTALLED = [
    name
    for name, package in {"hotcoco": "hotcoco", "detectron2": "detectron2._C", "pycocotools": "numpy"}.items()
    if importlib.util.find_spec(package)
]
NUMBERS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def by_pycocotools(name, detections, task):
    """Return the 12 numbers and the AP of each class in percent, without any of our code."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(MetadataCatalog.get(name).json_file)
        kept = copy.deepcopy(detections)
        if task == "segm":
            for item in kept:
                item.pop("bbox", None)
        evaluation = COCOeval(truth, truth.loadRes(kept), task)
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    expected = dict(zip(NUMBERS, evaluation.stats * 100, strict=True))
    for number, category in enumerate(truth.cats.values()):
        values = precision[:, :, number]
        values = values[values > -1]
        expected[f"AP-{category['name']}"] = values.mean() * 100 if values.size else np.nan
    return {key: np.nan if value < 0 else value for key, value in expected.items()}
