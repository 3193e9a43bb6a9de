"""The jobs of an experiment, and what each takes. Imports no torch."""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tdabench.planning.costs import Costs, Size

if TYPE_CHECKING:
    from tdabench.experiment.read import Experiment

# A shard of retrains takes so many seconds where `bank.shards` says auto: long beside its start, short beside an hour.
SHARD_SECONDS = 600.0
FLOAT_BYTES = 4
# A score is there in float64 and once more as float32; a draw's losses thrice, all in float64 (`attributors.blocks`).
SCORE_BYTES, LOSS_BYTES = 12, 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Jobs of one rule that are alike.

    Attributes:
        what: Method or size, for a person.
        count: How many there are.
        seconds: Of one, start included; None if it was not measured.
        host_bytes: Most memory of one; None if it was not measured.
        device_bytes: Most memory of the GPU.
        disk_bytes: What one leaves on the disk.
    """

    rule: str
    what: str
    count: int
    seconds: float | None
    host_bytes: float | None
    device_bytes: float | None
    disk_bytes: float


def num_shards(experiment: "Experiment", costs: Costs | None, train_size: int) -> int:
    """Return the number of shards of a bank: the setting, or with ``auto`` as many as take ten minutes each.

    A shard holds whole subsets. So one that retrains for more than ten minutes a subset holds a single one; and a bank
    that takes less is one shard.

    Raises:
        ValueError: If it says auto and training was not measured.
    """
    bank = experiment.bank
    if bank is None:
        return 0
    if bank.shards != "auto":
        return int(bank.shards)
    model = model_seconds(experiment, costs, train_size)
    if model is None:
        raise ValueError(
            f"bank.shards says auto, and what a model of {experiment.name} takes was not measured: "
            f"`snakemake results/{experiment.name}/measure/costs.json` does, or give a number of shards."
        )
    subsets = min(max(int(SHARD_SECONDS / (model * bank.retrains)), 1), bank.subsets)
    return math.ceil(bank.subsets / subsets)


def model_seconds(experiment: "Experiment", costs: Costs | None, train_size: int) -> float | None:
    """Return the seconds of retraining one model on a subset and measuring the queries; None if not measured."""
    if costs is None or experiment.bank is None:
        return None
    found = costs.predict("train", training_size(experiment, round(train_size * experiment.bank.fraction)))
    loss = costs.predict("loss", Size(query=num_queries(experiment)))
    return None if found is None or loss is None else found["seconds"] + loss["seconds"]


def training_size(experiment: "Experiment", examples: int) -> Size:
    """Return the examples that a training run sees: every one in each epoch, and those of the warm-up."""
    recipe = experiment.training
    return Size(train=recipe.epochs * examples + recipe.warmup_steps * recipe.batch_size)


def num_queries(experiment: "Experiment") -> int:
    """Count all queries: scored ones and tuning ones."""
    return experiment.data.queries + experiment.data.tuning_queries


def size_of(experiment: "Experiment", method: str | None, train_size: int) -> Size:
    """Return what a method's cost grows with."""
    reference = experiment.data.reference
    draws = experiment.methods[method].settings.get("draws", 0) if method else 0
    planted = train_size if experiment.data.mislabelled else 0
    return Size(
        train=train_size,
        query=num_queries(experiment) + planted,
        reference=train_size if reference == "train" else int(reference),
        draws=draws if type(draws) is int else 0,
    )


def cost_of(
    rule: str, experiment: "Experiment", costs: Costs, train_size: int, method: str | None = None
) -> dict[str, float] | None:
    """Return each quantity of one job without its start; None if it was not measured."""
    if rule == "train":
        return _train(experiment, costs, train_size)
    if rule == "retrain":
        return _retrain(experiment, costs, train_size)
    if rule == "judge":  # of all methods, one after the other: what was measured is one of them
        found = costs.predict("evaluate", Size(train=train_size, query=num_queries(experiment)))
        return found and {**found, "seconds": found["seconds"] * len(experiment.methods)}
    if rule in ("attribute", "sample", "calibrate"):
        return _of_method(rule, experiment, costs, train_size, method)
    return None


def _of_method(
    rule: str, experiment: "Experiment", costs: Costs, train_size: int, method: str
) -> dict[str, float] | None:
    kind, size = f"{rule}:{method}", size_of(experiment, method, train_size)
    found = costs.predict(kind, size)
    if found is None or kind not in costs.batches:
        return found
    held = costs.example_bytes * (size.train + size.query + size.reference)
    return _add_memory(found, held, held + _held_results(rule, experiment, size, method))


