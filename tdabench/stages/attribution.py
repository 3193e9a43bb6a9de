"""The stages that run a method."""

import argparse
import contextlib
import itertools
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tdabench.examples import Examples, num_examples
from tdabench.experiment.components import Component, instantiate
from tdabench.runtime.progress import progress
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.files import check_place
from tdabench.storage.records import load_json, load_record, load_tensors, save_tensors

if TYPE_CHECKING:
    from tdabench.attributors.base import Problem
    from tdabench.attributors.running.run import Attribution

logger = logging.getLogger(__name__)


def attribute(arguments: argparse.Namespace) -> None:
    """Score every training example for every query with one method; where labels are planted, also for itself."""
    from tdabench.attributors.base import Unsupported

    bench = Bench(arguments)
    component = find_method(bench, arguments)
    stream = stream_of(arguments)
    details: dict[str, Any] = {"stream": stream, "method": component}
    details["attributor"] = instantiate(component, f"methods.{arguments.method}")
    try:
        details["attributor"] = settle_method(details["attributor"], arguments)
        attribution = _attribute(bench, arguments, details["attributor"], stream)
        if arguments.calibration is not None:
            attribution.cost.add_recorded(load_record(arguments.calibration).get("cost", {}))
    except Unsupported as reason:
        logger.warning("%s is not supported here: %s", arguments.method, reason)
        save_tensors(arguments.output, {}, bench.record(arguments, None, status=f"unsupported: {reason}", **details))
        return
    status = "; ".join(["ok", *(f"warning: {message}" for message in attribution.warnings)])
    record = bench.record(arguments, attribution.cost, status=status, **details)
    num_queries = num_examples(bench.query)
    tensors = {"scores": attribution.scores[:num_queries]}
    if bench.planted is not None:
        tensors["self_influence"] = attribution.scores[num_queries:].diagonal()
    save_tensors(arguments.output, tensors, record)


def sample(arguments: argparse.Namespace) -> None:
    """Sample one chain of a method; the file is empty, and says why, if the method does not sample chains apart."""
    from tdabench.attributors.base import ChainAttributor, Unsupported
    from tdabench.attributors.running.run import run_chain

    bench = Bench(arguments)
    component = find_method(bench, arguments)
    attributor = instantiate(component, f"methods.{arguments.method}")
    stream = stream_of(arguments)
    tensors, cost, status = {}, None, "whole"  # `attribute` runs such a method whole
    if isinstance(attributor, ChainAttributor):
        folder = f"{arguments.method}-{arguments.chain}"  # its own, since other chains may run at the same time
        generator = make_generator(bench.experiment.seed, *stream)
        try:
            attributor = settle_method(attributor, arguments)
            with lend_problem(bench, arguments, query_of(bench), folder=folder) as problem:
                tensors, cost = run_chain(attributor, problem, arguments.chain, generator=generator)
            status = "ok"
        except Unsupported as reason:
            status = f"unsupported: {reason}"
    details = {"stream": stream, "chain": arguments.chain, "method": component, "status": status}
    save_tensors(arguments.output, tensors, bench.record(arguments, cost, **details))


def vary(arguments: argparse.Namespace) -> None:
    """Score once more with one method, for other checkpoints and with other random numbers.

    The file has ``scores-C-R`` for checkpoint C and run R; those of checkpoint 0 and run 0 are ``attribute``'s.
    """
    from tdabench.attributors.base import Unsupported

    bench = Bench(arguments)
    component = find_method(bench, arguments)
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
            attributor = settle_method(attributor, arguments)
            stream = (*base, first, run)
            attribution = _run(bench, arguments, attributor, bench.query, folder=folder, stream=stream, first=first)
        except Unsupported as reason:
            status = f"unsupported: {reason}"
            break
        scores[f"scores-{first}-{run}"] = attribution.scores
        costs[f"{first}-{run}"] = attribution.cost.phases
    details = {"method": component, "variance": variance, "status": status, "costs": costs}
    save_tensors(arguments.output, scores, bench.record(arguments, None, stream=base, **details))


