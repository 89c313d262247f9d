"""Derives rate, length and periods of a training from its batch by the linear rule."""

from __future__ import annotations

from collections.abc import Collection

from omegaconf import DictConfig, OmegaConf

from htd.errors import UserError

_REFERENCE = "train.reference_batch_size"
_BATCH = "dataloader.train.total_batch_size"
_RATES = ("optimizer.lr",)
_LENGTHS = (
    "train.max_iter",
    "lr_multiplier.warmup_iters",
    "model.criterion.switch_iter",
    "train.eval_period",
    "train.vis_period",
    "train.checkpointer.period",
)


def scale_to_batch(config: DictConfig, given: Collection[str] = ()) -> str:
    """Adapt a config, in place, to a batch that is not the one its schedule was made for.

    With k = batch / reference batch, the learning rate is multiplied by k and everything that counts
    iterations is divided by k, so that the training sees as many images and the decays, which are fractions
    of the length, stay where they are. Afterwards the batch is the config's reference: a saved config is
    not scaled a second time.

    Args:
        config: the training config.
        given: keys that the user has set, which stay as they are.

    Returns:
        One line that lists the changes, "" if the batch is the reference batch.

    Raises:
        UserError: the config does not say for which batch its schedule is right.
    """
    reference = OmegaConf.select(config, _REFERENCE)
    batch = OmegaConf.select(config, _BATCH)
    if not isinstance(reference, int) or reference < 1:
        raise UserError(
            f"{_REFERENCE} is {reference}: write the batch for which the schedule is right, or --no-scale"
        )
    if batch == reference:
        return ""
    factor = batch / reference
    changes, kept = [], []
    for key in (*_RATES, *_LENGTHS):
        old = OmegaConf.select(config, key)
        if not old or old < 0:  # what makes no sense is left for the part that refuses it
            continue
        if key in given:
            kept.append(f"{key}={old}")
            continue
        new = old * factor if key in _RATES else max(1, round(old / factor))
        OmegaConf.update(config, key, new)
        changes.append(f"{key} {old:g} -> {new:g}" if key in _RATES else f"{key} {old} -> {new}")
    OmegaConf.update(config, _REFERENCE, batch)
    line = f"schedule follows the batch {reference} -> {batch}: {', '.join(changes) or 'nothing to scale'}"
    return line + (f"; as given: {', '.join(kept)}" if kept else "")
