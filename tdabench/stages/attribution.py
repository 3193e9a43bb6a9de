"""The stage that runs a method."""

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from tdabench.components import instantiate
from tdabench.data.base import Examples
from tdabench.records import save_tensors
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench

logger = logging.getLogger(__name__)


def attribute(arguments: argparse.Namespace) -> None:
    """Score every training example for every query with one method; where labels are planted, also for itself."""
    from tdabench.attributors.base import Problem, Unsupported
    from tdabench.attributors.run import run_attributor
    from tdabench.training.losses import image_loss

    bench = Bench(arguments)
    if arguments.method not in bench.experiment.methods:
        known = ", ".join(bench.experiment.methods)
        raise ValueError(f"There is no method {arguments.method} in {arguments.experiment}; there are {known}.")
    component = bench.experiment.methods[arguments.method]
    attributor = instantiate(component, f"methods.{arguments.method}")
    stream = ("attribute", arguments.repeat, arguments.train_size, arguments.method)
    problem = Problem(
        models=tuple(bench.load_model(path) for path in arguments.checkpoints),
        loss=image_loss,
        train=bench.train,
        query=_with_train(bench) if bench.planted is not None else bench.query,
        reference=bench.reference,
        workspace=_empty_folder(arguments.output.parent.parent / "workspace" / arguments.method),
    )
    details: dict[str, Any] = {"stream": stream, "method": component, "attributor": attributor}
    generator = make_generator(bench.experiment.seed, *stream)
    try:
        attribution = run_attributor(attributor, problem, generator=generator)
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


def _with_train(bench: Bench) -> Examples:
    """Give the queries and, after them, the training examples: a method's score of an example for itself."""
    return {name: torch.cat([values, bench.train[name]]) for name, values in bench.query.items()}


def _empty_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()
