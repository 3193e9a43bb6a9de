"""One function a stage: where the rooms meet. Load, call one function of a room, save."""

import argparse
import functools
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tdabench.components import Component, instantiate
from tdabench.config import Experiment, load_experiment
from tdabench.cost import measure_cost
from tdabench.data.base import Examples, ImageData, split_indices
from tdabench.records import load_record, load_tensors, make_record, save_json, save_tensors
from tdabench.seeds import make_generator

logger = logging.getLogger(__name__)


def dataset(arguments: argparse.Namespace) -> None:
    """Load the dataset into one file, after every setting of the experiment has been checked."""
    experiment = load_experiment(arguments.experiment)
    for name, method in experiment.methods.items():
        instantiate(method, f"methods.{name}")
    instantiate(experiment.model, "model")
    source = instantiate(Component(path=experiment.data.source), "data.source")
    with measure_cost() as cost:
        images = source.load(arguments.data)
    save_tensors(arguments.output, vars(images), make_record({"source": experiment.data.source}, cost=cost))


def split(arguments: argparse.Namespace) -> None:
    """Draw the attribution pool, the queries and the warm-up set of one repeat."""
    experiment = load_experiment(arguments.experiment)
    images = _load_images(arguments.dataset)
    stream = ("split", arguments.repeat)
    indices = split_indices(
        len(images.train_labels),
        len(images.test_labels),
        experiment.data,
        generator=make_generator(experiment.seed, *stream),
    )
    record = make_record({"data": experiment.data}, inputs=[arguments.dataset], seed=experiment.seed, stream=stream)
    save_tensors(arguments.output, indices, record)


def train(arguments: argparse.Namespace) -> None:
    """Train one checkpoint on the whole attribution set."""
    bench = _Bench(arguments)
    stream = ("checkpoint", arguments.repeat, arguments.train_size, arguments.checkpoint)
    with measure_cost(bench.device) as cost:
        generator = make_generator(bench.experiment.seed, *stream)
        model = bench.retrain(bench.train, generator, description=f"train checkpoint {arguments.checkpoint}")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError(
            f"Checkpoint {arguments.checkpoint} diverged: lower training.learning_rate "
            f"({bench.experiment.training.learning_rate})."
        )
    save_tensors(arguments.output, model.state_dict(), bench.record(arguments, cost, stream=stream))


def retrain(arguments: argparse.Namespace) -> None:
    """Retrain on the subsets of one shard and keep every query's loss and margin."""
    from tdabench.training.bank import fill_shard
    from tdabench.training.losses import image_loss_and_margin

    bench = _Bench(arguments)
    stream = ("bank", arguments.repeat, arguments.train_size)
    with measure_cost(bench.device) as cost:
        shard = fill_shard(
            bench.train,
            bench.query,
            bench.experiment.bank,
            shard=arguments.shard,
            seed=bench.experiment.seed,
            stream=stream,
            retrain=bench.retrain,
            measure=image_loss_and_margin,
        )
    diverged = int(shard["loss"].isnan().any(dim=2).sum())
    if diverged:
        logger.warning(
            "%d of %d retrained models diverged; they are kept as NaN.", diverged, shard["loss"][..., 0].numel()
        )
    record = bench.record(arguments, cost, stream=stream, bank=bench.experiment.bank, diverged=diverged)
    save_tensors(arguments.output, shard, record)


def attribute(arguments: argparse.Namespace) -> None:
    """Score every training example for every query with one method."""
    from tdabench.attributors.base import Problem, Unsupported
    from tdabench.attributors.run import run_attributor
    from tdabench.training.losses import image_loss

    bench = _Bench(arguments)
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
        query=bench.query,
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
    save_tensors(arguments.output, {"scores": attribution.scores}, record)


def evaluate(arguments: argparse.Namespace) -> None:
    """Compute a method's LDS against the bank."""
    from tdabench.evaluation.evaluate import evaluate_scores

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    scores_record = load_record(arguments.scores)
    record = make_record(
        {"evaluation": experiment.evaluation},
        inputs=[arguments.scores, arguments.split, *arguments.bank],
        seed=experiment.seed,
        status=scores_record["status"],
    )
    if scores_record["status"].startswith("unsupported"):
        save_json(arguments.output, {"mean": None}, record)
        return
    shards = [load_tensors(path) for path in arguments.bank]
    result = evaluate_scores(
        load_tensors(arguments.scores)["scores"],
        torch.cat([shard["masks"] for shard in shards]),
        torch.cat([shard["loss"] for shard in shards]),
        experiment.evaluation,
        num_scored=len(load_tensors(arguments.split)["query"]),
        generator=make_generator(experiment.seed, "bootstrap", arguments.repeat, arguments.train_size),
    )
    save_json(arguments.output, result, record)


