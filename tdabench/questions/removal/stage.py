"""The stages that remove examples, retrain, and compare."""

import logging
import sys
from pathlib import Path
from typing import Any

import torch

from tdabench.cost import measure_cost
from tdabench.experiment.read import Experiment
from tdabench.experiment.sections import RemovalSettings
from tdabench.questions.removal.effects import RemovalEffects, compare_removals, evaluate_removal, removal_effects
from tdabench.questions.removal.retrain import keep_all, remove_most_helpful
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell, cells_of, root_of
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, load_tensors, make_record, save_tensors
from tdabench.training.losses import losses_of

logger = logging.getLogger(__name__)


def keep(experiment: Experiment, cell: Cell, machine: Machine) -> None:
    """Retrain on the whole attribution set: the arm of the removals that no method changes."""
    settings, bench, stream = _require_removal(experiment), Bench(experiment, cell, machine), _stream(cell)
    with measure_cost(bench.device) as cost:
        losses = keep_all(bench.train, bench.query, settings, **_how(bench, stream))
    save_tensors(cell.kept, losses, bench.record(cost, stream=stream, removal=settings))


def remove(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Retrain without the examples that one method calls most helpful, and without matched random ones.

    Args:
        method: its key in the experiment file.
    """
    settings, bench, stream = _require_removal(experiment), Bench(experiment, cell, machine), _stream(cell)
    path = cell.scores(method)
    status = load_record(path)["status"]
    details: dict[str, Any] = {"stream": stream, "removal": settings, "method": method, "status": status}
    if not Outcome.parse(status).is_ok:
        save_tensors(cell.removal(method), {}, bench.record(None, path, **details))
        return
    scores = load_tensors(path)["scores"]
    with measure_cost(bench.device) as cost:
        losses = remove_most_helpful(bench.train, bench.query, scores, settings, **_how(bench, stream))
    diverged = int(losses["removed_loss"].isnan().sum() + losses["matched_loss"].isnan().sum())
    if diverged:
        logger.warning("%d of %d retrained models diverged.", diverged, 2 * losses["removed_loss"].numel())
    save_tensors(cell.removal(method), losses, bench.record(cost, path, diverged=diverged, **details))


def contrast(experiment: Experiment) -> None:
    """Compare every method's removals with matched random ones and with each other; make tables and figure."""
    from tdabench.questions.removal.report import write_removal

    torch.set_num_threads(1)
    _require_removal(experiment)
    rows, pairs, inputs, root = [], [], [], root_of(experiment)
    for cell in cells_of(experiment, root):
        inputs += [cell.kept, *(cell.removal(method) for method in experiment.removal_methods)]
        cell_rows, cell_pairs = _contrast_cell(experiment, cell)
        rows += cell_rows
        pairs += cell_pairs
    settings = {"removal": experiment.removal, "evaluation": experiment.evaluation}
    record = make_record(settings, inputs=inputs, seed=experiment.seed)
    sys.stdout.write(write_removal(experiment, root, rows, pairs, record))


def _contrast_cell(experiment: Experiment, cell: Cell) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of every method and pair of methods, at every count, for one repeat and size."""
    settings, evaluation = experiment.removal, experiment.evaluation
    place = {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size}
    effects = {method: _load_effects(cell.removal(method), cell.kept) for method in experiment.removal_methods}
    statuses = {method: load_record(cell.removal(method))["status"] for method in effects}
    rows, pairs = [], []
    for number, count in enumerate(settings.counts):
        # Equal for every method: the intervals are paired.
        stream = ("bootstrap", "removal", cell.repeat, cell.train_size, count)
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
    losses, full = load_tensors(removal), load_tensors(keep)["loss"]
    if not losses:
        return []
    arms = zip(losses["removed_loss"], losses["matched_loss"], losses["overlap"], strict=True)
    return [removal_effects(removed, matched, full, overlap) for removed, matched, overlap in arms]


def _stream(cell: Cell) -> tuple[str | int, ...]:
    """Name the streams of training seeds and matched draws: the same ones for every method."""
    return ("removal", cell.repeat, cell.train_size)


def _how(bench: Bench, stream: tuple[str | int, ...]) -> dict[str, Any]:
    return {
        "seed": bench.experiment.seed,
        "stream": stream,
        "retrain": bench.retrain,
        "measure": losses_of(bench.query).loss_and_margin,
    }


def _require_removal(experiment: Experiment) -> RemovalSettings:
    if experiment.removal is None:
        raise ValueError(f"{experiment.name} asks for no removal: give it the key removal.")
    return experiment.removal
