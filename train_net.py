"""Trains or evaluates a detector: flags, config, htd.engine."""

import sys

from htd.checkpoint.weights import check_weights_file
from htd.engine.config import config_text
from htd.engine.config.command_line import build_config, parse_arguments
from htd.engine.launch import Processes, launch
from htd.engine.run import evaluate, train
from htd.errors import run_cli


def main(config, notes, arguments):
    """Run in one process, one of maybe several."""
    if arguments.eval_only:
        evaluate(config, notes=notes)
    else:
        train(config, resume=arguments.resume, notes=notes)


def command():
    """Read the command line and start the processes it asks for."""
    arguments = parse_arguments()
    config, notes = build_config(arguments)
    if arguments.print_config:
        sys.stdout.write(config_text(config))
        return
    if not arguments.resume:
        check_weights_file(config.train.init_checkpoint, arguments.config_file)
    processes = Processes(
        arguments.num_gpus, arguments.num_machines, arguments.machine_rank, arguments.dist_url
    )
    launch(main, processes, device=config.train.device, args=(config, notes, arguments))


if __name__ == "__main__":
    run_cli(command)
