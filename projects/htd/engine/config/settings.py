"""Checks that a config has what a run reads, with values that make sense."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from htd.errors import UserError

# Keys that a run reads and that have no value to fall back on.
_NEEDED = (
    "model",
    "dataloader.train",
    "optimizer.params",
    "lr_multiplier",
    "train.output_dir",
    "train.init_checkpoint",
    "train.device",
    "train.seed",
    "train.amp.enabled",
    "train.ddp",
)
_COUNTS = {
    "train.max_iter": 1,
    "train.log_period": 1,
    "train.eval_period": 0,
    "train.checkpointer.period": 1,
    "dataloader.train.total_batch_size": 1,
}


def check_settings(config: DictConfig) -> None:
    """Refuse a config that lacks a setting or has one that makes no sense.

    Raises:
        UserError: naming the key.
    """
    lacking = [key for key in (*_NEEDED, *_COUNTS) if _value(config, key) is None]
    if lacking:
        raise UserError(
            f"the config has no value for {', '.join(lacking)}: start from a leaf under configs/, whose "
            "train node is that of configs/common/train.py"
        )
    if not isinstance(config.train.output_dir, str) or not config.train.output_dir.strip():
        raise UserError("train.output_dir is empty: name the folder to write to")
    for key, least in _COUNTS.items():
        value = _value(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{key} is {value}: it has to be a whole number of at least {least}")
    augmentation = _value(config, "test_time_augmentation")
    if augmentation is not None and (
        not isinstance(augmentation, DictConfig) or "_target_" not in augmentation
    ):
        raise UserError(
            f"test_time_augmentation is {augmentation}: import it from configs/common/test_time.py, or set "
            "it to null"
        )
    if config.train.amp.enabled and config.train.amp.get("dtype", "bf16") not in ("bf16", "fp16"):
        raise UserError(f"train.amp.dtype is {config.train.amp.dtype}: bf16 and fp16 exist")


def _value(config: DictConfig, key: str) -> object:
    try:
        return OmegaConf.select(config, key)
    except OmegaConfBaseException:  # a part of the key is no group, or an interpolation leads nowhere
        return None
