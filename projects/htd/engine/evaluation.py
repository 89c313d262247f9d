"""Runs a model over the config's test data and hands the outputs to its evaluator."""

from __future__ import annotations

import copy
import logging
from typing import Any

from detectron2.evaluation import inference_on_dataset, print_csv_format
from omegaconf import DictConfig
from torch import nn

from htd.engine.config import build
from htd.engine.setup import kept_random_state
from htd.errors import UserError, one_line_errors

logger = logging.getLogger(__name__)


class Evaluation:
    """The test loader and the evaluator of a config, built at the first use and kept.

    Args:
        dataloader: ``test`` and ``evaluator``; there is nothing to evaluate with if one of them is missing
            or null, or the test data's ``json_file`` is.
        augmentation: call of what takes the ``model``, and images at their own size, and predicts in its
            place, such as :class:`htd.evaluation.AveragedViews`; the ``augmentations`` of the test data's
            mapper are left out then. None to evaluate the model itself.
    """

    def __init__(self, dataloader: DictConfig, augmentation: DictConfig | None = None) -> None:
        if augmentation is not None and not (
            isinstance(augmentation, DictConfig) and "_target_" in augmentation
        ):
            raise UserError(
                f"test_time_augmentation is {augmentation}, which makes no views: import it from "
                "configs/common/test_time.py"
            )
        self._augmentation = augmentation
        self._config = dataloader
        self._parts: tuple | None = None

    def build(self) -> bool:
        """Build loader and evaluator now, so that what is wrong with the data shows before anything runs.

        Returns:
            Whether there is something to evaluate with.
        """
        if self._parts is None and self._complete():
            with kept_random_state():
                test = build(self._test_data(), "dataloader.test")
                self._parts = test, build(self._config.evaluator, "dataloader.evaluator")
        return self._parts is not None

    def _test_data(self) -> DictConfig:
        """Return the test loader's node, of images at their own size if views are made of them."""
        test = self._config.test
        if self._augmentation is not None and (test.get("mapper") or {}).get("augmentations"):
            test = copy.deepcopy(test)
            test.mapper.augmentations = []
        return test

    def _complete(self) -> bool:
        if any(self._config.get(part) is None for part in ("test", "evaluator")):
            return False
        dataset = self._config.test.get("dataset")
        return not isinstance(dataset, DictConfig) or dataset.get("json_file", "") is not None

    def __call__(self, model: nn.Module) -> dict[str, Any]:
        """Evaluate; the random numbers that follow are those that would have followed without it.

        Args:
            model: the model, not wrapped for several processes.

        Returns:
            task -> metric -> value on the main process, an empty dict elsewhere or without an evaluator.
        """
        if not self.build():
            return {}
        with kept_random_state():
            if self._augmentation is not None:
                model = build({**self._augmentation, "model": model}, "test_time_augmentation")
            with one_line_errors():
                results = inference_on_dataset(model, *self._parts) or {}
        if results:
            print_csv_format(results)
        return results