def report(arguments: argparse.Namespace) -> None:
    """Make the tables and figures, and print the tables."""
    from tdabench.evaluation.intervals import over_repeats
    from tdabench.report.write import write_report

    sys.stdout.write(write_report(load_experiment(arguments.experiment), arguments.output, over_repeats))


def methods(arguments: argparse.Namespace) -> None:
    """List the built-in methods."""
    from tdabench.attributors.catalogue import describe_methods

    sys.stdout.write(describe_methods())


def check(arguments: argparse.Namespace) -> None:
    """Check a method against the public contract."""
    from tdabench.attributors.base import Unsupported
    from tdabench.components import parse_settings
    from tdabench.testing import check_attributor

    torch.set_num_threads(1)
    attributor = instantiate(Component(path=arguments.path, settings=parse_settings(arguments.set)), arguments.path)
    try:
        check_attributor(attributor, informative=not arguments.uninformative)
    except Unsupported as reason:
        raise ValueError(f"{arguments.path} can't run on the check's small images: {reason}") from reason
    sys.stdout.write(f"{arguments.path} passes: shape, sign, finiteness, repeatability, nothing touched.\n")


class _Bench:
    """What the stages with a model load: data, split, and how a model is made."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.set_num_threads(arguments.threads)
        self.experiment = load_experiment(arguments.experiment)
        self.device = _choose_device(arguments.device)
        self.images = _load_images(arguments.dataset)
        self.split = load_tensors(arguments.split)
        self.size = arguments.train_size
        if self.size not in self.experiment.data.train_sizes:
            sizes = ", ".join(map(str, self.experiment.data.train_sizes))
            raise ValueError(f"There is no train_size {self.size} in {arguments.experiment}; there are {sizes}.")
        # A size that is added later runs on the split that is there.
        pool, reference = len(self.split["pool"]), self.experiment.data.reference
        if pool < max(self.size, 0 if reference == "train" else reference):
            raise ValueError(
                f"The split has {pool} examples, too few for train_size {self.size} and reference {reference}."
            )

    @functools.cached_property
    def train(self) -> Examples:
        return self.images.examples("train", self.split["pool"][: self.size], self.device)

    @functools.cached_property
    def query(self) -> Examples:
        """The scored queries, then the tuning queries."""
        return self.images.examples("test", torch.cat([self.split["query"], self.split["tuning"]]), self.device)

    @functools.cached_property
    def reference(self) -> Examples:
        if self.experiment.data.reference == "train":
            return self.train
        return self.images.examples("train", self.split["pool"][: self.experiment.data.reference], self.device)

    @functools.cached_property
    def warmup(self) -> Examples:
        return self.images.examples("train", self.split["warmup"], self.device)

    @functools.cached_property
    def builder(self) -> Any:
        return instantiate(self.experiment.model, "model")

    def retrain(self, examples: Examples, generator: torch.Generator, *, description: str | None = None) -> nn.Module:
        """Build a model and train it."""
        from tdabench.training.recipe import train as run_recipe

        model = self.builder.build(self.reference["image"], generator=generator).to(self.device)
        recipe = self.experiment.training
        run_recipe(model, examples, recipe, generator=generator, warmup=self.warmup, description=description)
        return model

    def load_model(self, path: Path) -> nn.Module:
        """Load a checkpoint, in eval mode."""
        model = self.builder.build(self.reference["image"], generator=torch.Generator())
        model.load_state_dict(load_tensors(path))
        return model.to(self.device).eval()

    def record(self, arguments: argparse.Namespace, cost: Any, **details: Any) -> dict[str, Any]:
        """Describe a result of this bench."""
        experiment: Experiment = self.experiment
        settings = {
            "data": experiment.data,
            "model": experiment.model,
            "training": experiment.training,
            "train_size": self.size,
        }
        inputs = [arguments.dataset, arguments.split, *getattr(arguments, "checkpoints", [])]
        return make_record(settings, inputs=inputs, cost=cost, seed=experiment.seed, **details)


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _load_images(path: Path) -> ImageData:
    return ImageData(**load_tensors(path))


def _empty_folder(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()
