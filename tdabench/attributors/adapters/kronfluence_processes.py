"""Data parallelism within one job: several processes, each with a part of the examples."""

import contextlib
import dataclasses
import datetime
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from kronfluence.utils.state import State
from torch import distributed

from tdabench.attributors.base import Examples, Problem
from tdabench.cost import count_passes
from tdabench.runtime.devices import choose_device
from tdabench.seeds import fork_generator

# A process that waits for longer than that waits for one that is dead.
PATIENCE = datetime.timedelta(hours=2)


@contextlib.contextmanager
def data_parallel(
    function: Callable[[Any, Problem, torch.Generator], None],
    attributor: Any,
    problem: Problem,
    *,
    processes: int,
    generator: torch.Generator,
) -> Iterator[None]:
    """Let further processes call a function while the body does the part of the first one.

    They talk by NCCL on GPUs, of which each takes one, and by Gloo on the CPU. Their passes are not counted, so that
    the number of all is not known.

    Args:
        function: Of this module's or another one's top level: ``(attributor, problem, generator)``.
        processes: How many, with this one.
    """
    device = next(iter(problem.train.values())).device
    seeds = [fork_generator(generator, "cpu").initial_seed() for _ in range(1, processes)]
    meeting = problem.workspace / "meeting"
    context = torch.multiprocessing.spawn(
        _run_rank, (function, attributor, problem, seeds, processes, meeting), nprocs=processes - 1, join=False
    )
    try:
        with _joined(0, processes, device, meeting):
            yield
    except BaseException:
        for process in context.processes:
            process.kill()
        raise
    while not context.join():
        pass
    count_passes(math.nan)


def _run_rank(
    index: int,
    function: Callable[[Any, Problem, torch.Generator], None],
    attributor: Any,
    problem: Problem,
    seeds: list[int],
    processes: int,
    meeting: Path,
) -> None:
    torch.set_num_threads(1)
    device = choose_device("auto") if next(iter(problem.train.values())).is_cuda else torch.device("cpu")
    moved = {role: _move(getattr(problem, role), device) for role in ("train", "query", "reference")}
    models = tuple(model.to(device) for model in problem.models)
    with _joined(index + 1, processes, device, meeting):
        generator = torch.Generator().manual_seed(seeds[index])
        function(attributor, dataclasses.replace(problem, models=models, **moved), generator)


def _move(examples: Examples, device: torch.device) -> Examples:
    return {name: values.to(device) for name, values in examples.items()}


@contextlib.contextmanager
def _joined(rank: int, processes: int, device: torch.device, meeting: Path) -> Iterator[None]:
    """Join the other processes, and tell kronfluence, which would look for a launcher's environment variables."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=processes, timeout=PATIENCE
    )
    state = State(cpu=device.type == "cpu")
    before = dict(vars(state))
    state.num_processes, state.process_index, state.local_process_index = processes, rank, rank
    state.device = device
    try:
        yield
    finally:
        vars(state).update(before)
        distributed.destroy_process_group()
