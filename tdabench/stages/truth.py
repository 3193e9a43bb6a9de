"""The stages that make data, checkpoints and the bank."""

import importlib
import logging
from pathlib import Path

from torch import nn

from tdabench.cost import measure_cost
from tdabench.data.base import ImageData, split_indices
from tdabench.data.mislabelled import plant_wrong_labels
from tdabench.experiment.components import instantiate
from tdabench.experiment.derived import models_of, settle_bank
from tdabench.experiment.read import Experiment
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench, load_data
from tdabench.storage.cell import Cell, root_of
from tdabench.storage.files import hash_named_files
from tdabench.storage.records import make_record, save_tensors

logger = logging.getLogger(__name__)


def dataset(experiment: Experiment, data: Path = Path("data")) -> None:
    """Load the dataset into one file, after every setting of the experiment has been checked.

    Args:
        data: folder of the data (default: $TDABENCH_DATA, else data/).
    """
    for name, method in experiment.methods.items():
        instantiate(method, f"methods.{name}")
    if experiment.sweep is not None:  # by name: an experiment that asks for none imports none of it
        importlib.import_module("tdabench.questions.sweep.stage").check_points(experiment)
    for where, model in models_of(experiment).items():
        instantiate(model, where)
    source = instantiate(experiment.data.component, "data.options")
    with measure_cost() as cost:
        loaded = source.load(data)
    files = hash_named_files(experiment.data.component.settings, data)
    record = make_record(
        {"source": experiment.data.source, "options": source}, cost=cost, files=files, **loaded.details
    )
    save_tensors(root_of(experiment) / "dataset.safetensors", loaded.tensors(), record)


def split(experiment: Experiment, repeat: int) -> None:
    """Draw the attribution pool, the queries and the warm-up set of one repeat, and plant wrong labels.

    Args:
        repeat: which repetition, from 0.
    """
    cell = Cell(root_of(experiment), repeat, 0)
    data = load_data(cell.dataset)
    stream = ("split", repeat)
    indices = split_indices(
        data.sizes["train"], data.sizes["test"], experiment.data, generator=make_generator(experiment.seed, *stream)
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
    record = make_record({"data": experiment.data}, inputs=[cell.dataset], seed=experiment.seed, stream=stream)
    save_tensors(cell.split, indices, record)


def train(experiment: Experiment, cell: Cell, checkpoint: int, machine: Machine) -> None:
    """Train one checkpoint on the whole attribution set.

    Args:
        checkpoint: which one, from 0.
    """
    from tdabench.models.states import read_state

    bench = Bench(experiment, cell, machine)
    stream = ("checkpoint", cell.repeat, cell.train_size, checkpoint)
    with measure_cost(bench.device) as cost:
        generator = make_generator(experiment.seed, *stream)
        model = bench.retrain(bench.train, generator, description=f"train checkpoint {checkpoint}")
    require_finite(model, f"Checkpoint {checkpoint}", "training.learning_rate", experiment.training.learning_rate)
    save_tensors(cell.checkpoint(checkpoint), read_state(model), bench.record(cost, stream=stream))


def retrain(experiment: Experiment, cell: Cell, shard: int, machine: Machine) -> None:
    """Retrain on the subsets of one shard and keep every query's loss and margin.

    Args:
        shard: which one, from 0.
    """
    from tdabench.bank.retrain import fill_shard
    from tdabench.training.losses import losses_of

    bench = Bench(experiment, cell, machine)
    bank = settle_bank(experiment, cell.root, cell.train_size)
    stream = ("bank", cell.repeat, cell.train_size)
    with measure_cost(bench.device) as cost:
        tensors = fill_shard(
            bench.train,
            bench.query,
            bank,
            shard=shard,
            seed=experiment.seed,
            stream=stream,
            retrain=bench.retrain,
            measure=losses_of(bench.query).loss_and_margin,
        )
    diverged = int(tensors["loss"].isnan().any(dim=2).sum())
    if diverged:
        count = tensors["loss"][..., 0].numel()
        logger.warning("%d of %d retrained models diverged; they are kept as NaN.", diverged, count)
    record = bench.record(cost, stream=stream, bank=bank, diverged=diverged)
    save_tensors(cell.bank(bank.shards)[shard], tensors, record)


def require_finite(model: nn.Module, what: str, setting: str, value: float) -> None:
    """Refuse a model whose training diverged."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError(f"{what} diverged: lower {setting} ({value}).")