def find_method(bench: Bench, arguments: argparse.Namespace) -> Component:
    """Return the method that the arguments name."""
    if arguments.method not in bench.experiment.methods:
        known = ", ".join(bench.experiment.methods)
        raise ValueError(f"There is no method {arguments.method} in {arguments.experiment}; there are {known}.")
    return bench.experiment.methods[arguments.method]


def stream_of(arguments: argparse.Namespace) -> tuple[str | int, ...]:
    """Return the stream of a method's random numbers: the same for its calibration, its chains and its scores."""
    return ("attribute", arguments.repeat, arguments.train_size, arguments.method)


def _attribute(
    bench: Bench, arguments: argparse.Namespace, attributor: Any, stream: tuple[str | int, ...]
) -> "Attribution":
    """Make scores of a method's chains where they were sampled apart, or run it whole."""
    from tdabench.attributors.base import Unsupported
    from tdabench.attributors.running.run import score_chains

    records = [load_record(path) for path in arguments.chains]
    for record in records:
        kind, _, reason = record["status"].partition("unsupported: ")
        if not kind:
            raise Unsupported(reason)
    if not records or any(record["status"] == "whole" for record in records):
        return _run(bench, arguments, attributor, query_of(bench), folder=arguments.method, stream=stream)
    problem = make_problem(bench, arguments, query_of(bench), workspace=_make_workspace(arguments, arguments.method))
    attribution = score_chains(attributor, problem, [load_tensors(path) for path in arguments.chains])
    for record in records:
        attribution.cost.add_recorded(record["cost"])
    return attribution


def settle_method(attributor: Any, arguments: argparse.Namespace) -> Any:
    """Return the method with what its calibration found, where it says ``auto``."""
    from tdabench.attributors.base import Unsupported
    from tdabench.attributors.calibration.auto import apply_proposal, auto_settings

    wanted = auto_settings(attributor)
    if not wanted:
        return attributor
    if arguments.calibration is None:
        raise ValueError(
            f"methods.{arguments.method}.{wanted[0]} says auto: name the file of `tdabench calibrate` by --calibration."
        )
    found = load_json(arguments.calibration)
    kind, _, reason = found["record"]["status"].partition("unsupported: ")
    if not kind:
        raise Unsupported(reason)
    return apply_proposal(attributor, found["proposed"])


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
    from tdabench.attributors.running.run import run_attributor

    problem = make_problem(bench, arguments, query, workspace=_make_workspace(arguments, folder), first=first)
    return run_attributor(attributor, problem, generator=make_generator(bench.experiment.seed, *stream))


def make_problem(
    bench: Bench, arguments: argparse.Namespace, query: Examples, *, workspace: Path, first: int = 0
) -> "Problem":
    """Make the problem with the checkpoints in turn, beginning with the one that is attributed."""
    from tdabench.attributors.base import Problem
    from tdabench.training.losses import losses_of

    losses = losses_of(bench.train)
    paths = [*arguments.checkpoints[first:], *arguments.checkpoints[:first]]
    return Problem(
        models=tuple(bench.load_model(path) for path in paths),
        loss=losses.loss,
        token_loss=losses.token_loss,
        train=bench.train,
        query=query,
        reference=bench.reference,
        workspace=workspace,
    )


@contextlib.contextmanager
def lend_problem(bench: Bench, arguments: argparse.Namespace, query: Examples, *, folder: str) -> Iterator["Problem"]:
    """Make a problem whose workspace is gone afterwards, whatever happened."""
    problem = make_problem(bench, arguments, query, workspace=_make_workspace(arguments, folder))
    try:
        yield problem
    finally:
        shutil.rmtree(problem.workspace)


def query_of(bench: Bench) -> Examples:
    """Return the queries; with planted labels, the training examples follow, for their self-influence."""
    if bench.planted is None:
        return bench.query
    return {name: torch.cat([values, bench.train[name]]) for name, values in bench.query.items()}


def _make_workspace(arguments: argparse.Namespace, name: str) -> Path:
    """Make an empty folder for a method's scratch."""
    folder = arguments.output.parent.parent / "workspace" / name
    check_place(folder / "scores")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()
