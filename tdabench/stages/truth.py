"""The stages that make data, checkpoints and the bank."""

import argparse
import dataclasses
import logging

from tdabench.cost import measure_cost
from tdabench.data.base import ImageData, split_indices
from tdabench.data.mislabelled import plant_wrong_labels
from tdabench.experiment.components import instantiate
from tdabench.experiment.derived import models_of
from tdabench.experiment.read import load_experiment
from tdabench.planning.costs import load_costs
from tdabench.planning.jobs import num_shards
from tdabench.questions.sweep.stage import check_points
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench, load_data
from tdabench.storage.files import hash_named_files
from tdabench.storage.records import make_record, save_tensors

logger = logging.getLogger(__name__)


def dataset(arguments: argparse.Namespace) -> None:
    """Load the dataset into one file, after every setting of the experiment has been checked."""
    experiment = load_experiment(arguments.experiment)
    for name, method in experiment.methods.items():
        instantiate(method, f"methods.{name}")
    check_points(experiment)
    for where, model in models_of(experiment).items():
        instantiate(model, where)
    source = instantiate(experiment.data.component, "data.options")
    with measure_cost() as cost:
        data = source.load(arguments.data)
    files = hash_named_files(experiment.data.component.settings, arguments.data)
    record = make_record({"source": experiment.data.source, "options": source}, cost=cost, files=files, **data.details)
    save_tensors(arguments.output, data.tensors(), record)


def split(arguments: argparse.Namespace) -> None:
    """Draw the attribution pool, the queries and the warm-up set of one repeat, and plant wrong labels."""
    experiment = load_experiment(arguments.experiment)
    data = load_data(arguments.dataset)
    stream = ("split", arguments.repeat)
    indices = split_indices(
        data.sizes["train"],
        data.sizes["test"],
        experiment.data,
        generator=make_generator(experiment.seed, *stream),
    )
    if experiment.data.mislabelled:
        if not isinstance(data, ImageData):
            raise ValueError("data.mislabelled plants wrong labels in images; text has no labels: leave it out.")
        indices |= plant_wrong_labels(
            data.train_labels[indices["pool"]],
            experiment.data.mislabelled,
            classes=data.train_labels.unique(),
            generator=make_generator(experiment.seed, *stream, "mislabelled"),
        )
    record = make_record({"data": experiment.data}, inputs=[arguments.dataset], seed=experiment.seed, stream=stream)
    save_tensors(arguments.output, indices, record)


def train(arguments: argparse.Namespace) -> None:
    """Train one checkpoint on the whole attribution set."""
    from tdabench.models.states import read_state

    bench = Bench(arguments)
    stream = ("checkpoint", arguments.repeat, arguments.train_size, arguments.checkpoint)
    with measure_cost(bench.device) as cost:
        generator = make_generator(bench.experiment.seed, *stream)
        model = bench.retrain(bench.train, generator, description=f"train checkpoint {arguments.checkpoint}")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError(
            f"Checkpoint {arguments.checkpoint} diverged: lower training.learning_rate "
            f"({bench.experiment.training.learning_rate})."
        )
    save_tensors(arguments.output, read_state(model), bench.record(arguments, cost, stream=stream))


def retrain(arguments: argparse.Namespace) -> None:
    """Retrain on the subsets of one shard and keep every query's loss and margin."""
    from tdabench.bank.retrain import fill_shard
    from tdabench.training.losses import losses_of

    bench = Bench(arguments)
    costs = None if arguments.costs is None else load_costs(arguments.costs)
    bank = dataclasses.replace(bench.experiment.bank, shards=num_shards(bench.experiment, costs, bench.size))
    stream = ("bank", arguments.repeat, arguments.train_size)
    with measure_cost(bench.device) as cost:
        shard = fill_shard(
            bench.train,
            bench.query,
            bank,
            shard=arguments.shard,
            seed=bench.experiment.seed,
            stream=stream,
            retrain=bench.retrain,
            measure=losses_of(bench.query).loss_and_margin,
        )
    diverged = int(shard["loss"].isnan().any(dim=2).sum())
    if diverged:
        logger.warning(
            "%d of %d retrained models diverged; they are kept as NaN.", diverged, shard["loss"][..., 0].numel()
        )
    record = bench.record(arguments, cost, stream=stream, bank=bank, diverged=diverged)
    save_tensors(arguments.output, shard, record)
