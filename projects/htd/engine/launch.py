"""Starts the processes of a run: one, several, those of torchrun, those of several machines."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from htd.engine.setup import parse_device
from htd.errors import UserError


@dataclass(frozen=True)
class Processes:
    """How many processes there are, and where they meet.

    Attributes:
        per_machine: processes on each machine.
        machines: number of machines.
        machine_rank: rank of this machine.
        url: ``tcp://host:port`` of the first machine, or ``auto`` for a free port of this one.
    """

    per_machine: int = 1
    machines: int = 1
    machine_rank: int = 0
    url: str = "auto"


def launch(main: Callable[..., object], processes: Processes, *, device: str, args: tuple = ()) -> None:
    """Call ``main(*args)`` in every process of a run, with Detectron2's communication set up.

    Args:
        main: an importable function.
        processes: the layout; under torchrun its environment says it instead.
        device: ``cuda...`` (one GPU a process, nccl) or ``cpu`` (gloo).
        args: arguments of ``main``, able to be pickled.

    Raises:
        UserError: a layout that cannot be, or what ``main`` raised as such in any of the processes.
    """
    cuda = parse_device(device).type == "cuda"
    environment = os.environ
    if "RANK" in environment and "LOCAL_WORLD_SIZE" in environment:
        _run_torchrun(main, environment, cuda, args)
        return
    processes = _checked(processes, cuda)
    if processes.per_machine * processes.machines == 1:
        main(*args)
        return
    # It warns of every process that it ends, where one message says why all of them end.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    mistakes = mp.get_context("spawn").SimpleQueue()
    try:
        mp.start_processes(
            _worker,
            args=(main, processes, cuda, mp.get_start_method(), mistakes, args),
            nprocs=processes.per_machine,
            start_method="spawn",
        )
    except (mp.ProcessExitedException, mp.ProcessRaisedException):
        if mistakes.empty():
            raise
        raise UserError(mistakes.get()) from None


def _checked(processes: Processes, cuda: bool) -> Processes:
    count, machines, rank = processes.per_machine, processes.machines, processes.machine_rank
    if count < 1 or machines < 1 or not 0 <= rank < machines:
        raise UserError(
            f"--num-gpus {count} --num-machines {machines} --machine-rank {rank}: the counts start at 1 and "
            "the rank of a machine lies below their number"
        )
    if cuda and count > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus {count}, but this machine has {torch.cuda.device_count()} GPUs that can be used"
        )
    if processes.url != "auto":
        _check_url(processes.url)
        return processes
    if machines > 1:
        raise UserError("several machines have to be told where to meet: --dist-url tcp://FIRST_MACHINE:PORT")
    return Processes(count, machines, rank, f"tcp://127.0.0.1:{_free_port()}")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        complete = parts.scheme == "tcp" and parts.hostname and parts.port
    except ValueError:  # a port that is no number
        complete = False
    if not complete:
        raise UserError(f"--dist-url {url} is no place to meet: write tcp://FIRST_MACHINE:PORT, or auto")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_torchrun(main: Callable, environment: Mapping[str, str], cuda: bool, args: tuple) -> None:
    _connect(
        cuda,
        url="env://",
        rank=int(environment["RANK"]),
        world=int(environment["WORLD_SIZE"]),
        local=int(environment["LOCAL_RANK"]),
        per_machine=int(environment["LOCAL_WORLD_SIZE"]),
    )
    try:
        main(*args)
    finally:
        _disconnect()


def _worker(
    local: int,
    main: Callable,
    processes: Processes,
    cuda: bool,
    start_method: str,
    mistakes: mp.SimpleQueue,
    args: tuple,
) -> None:
    count = processes.per_machine
    # Otherwise the loader's processes would be started as this one was, which takes seconds for each.
    mp.set_start_method(start_method, force=True)
    if not cuda and "OMP_NUM_THREADS" not in os.environ:
        # Processes that each take every core wait for one another most of the time.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    try:
        _connect(
            cuda,
            url=processes.url,
            rank=processes.machine_rank * count + local,
            world=processes.machines * count,
            local=local,
            per_machine=count,
        )
        main(*args)
        _disconnect()
    except UserError as error:
        # The exit code makes the parent end the other processes, the queue tells it why.
        mistakes.put(str(error))
        sys.exit(2)


def _connect(cuda: bool, *, url: str, rank: int, world: int, local: int, per_machine: int) -> None:
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo", init_method=url, rank=rank, world_size=world)
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(per_machine)
    else:
        for first in range(0, world, per_machine):
            group = dist.new_group(list(range(first, first + per_machine)))
            if first <= rank < first + per_machine:
                comm._LOCAL_PROCESS_GROUP = group
    comm.synchronize()


def _disconnect() -> None:
    comm._LOCAL_PROCESS_GROUP = None
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group.cache_clear()
    dist.destroy_process_group()
