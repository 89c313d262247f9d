"""COCO evaluation: Detectron2's evaluator behind a fast implementation, with faulty input refused."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator as Detectron2COCOEvaluator
from detectron2.utils.logger import create_small_table

from htd.errors import UserError
from htd.evaluation.backends import choose_backend
from htd.evaluation.task_annotations import TASKS, TaskAnnotations
from htd.files import write_file

_RECALLS = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


class COCOEvaluator(Detectron2COCOEvaluator):
    """Box and mask AP of COCO-format data.

    ``evaluate()`` returns for each task AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl
    and AP-<class>, in percent; NaN where there is no ground truth, 0 where there are no detections. Call it
    in the main process only: hotcoco hangs in a process that was forked from one that has used it.
    :class:`TaskAnnotations` says what counts in which task.

    Args:
        dataset_name: a data set in Detectron2's catalogs.
        tasks: ``"bbox"``, ``"segm"`` or a sequence of both; by default what predictions and annotations
            hold.
        distributed: gather the predictions of all ranks.
        output_dir: keep ``coco_instances_results.json`` (original category ids) there.
        backend: ``"auto"``, ``"hotcoco"``, ``"detectron2"`` or ``"pycocotools"``; the last is the
            reference implementation, for numbers that are to be published.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: str | Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        backend: str = "auto",
    ):
        known = MetadataCatalog.get(dataset_name).get("json_file") or dataset_name in DatasetCatalog.list()
        if not known:
            raise UserError(
                f"data set {dataset_name!r} is not loaded; correct dataloader.evaluator.dataset_name or "
                "dataloader.test"
            )
        tasks = [tasks] if isinstance(tasks, str) else tasks
        unknown = set(tasks or ()) - set(TASKS)
        if unknown:
            raise UserError(f"evaluation tasks {sorted(unknown)} are not offered; take {' or '.join(TASKS)}")
        tasks = sorted(set(tasks)) if tasks else None
        super().__init__(
            dataset_name, tasks=tasks, distributed=distributed, output_dir=output_dir, use_fast_impl=False
        )
        self._logger = logging.getLogger(__name__)
        self._truth = TaskAnnotations(self._coco_api, self._metadata.json_file)
        self._evaluable = self._truth.tasks
        if "segm" in (tasks or ()) and "segm" not in self._evaluable:
            raise UserError(
                f"annotation file {self._metadata.json_file} has no masks; leave segm out of "
                "dataloader.evaluator.tasks"
            )
        self._backend_name, self._evaluate = choose_backend(backend)
        self._logger.info("COCO evaluation uses %s", self._backend_name)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Take the outputs of a model for some images; masks are kept as RLEs.

        Args:
            inputs: dicts with ``image_id``.
            outputs: dicts with ``instances``, which have ``pred_boxes``, ``scores``, ``pred_classes`` and,
                of a model with masks, ``pred_masks`` (P, H, W), even where P is 0.
        """
        for single, output in zip(inputs, outputs, strict=True):
            super().process([single], [output])
            if "instances" in output:
                # Of an image without detections, too; gathered from all ranks with them.
                self._predictions[-1]["with_masks"] = output["instances"].has("pred_masks")

    def _eval_predictions(self, predictions: list[dict], img_ids: Sequence[int] | None = None) -> None:
        """Check, save and evaluate the predictions of all ranks; fills ``self._results``."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id")
        # The category id of each class.
        categories = sorted(mapping, key=mapping.get) if mapping else sorted(self._coco_api.cats)
        detections = self._detections(predictions, categories)
        if self._output_dir:
            path = Path(self._output_dir) / "coco_instances_results.json"
            self._logger.info("results are kept in %s", path)
            write_file(path, json.dumps(detections))
        if not self._do_evaluation:
            self._logger.info("%s has no annotations: results are not evaluated", self._metadata.json_file)
            return
        if not detections:
            self._logger.warning("no detections at all, so every AP is 0; is the score threshold too high?")
        names = [self._coco_api.cats[category]["name"] for category in sorted(self._coco_api.cats)]
        with_masks = any(prediction["with_masks"] for prediction in predictions)
        if "segm" in (self._tasks or ()) and not with_masks:
            raise UserError("the model predicts no masks; leave segm out of dataloader.evaluator.tasks")
        if with_masks and "segm" not in self._evaluable:
            self._logger.warning("%s has no masks: segm is not evaluated", self._metadata.json_file)
        for task in self._tasks or [t for t in self._evaluable if with_masks or t != "segm"]:
            self._results[task] = self._scores(task, detections, img_ids, names)

    def _scores(self, task: str, detections: list, img_ids, names: list[str]) -> dict[str, float]:
        if task == "segm":
            # With a box beside it the area of a mask would be taken from the box.
            detections = [{key: item[key] for key in item if key != "bbox"} for item in detections]
        scores = self._evaluate(self._truth.of(task), detections, task, img_ids)
        precisions = self._derive_coco_results(scores, task, class_names=names)
        values = zip(_RECALLS, scores.stats[6:], strict=True)
        recalls = {key: float(value * 100 if value >= 0 else "nan") for key, value in values}
        self._logger.info("Recall for %s: \n%s", task, create_small_table(recalls))
        overall = {key: value for key, value in precisions.items() if not key.startswith("AP-")}
        return overall | recalls | precisions

    def _detections(self, predictions: list[dict], categories: list[int]) -> list[dict]:
        """Return all detections with original category ids, in new dictionaries."""
        where = self._metadata.json_file
        counts = Counter(prediction["image_id"] for prediction in predictions)
        unknown = [image for image in counts if image not in self._coco_api.imgs]
        if unknown:
            raise UserError(
                f"there are predictions for image ids {unknown[:5]}, which {where} does not list; do "
                "dataloader.test and dataloader.evaluator name the same data set?"
            )
        twice = [image for image, count in counts.items() if count > 1]
        if twice:
            raise UserError(f"image ids {twice[:5]} were predicted twice; reset the evaluator between runs")
        detections = []
        for prediction in predictions:
            for item in prediction["instances"]:
                _check_detection(item, len(categories), where)
                detections.append(item | {"category_id": categories[item["category_id"]]})
        return detections


def _check_detection(item: dict, num_classes: int, where: str) -> None:
    if not all(math.isfinite(value) for value in (item["score"], *item["bbox"])):
        raise UserError(
            f"image id {item['image_id']} has a detection that is not finite (score {item['score']}, box "
            f"{item['bbox']}); are the weights?"
        )
    if not 0 <= item["category_id"] < num_classes:
        raise UserError(
            f"image id {item['image_id']} has a detection of class {item['category_id']}, but {where} has "
            f"{num_classes} classes; set the model's num_classes to {num_classes}"
        )
