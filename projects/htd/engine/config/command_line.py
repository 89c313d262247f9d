"""The command line of ``train_net.py``, and the config that it asks for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from omegaconf import DictConfig

from htd.engine.config.files import load_config
from htd.engine.config.overrides import override_keys
from htd.engine.config.own_data import OwnData, apply_own_data
from htd.engine.config.scaling import scale_to_batch
from htd.errors import UserError

_EPILOG = """examples:
  train_net.py --config-file configs/htd/htd_r50_fpn_1x.py --num-gpus 8
  train_net.py --config-file C --resume                      continue a run that was stopped
  train_net.py --config-file C --eval-only train.init_checkpoint=output/model_final.pth
  train_net.py --config-file C --train-json T.json --train-images T/ --val-json V.json --val-images V/
  train_net.py --config-file C dataloader.train.total_batch_size=4 train.output_dir=output/small
several machines, the same command on each but for the rank:
  train_net.py --config-file C --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://FIRST:29500
or under torchrun, which then says how many processes there are:
  torchrun --nproc-per-node 8 train_net.py --config-file C
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Train a detector, or evaluate one with --eval-only.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a leaf under configs/, or a saved config.yaml")
    add("--eval-only", action="store_true", help="evaluate train.init_checkpoint and stop")
    add("--resume", action="store_true", help="continue from the last checkpoint in train.output_dir")
    add("--print-config", action="store_true", help="print the config as it would be used and stop")
    add(
        "--no-scale",
        action="store_true",
        help="keep rate, length and periods when the batch is not train.reference_batch_size; without this "
        "flag they follow the batch, except those that are given as key=value",
    )
    run = parser.add_argument_group("processes")
    add = run.add_argument
    add(
        "--num-gpus",
        type=int,
        metavar="N",
        default=1,
        help="processes on this machine: one on each of N GPUs (nccl), or, where train.device is cpu, "
        "N on the CPU (gloo)",
    )
    add("--num-machines", type=int, metavar="M", default=1, help="machines, each with N processes")
    add("--machine-rank", type=int, metavar="R", default=0, help="rank of this machine, 0 to M-1")
    add(
        "--dist-url",
        metavar="U",
        default="auto",
        help="tcp://HOST:PORT of the first machine; on one machine a free port is taken",
    )
    own = parser.add_argument_group("own data in COCO's format", "the class count follows the files")
    for part in ("train", "val"):
        own.add_argument(f"--{part}-json", metavar="FILE", help=f"{part} annotations")
        own.add_argument(f"--{part}-images", metavar="DIR", help=f"folder of the {part} images")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="set a key of the config")
    return parser


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Returns:
        A namespace with the flags, ``overrides`` (list of ``key=value`` texts) and ``own_data``
        (:class:`OwnData`).

    Raises:
        UserError: flags that exclude each other, or one of a pair without the other.
    """
    arguments = build_parser().parse_intermixed_args(argv)
    if arguments.eval_only and arguments.resume:
        raise UserError(
            "--eval-only evaluates train.init_checkpoint and --resume continues a training: give one of them"
        )
    pairs = {}
    for part in ("train", "val"):
        json_file, images = getattr(arguments, f"{part}_json"), getattr(arguments, f"{part}_images")
        if (json_file is None) != (images is None):
            raise UserError(f"--{part}-json and --{part}-images go together: give both")
        pairs[part] = (json_file, images) if json_file else None
    if pairs["val"] and not pairs["train"] and not arguments.eval_only:
        raise UserError(
            "--val-json without --train-json would train on the config's data: give both, or --eval-only"
        )
    if pairs["train"] and not pairs["val"] and arguments.eval_only:
        raise UserError("--eval-only reads --val-json and --val-images: give them")
    arguments.own_data = OwnData(**pairs)
    return arguments


def build_config(arguments: argparse.Namespace) -> tuple[DictConfig, list[str]]:
    """Load the config that the command line names; apply overrides, own data and the batch's schedule.

    Returns:
        The config, and lines for the log that say what was derived.
    """
    config = load_config(arguments.config_file, arguments.overrides)
    notes = [apply_own_data(config, arguments.own_data)]
    if not arguments.no_scale and not arguments.eval_only:
        notes.append(scale_to_batch(config, override_keys(arguments.overrides)))
    return config, [note for note in notes if note]