def _held_results(rule: str, experiment: "Experiment", size: Size, method: str) -> int:
    """Return the bytes of the losses that a job of a method keeps, and of its scores."""
    losses = LOSS_BYTES * size.draws * (size.train + size.query)
    if rule != "attribute":
        return losses
    scores = SCORE_BYTES * size.train * size.query
    limit = experiment.methods[method].settings.get("memory_gib")
    if type(limit) in (int, float):  # what exceeds it is made in blocks, and lies on disk
        scores = int(min(scores, limit * 2**30))
    return (experiment.num_chains(method) or 1) * losses + scores


def _add_memory(found: dict[str, float], device: int, host: int) -> dict[str, float]:
    """Add what doesn't depend on batches; of the device's only where something was measured there."""
    device_bytes = found["device_bytes"]
    return {
        **found,
        "host_bytes": found["host_bytes"] + host,
        "device_bytes": device_bytes + device if device_bytes else 0.0,
    }


def _train(experiment: "Experiment", costs: Costs, examples: int) -> dict[str, float] | None:
    found = costs.predict("train", training_size(experiment, examples))
    held = costs.example_bytes * examples
    return None if found is None else _add_memory(found, held, held)


def _retrain(experiment: "Experiment", costs: Costs, train_size: int) -> dict[str, float] | None:
    bank = experiment.bank
    one = _train(experiment, costs, round(train_size * bank.fraction))
    loss = costs.predict("loss", Size(query=num_queries(experiment)))
    if one is None or loss is None:
        return None
    models = math.ceil(bank.subsets / num_shards(experiment, costs, train_size)) * bank.retrains
    held = costs.example_bytes * num_queries(experiment)
    largest = _add_memory({quantity: max(one[quantity], loss[quantity]) for quantity in one}, held, held)
    return {**largest, "seconds": models * (one["seconds"] + loss["seconds"])}


def list_jobs(experiment: "Experiment", costs: Costs) -> Iterator[Job]:
    """Return the jobs of an experiment's bank and methods, those that take time first; alike ones together."""
    for train_size in experiment.data.train_sizes:
        yield _job("train", experiment, costs, train_size, experiment.checkpoints)
        if experiment.bank is not None:
            shards = num_shards(experiment, costs, train_size)
            yield _job("retrain", experiment, costs, train_size, shards)
        for method in experiment.methods:
            if experiment.has_calibration(method):
                yield _job("calibrate", experiment, costs, train_size, 1, method)
            if chains := experiment.num_chains(method):
                yield _job("sample", experiment, costs, train_size, chains, method)
            yield _job("attribute", experiment, costs, train_size, 1, method)
            if method in experiment.token_methods:
                yield _job("tokens", experiment, costs, train_size, 1, method)
        if experiment.bank is not None:
            yield _job("judge", experiment, costs, train_size, 1)


def _job(
    rule: str, experiment: "Experiment", costs: Costs, train_size: int, count: int, method: str | None = None
) -> Job:
    found = cost_of(rule, experiment, costs, train_size, method)
    known = found or dict.fromkeys(("seconds", "host_bytes", "device_bytes"))
    return Job(
        rule=rule,
        what=f"{train_size:,}" if method is None else f"{method}, {train_size:,}",
        count=count * experiment.repeats,
        seconds=None if found is None else costs.start_seconds + found["seconds"],
        host_bytes=known["host_bytes"],
        device_bytes=known["device_bytes"],
        disk_bytes=_output_bytes(rule, experiment, costs, train_size, method, found or {}),
    )


def _output_bytes(
    rule: str, experiment: "Experiment", costs: Costs, train_size: int, method: str | None, found: dict[str, float]
) -> float:
    """Return the bytes of a job's file, and of the scratch that it leaves."""
    queries, bank = num_queries(experiment), experiment.bank
    if rule == "attribute":
        return float(FLOAT_BYTES * train_size * queries) + found.get("disk_bytes", 0.0)
    if rule == "sample":
        draws = size_of(experiment, method, train_size).draws
        return float(FLOAT_BYTES * draws * (train_size + queries))
    if rule == "retrain" and bank is not None:
        subsets = bank.subsets / num_shards(experiment, costs, train_size)
        return subsets * (train_size + 2 * FLOAT_BYTES * bank.retrains * queries)
    return found.get("disk_bytes", 0.0)


def count_others(experiment: "Experiment") -> dict[str, int]:
    """Count the jobs that take little more than their start, by rule."""
    found = {"dataset": 1, "split": experiment.repeats, "properties": len(experiment.methods), "report": 1}
    if experiment.bank is None:  # else it is one of those that take time
        found["judge"] = experiment.repeats * len(experiment.data.train_sizes)
    return found
