"""The stages that remove examples, retrain, and compare."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from tdabench.cost import measure_cost
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.experiment.sections import RemovalSettings
from tdabench.questions.removal.effects import RemovalEffects
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.records import load_record, load_tensors, make_record, save_tensors

logger = logging.getLogger(__name__)


def keep(arguments: argparse.Namespace) -> None:
    """Retrain on the whole attribution set: the arm of the removals that no method changes."""
    from tdabench.questions.removal.retrain import keep_all

    bench = Bench(arguments)
    settings = _require_removal(bench.experiment, arguments)
    stream = _stream(arguments)
    with measure_cost(bench.device) as cost:
        losses = keep_all(bench.train, bench.query, settings, **_how(bench, stream))
    save_tensors(arguments.output, losses, bench.record(arguments, cost, stream=stream, removal=settings))


def remove(arguments: argparse.Namespace) -> None:
    """Retrain without the examples that one method calls most helpful, and without matched random ones."""
    from tdabench.questions.removal.retrain import remove_most_helpful

    bench = Bench(arguments)
    settings = _require_removal(bench.experiment, arguments)
    stream = _stream(arguments)
    details: dict[str, Any] = {"stream": stream, "removal": settings, "method": arguments.method}
    status = load_record(arguments.scores)["status"]
    if status.startswith("unsupported"):
        save_tensors(arguments.output, {}, bench.record(arguments, None, status=status, **details))
        return
    scores = load_tensors(arguments.scores)["scores"]
    with measure_cost(bench.device) as cost:
        losses = remove_most_helpful(bench.train, bench.query, scores, settings, **_how(bench, stream))
    diverged = int(losses["removed_loss"].isnan().sum() + losses["matched_loss"].isnan().sum())
    if diverged:
        logger.warning("%d of %d retrained models diverged.", diverged, 2 * losses["removed_loss"].numel())
    record = bench.record(arguments, cost, status=status, diverged=diverged, **details)
    save_tensors(arguments.output, losses, record)


def contrast(arguments: argparse.Namespace) -> None:
    """Compare every method's removals with matched random ones and with each other; make tables and figure."""
    from tdabench.questions.removal.report import write_removal

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    _require_removal(experiment, arguments)
    rows, pairs, inputs = [], [], []
    for repeat in range(experiment.repeats):
        for size in experiment.data.train_sizes:
            place = {"experiment": experiment.name, "repeat": repeat, "train_size": size}
            files = _files(experiment, arguments.output / str(repeat) / str(size))
            inputs += files.values()
            cell_rows, cell_pairs = _contrast_cell(experiment, place, files)
            rows += cell_rows
            pairs += cell_pairs
    settings = {"removal": experiment.removal, "evaluation": experiment.evaluation}
    record = make_record(settings, inputs=inputs, seed=experiment.seed)
    sys.stdout.write(write_removal(experiment, arguments.output, rows, pairs, record))


def _contrast_cell(
    experiment: Experiment, place: dict[str, Any], files: dict[str, Path]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of every method and pair of methods, at every count, for one repeat and size."""
    from tdabench.questions.removal.effects import compare_removals, evaluate_removal

    settings, evaluation = experiment.removal, experiment.evaluation
    effects = {method: _load_effects(files[method], files[""]) for method in experiment.removal_methods}
    statuses = {method: load_record(files[method])["status"] for method in effects}
    rows, pairs = [], []
    for number, count in enumerate(settings.counts):
        # Equal for every method: the intervals are paired.
        stream = ("bootstrap", "removal", place["repeat"], place["train_size"], count)
        found = {method: arms[number] for method, arms in effects.items() if arms}
        for method, status in statuses.items():
            row = {**place, "method": method, "count": count, "retrains": settings.retrains, "status": status}
            if method in found:
                generator = make_generator(experiment.seed, *stream)
                row |= evaluate_removal(found[method], evaluation, generator=generator)
            rows.append(row)
        compared = compare_removals(found, evaluation, generator=make_generator(experiment.seed, *stream))
        pairs += [{**place, "count": count, **pair} for pair in compared]
    return rows, pairs


def _load_effects(removal: Path, keep: Path) -> list[RemovalEffects]:
    """Return a method's effects at every count; none if it could not run."""
    from tdabench.questions.removal.effects import removal_effects

    losses, full = load_tensors(removal), load_tensors(keep)["loss"]
    if not losses:
        return []
    arms = zip(losses["removed_loss"], losses["matched_loss"], losses["overlap"], strict=True)
    return [removal_effects(removed, matched, full, overlap) for removed, matched, overlap in arms]


def _files(experiment: Experiment, cell: Path) -> dict[str, Path]:
    """Return the file of each method's removals, and under no name that of the whole set."""
    methods = {method: cell / "remove" / f"{method}.safetensors" for method in experiment.removal_methods}
    return {"": cell / "keep" / "all.safetensors", **methods}


def _stream(arguments: argparse.Namespace) -> tuple[str | int, ...]:
    """Name the streams of training seeds and matched draws: the same ones for every method."""
    return ("removal", arguments.repeat, arguments.train_size)


def _how(bench: Bench, stream: tuple[str | int, ...]) -> dict[str, Any]:
    from tdabench.training.losses import losses_of

    return {
        "seed": bench.experiment.seed,
        "stream": stream,
        "retrain": bench.retrain,
        "measure": losses_of(bench.query).loss_and_margin,
    }


def _require_removal(experiment: Experiment, arguments: argparse.Namespace) -> RemovalSettings:
    if experiment.removal is None:
        raise ValueError(f"{arguments.experiment} asks for no removal: give it the key removal.")
    return experiment.removal
