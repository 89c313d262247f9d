#!/usr/bin/env python3
"""Converts a published checkpoint into one that the model of a config loads.

    python tools/convert_checkpoint.py --config-file configs/htd/htd_r50_fpn_1x.py IN.pth OUT.pth

The conversion is one to one: anything left over, missing or of another shape is an error, and then
nothing is written. Parts named with --new may begin anew, for example the predictors for own classes:

    ... IN.pth OUT.pth model.roi_heads.num_classes=3 --new roi_heads.stages.0.head.cls_score ...

or what the model has and the file has not, as masks on a checkpoint of boxes alone:

    ... --config-file configs/htd/htd_mask_r50_fpn_1x.py IN.pth OUT.pth --new roi_heads.mask_branch

What begins anew is drawn from a fixed seed, so the same call writes the same values.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from htd.checkpoint import check_output, convert, read_checkpoint, state_dict_of, write_checkpoint
from htd.checkpoint.formats import FORMATS
from htd.checkpoint.training import BOX_CONVENTION, BOX_DECODER, TrainingCheckpointer
from htd.engine.config import build, load_config
from htd.errors import UserError, run_cli


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="IN", help="the published file")
    parser.add_argument("output", metavar="OUT", help="the file to write, .pth")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="overrides of the config")
    parser.add_argument("--config-file", required=True, help="config whose model the weights are for")
    parser.add_argument(
        "--source", metavar="NAME", help=f"format of the file, to force it: {', '.join(FORMATS)}"
    )
    parser.add_argument(
        "--new",
        metavar="PREFIX",
        nargs="+",
        action="extend",
        default=[],
        help="beginnings of parameter names that may be absent or of another shape in the file",
    )
    return parser.parse_intermixed_args(arguments)


def build_model(config_file: str, overrides: Sequence[str], with_values: bool) -> nn.Module:
    """Build the model of a config, always with the same values; without any it costs no memory or time."""
    config = load_config(config_file, overrides)
    if not with_values:
        with torch.device("meta"):
            return build(config.model, "model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config.model, "model")


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert one file."""
    args = parse_arguments(arguments)
    output = check_output(args.output, args.input)
    weights = state_dict_of(read_checkpoint(args.input), args.input)
    model = build_model(args.config_file, args.overrides, with_values=bool(args.new))
    try:
        converted, report = convert(weights, model, source=args.source, new=args.new)
    except UserError as error:
        raise UserError(f"{args.input} for {args.config_file}: {error}") from error
    convention = FORMATS[report.format].convention
    decoder = TrainingCheckpointer(model).box_decoder
    boxes = {BOX_CONVENTION: convention.__name__} if convention else {}
    # The file does not tell: it is what the config decodes by, which the keys of some formats leave open.
    boxes |= {BOX_DECODER: decoder} if decoder else {}
    source = {"source_format": report.format, "source_file": Path(args.input).name}
    write_checkpoint(output, converted, **source, **boxes)
    print(report)
    print(f"written: {output}")


if __name__ == "__main__":
    run_cli(main)
