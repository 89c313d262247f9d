"""Evaluation on OpenImages: mean average precision by a named rule."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from htd.errors import UserError
from htd.evaluation.open_images_results import Detections, check_classes, write_detections
from htd.evaluation.open_images_scores import BoxTable, OfficialRule, OpenImagesTruth, PublishedRule, score

_LOGGER = logging.getLogger(__name__)


class OpenImagesEvaluator(DatasetEvaluator):
    """AP at one IoU with classes expanded along the hierarchy and groups of objects, see ``score_classes``.

    ``evaluate()`` returns under ``bbox``, in percent: AP50 (mean over the classes that have objects), AR50
    (the share of the objects that is found, mean over classes), MeanRecall50 (of the published evaluator: the
    mean of the recalls after each detection) and AP50-<class>, NaN for classes without objects; 50 stands for
    the rule's IoU in percent.

    Args:
        dataset_name: a data set that ``open_images_dataset`` has registered.
        rule: ``PublishedRule()`` or ``OfficialRule()``.
        distributed: gather the predictions of all ranks.
        output_dir: keep ``open_images_detections.txt``, the published text of detections, there.
    """

    def __init__(
        self,
        dataset_name: str,
        rule: PublishedRule | OfficialRule,
        *,
        distributed: bool = True,
        output_dir: str | None = None,
    ):
        metadata = MetadataCatalog.get(dataset_name) if dataset_name in DatasetCatalog.list() else None
        if metadata is None or metadata.get("class_ancestors") is None:
            raise UserError(
                f"data set {dataset_name!r} is no OpenImages data that were loaded; correct "
                "dataloader.evaluator.dataset_name or dataloader.test"
            )
        self.dataset_name, self.rule = dataset_name, rule
        self.distributed, self.output_dir = distributed, output_dir
        self.names = list(metadata.thing_classes)
        self._end = float(metadata.inclusive_ends)
        self._truth = read_truth(DatasetCatalog.get(dataset_name), metadata.class_ancestors, self._end)
        self._predictions: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the outputs of a model for some images.

        Args:
            inputs: dicts with ``image_id``, ``height`` and ``width``.
            outputs: dicts with ``instances``, which have ``pred_boxes`` in pixels of that size, ``scores``
                and ``pred_classes``.
        """
        for single, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            boxes = instances.pred_boxes.tensor.double().numpy()
            boxes = relative(boxes, single["height"], single["width"], self._end)
            scores, classes = instances.scores.double().numpy(), instances.pred_classes.numpy()
            self._predictions.append((single["image_id"], boxes, scores, classes))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Score the predictions of all ranks; {} on all but the main process."""
        predictions = self._predictions
        if self.distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        return self.score(self._detections(predictions))

    def score(self, detections: Detections) -> dict[str, dict[str, float]]:
        """Score detections, however they were made, and keep them as ``evaluate`` does."""
        check_classes(detections.table, len(self.names), self.dataset_name)
        if self.output_dir:
            path = Path(self.output_dir) / "open_images_detections.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            _LOGGER.info("results are kept in %s", path)
            write_detections(path, detections)
        if not len(detections.table):
            _LOGGER.warning("no detections at all, so every AP is 0; is the score threshold too high?")
        scores = score(self._truth, self._numbered(detections), self.rule)
        with_objects = scores.objects > 0
        iou = f"{100 * self.rule.iou_threshold:g}"
        means = {f"AP{iou}": scores.ap, f"AR{iou}": scores.recall, f"MeanRecall{iou}": scores.mean_recall}
        result = {
            key: float(100 * values[with_objects].mean()) if with_objects.any() else float("nan")
            for key, values in means.items()
        }
        text = ", ".join(f"{key} {value:.2f}" for key, value in result.items())
        where = f"{self.dataset_name} by {type(self.rule).__name__}"
        _LOGGER.info("%s over %d classes with objects: %s", where, with_objects.sum(), text)
        result |= {f"AP{iou}-{name}": float(100 * ap) for name, ap in zip(self.names, scores.ap, strict=True)}
        return {"bbox": result}

    def _detections(self, predictions: list[tuple]) -> Detections:
        """Return the predictions of all images as one table."""
        ids = [prediction[0] for prediction in predictions]
        twice = [image for image, times in Counter(ids).items() if times > 1]
        if twice:
            raise UserError(f"images {twice[:5]} were predicted twice; reset the evaluator between runs")
        if not predictions:
            return Detections([], BoxTable(*(np.zeros(0, int),) * 2, np.zeros((0, 4)), np.zeros(0)))
        boxes, scores, classes = (np.concatenate(parts) for parts in list(zip(*predictions, strict=True))[1:])
        images = np.repeat(np.arange(len(ids)), [len(prediction[2]) for prediction in predictions])
        wrong = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & np.isfinite(scores)))
        if len(wrong):
            raise UserError(
                f"image {ids[images[wrong[0]]]} has a detection that is not finite; are the weights?"
            )
        return Detections(ids, BoxTable(images, classes, boxes, scores))

    def _numbered(self, detections: Detections) -> BoxTable:
        """Return the detections with the data set's numbers of images; unknown images come after these."""
        numbers = {identifier: number for number, identifier in enumerate(self._truth.ids)}
        unknown = [identifier for identifier in detections.ids if identifier not in numbers]
        if unknown:
            first = ", ".join(unknown[:3])
            _LOGGER.warning("%d images are not in %s (first: %s)", len(unknown), self.dataset_name, first)
            numbers |= {identifier: len(numbers) + k for k, identifier in enumerate(unknown)}
        table = detections.table
        places = np.array([numbers[identifier] for identifier in detections.ids], np.int64)
        return BoxTable(places[table.images], table.classes, table.boxes, table.values)


def relative(boxes: np.ndarray, height: float, width: float, end: float) -> np.ndarray:
    """Return boxes (N, 4) in parts of an image's sides, after taking ``end`` pixels off their x2 and y2."""
    return (boxes - [0.0, 0.0, end, end]) / [width, height, width, height]


def read_truth(records: Sequence[dict], ancestors: Sequence[Sequence[int]], end: float) -> OpenImagesTruth:
    """Return the ground truth in the records of ``open_images_dataset``.

    Args:
        records: the data set.
        ancestors: for each class its own number and those of the classes above it.
        end: how many pixels the records' boxes reach beyond the annotated ends.
    """
    ids, boxes, objects, labels = [], [np.zeros((0, 4))], [], ([], [])
    for image, record in enumerate(records):
        ids.append(record["image_id"])
        items = record["annotations"]
        pixels = np.array([item["bbox"] for item in items], float).reshape(-1, 4)
        boxes.append(relative(pixels, record["height"], record["width"], end))
        objects += [(image, item["category_id"], item["is_group"]) for item in items]
        for key, verified in zip(("positive_classes", "negative_classes"), labels, strict=True):
            verified += [(image, number) for number in record[key]]
    images, classes, groups = np.array(objects, np.int64).reshape(-1, 3).T
    matrix = np.zeros((len(ancestors), len(ancestors)), bool)
    for number, above in enumerate(ancestors):
        matrix[number, above] = True
    positives, negatives = (np.array(verified, np.int64).reshape(-1, 2) for verified in labels)
    table = BoxTable(images, classes, np.concatenate(boxes), groups.astype(bool))
    return OpenImagesTruth(ids, table, positives, negatives, matrix)
