"""The stages that run a method."""

import argparse
import itertools
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tdabench.components import Component, instantiate
from tdabench.data.base import Examples
from tdabench.progress import progress
from tdabench.records import save_tensors
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench

if TYPE_CHECKING:
    from tdabench.attributors.run import Attribution

logger = logging.getLogger(__name__)


def attribute(arguments: argparse.Namespace) -> None:
    """Score every training example for every query with one method; where labels are planted, also for itself."""
    from tdabench.attributors.base import Unsupported

    bench = Bench(arguments)
    component = _find_method(bench, arguments)
    stream = ("attribute", arguments.repeat, arguments.train_size, arguments.method)
    details: dict[str, Any] = {"stream": stream, "method": component}
    details["attributor"] = instantiate(component, f"methods.{arguments.method}")
    try:
        query = bench.query if bench.planted is None else _with_train(bench)
        attribution = _run(bench, arguments, details["attributor"], query, folder=arguments.method, stream=stream)
    except Unsupported as reason:
        logger.warning("%s is not supported here: %s", arguments.method, reason)
        save_tensors(arguments.output, {}, bench.record(arguments, None, status=f"unsupported: {reason}", **details))
        return
    status = "; ".join(["ok", *(f"warning: {message}" for message in attribution.warnings)])
    record = bench.record(arguments, attribution.cost, status=status, **details)
    num_queries = len(bench.query["label"])
    tensors = {"scores": attribution.scores[:num_queries]}
    if bench.planted is not None:
        tensors["self_influence"] = attribution.scores[num_queries:].diagonal()
    save_tensors(arguments.output, tensors, record)


def vary(arguments: argparse.Namespace) -> None:
    """Score once more with one method, for other checkpoints and with other random numbers.

    The file has ``scores-C-R`` for checkpoint C and run R; those of checkpoint 0 and run 0 are ``attribute``'s.
    """
    from tdabench.attributors.base import Unsupported

    bench = Bench(arguments)
    component = _find_method(bench, arguments)
    if arguments.method not in bench.experiment.varied_methods:
        raise ValueError(
            f"{arguments.experiment} does not vary {arguments.method}: it has no section variance, or the section's "
            "methods leave it out."
        )
    variance = bench.experiment.variance
    attributor = instantiate(component, f"methods.{arguments.method}")
    base = ("vary", arguments.repeat, arguments.train_size, arguments.method)
    folder = f"vary-{arguments.method}"  # its own, since `attribute` may run at the same time
    scores, costs, status = {}, {}, "ok"
    grid = itertools.product(range(variance.checkpoints), range(variance.runs))
    for first, run in progress(list(grid)[1:], "vary"):
        try:
            stream = (*base, first, run)
            attribution = _run(bench, arguments, attributor, bench.query, folder=folder, stream=stream, first=first)
        except Unsupported as reason:
            status = f"unsupported: {reason}"
            break
        scores[f"scores-{first}-{run}"] = attribution.scores
        costs[f"{first}-{run}"] = attribution.cost.phases
    details = {"method": component, "variance": variance, "status": status, "costs": costs}
    save_tensors(arguments.output, scores, bench.record(arguments, None, stream=base, **details))


def _find_method(bench: Bench, arguments: argparse.Namespace) -> Component:
    if arguments.method not in bench.experiment.methods:
        known = ", ".join(bench.experiment.methods)
        raise ValueError(f"There is no method {arguments.method} in {arguments.experiment}; there are {known}.")
    return bench.experiment.methods[arguments.method]


def _run(
    bench: Bench,
    arguments: argparse.Namespace,
    attributor: Any,
    query: Examples,
    *,
    folder: str,
    stream: tuple[str | int, ...],
    first: int = 0,
) -> "Attribution":
    """Run a method with the checkpoints in turn, beginning with the one that is attributed."""
    from tdabench.attributors.base import Problem
    from tdabench.attributors.run import run_attributor
    from tdabench.training.losses import image_loss

    paths = [*arguments.checkpoints[first:], *arguments.checkpoints[:first]]
    problem = Problem(
        models=tuple(bench.load_model(path) for path in paths),
        loss=image_loss,
        train=bench.train,
        query=query,
        reference=bench.reference,
        workspace=_empty_folder(arguments.output.parent.parent / "workspace" / folder),
    )
    return run_attributor(attributor, problem, generator=make_generator(bench.experiment.seed, *stream))


def _with_train(bench: Bench) -> Examples:
    """Give the queries and, after them, the training examples: a method's score of an example for itself."""
    return {name: torch.cat([values, bench.train[name]]) for name, values in bench.query.items()}


def _empty_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()
