"""Shared by the tests of htd.engine."""

import logging
from pathlib import Path

import pytest

from htd.engine.config import load_config
from tests.engine.tiny import TINY, Stop


@pytest.fixture
def tiny(tmp_path):
    """Return a function that loads the tiny leaf with overrides, its output in a fresh folder."""

    def load(*overrides, output="run"):
        return load_config(TINY, [f"train.output_dir={tmp_path / output}", *overrides])

    return load


@pytest.fixture(autouse=True)
def loggers_as_before():
    """Take away the handlers that a run has added, which would write to the folders of other tests."""
    loggers = [logging.getLogger(name) for name in ("fvcore", "detectron2", "htd")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate, logger.level = handlers, propagate, level


@pytest.fixture
def log(tmp_path):
    """Return a function that reads the log of a run; Detectron2's loggers do not reach caplog."""
    return lambda output="run": Path(tmp_path / output / "log.txt").read_text()


@pytest.fixture
def stop_after(monkeypatch):
    """Return a function that ends the next training as if the process had died after so many steps."""
    from htd.engine.trainer import Trainer

    def arm(steps):
        run_step = Trainer.run_step

        def run_or_stop(self):
            if self.iter == steps:
                monkeypatch.setattr(Trainer, "run_step", run_step)
                raise Stop
            run_step(self)

        monkeypatch.setattr(Trainer, "run_step", run_or_stop)

    return arm
