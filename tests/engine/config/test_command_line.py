"""The command line."""

import pytest

from htd.engine.config.command_line import build_config, parse_arguments
from htd.errors import UserError
from tests.engine.tiny import TINY

FLAGS = ["--config-file", TINY]


def test_overrides_may_stand_anywhere():
    arguments = parse_arguments([*FLAGS, "a=1", "--num-gpus", "2", "b=-3", "--no-scale", "+c=x"])
    assert arguments.overrides == ["a=1", "b=-3", "+c=x"]
    assert (arguments.num_gpus, arguments.no_scale, arguments.dist_url) == (2, True, "auto")


@pytest.mark.parametrize(
    "flags, text",
    [
        ("--eval-only --resume", "give one of them"),
        ("--train-json a.json", "--train-json and --train-images go together"),
        ("--val-json a.json --val-images d", "--val-json without --train-json"),
        ("--eval-only --train-json a.json --train-images d", "--eval-only reads --val-json"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, text):
    with pytest.raises(UserError, match=text):
        parse_arguments([*FLAGS, *flags.split()])


def test_config_follows_the_batch_unless_told_not_to():
    flags = [*FLAGS, "dataloader.train.total_batch_size=1", "train.eval_period=7"]
    config, notes = build_config(parse_arguments(flags))
    assert (config.train.max_iter, config.train.eval_period) == (18, 7)
    assert notes[0].endswith("as given: train.eval_period=7")
    config, notes = build_config(parse_arguments([*flags, "--no-scale"]))
    assert (config.train.max_iter, notes) == (9, [])
