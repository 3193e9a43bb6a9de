"""How a method's LDS grows with its draws, and where it would end."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from tdabench.bank.bank import Bank
from tdabench.evaluation.lds import average_retrains
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.diagnose import DIVERGED
from tdabench.questions.diagnostics.stage import load_traces
from tdabench.questions.lds.extrapolation import extrapolate
from tdabench.questions.lds.growth import estimated_rows, estimates_at_once, measure_growth
from tdabench.seeds import make_generator
from tdabench.storage.cell import Cell
from tdabench.storage.matrix import Rows
from tdabench.storage.records import load_record, open_matrices

Traces = dict[str, Tensor]


def grow_from(experiment: Experiment, cell: Cell, method: str, bank: Bank, scored: int) -> dict[str, Any]:
    """Return the growth of a method's LDS with its draws, from the traces that it kept; ``growth`` says whether any.

    Nothing is run again.
    """
    path = cell.traces(method)
    if not path.is_file():
        return {"status": f"no growth: {method} keeps no traces", "traces": False, "growth": False}
    status, content = _grow(experiment, cell, method, bank, scored)
    return {"status": status, "traces": True, "growth": bool(content), **content}


def _grow(experiment: Experiment, cell: Cell, method: str, bank: Bank, scored: int) -> tuple[str, dict[str, Any]]:
    path, scores = cell.traces(method), cell.scores(method)
    record, traces = load_record(path), load_traces(path, scores)
    if not record.get("markov", True):
        return "no growth: the draws are laid out as a whole, so that the first of them are no smaller design", {}
    train, query = _converged(traces["train"], traces["query"])
    truth = average_retrains(bank.masks, bank.loss)
    truth = dataclasses.replace(truth, losses=truth.losses[:, :scored])
    at_once = estimates_at_once(query, train, truth, experiment.evaluation)
    estimate = _find_estimate(query, train, open_matrices(scores)["scores"], at_once)
    if estimate is None:
        return "no growth: the scores are neither the covariance nor the correlation of the traces", {}
    stream = ("bootstrap", cell.repeat, cell.train_size)  # that of the LDS: the last point is the table's
    asked = (query[..., :scored], train, estimate, truth, experiment.evaluation)
    points = measure_growth(*asked, generator=make_generator(experiment.seed, *stream))
    limit = extrapolate(*asked, generator=make_generator(experiment.seed, *stream))
    spent = _Spent(traces, load_record(scores))
    rows = [
        {"draws": one.draws, **dataclasses.asdict(one.interval), "nan_queries": one.nan_queries, **spent.at(one.draws)}
        for one in points
    ]
    found = {"chains": traces["train"].shape[0], "queries": scored, "points": rows, "limit": dataclasses.asdict(limit)}
    return "ok", found


def _converged(train: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out the chains that the scores leave out."""
    kept = (train.abs() < DIVERGED).all(dim=(1, 2)) & (query.abs() < DIVERGED).all(dim=(1, 2))
    return train[kept], query[kept]


def _find_estimate(query: Tensor, train: Tensor, scores: Rows, at_once: int) -> Any:
    """Return the function of the traces that makes the scores; None if no known one does."""
    from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance

    if min(query.shape[:2]) < 1 or query.shape[1] < 2:
        return None
    tolerance = 1e-4 * max(part.abs().max().item() for part in scores.split(at_once))
    for estimate in (loss_covariance, loss_correlation):
        found = estimated_rows(query[..., : scores.shape[0]], train, estimate)
        both = zip(found.split(at_once), scores.split(at_once), strict=True)
        if all(torch.allclose(one.to(other), other, rtol=1e-3, atol=tolerance) for one, other in both):
            return estimate
    return None


class _Spent:
    """What a method had spent when every chain was at some draw."""

    def __init__(self, traces: Traces, record: dict[str, Any]) -> None:
        settings = record.get("attributor")
        settings = settings if isinstance(settings, dict) else {}
        parts = list(record.get("cost", {}).values())
        self.burn_in, self.steps = settings.get("burn_in", 0), settings.get("steps_between_draws", 1)
        # A chain that diverged has stopped.
        self.clock = traces["cpu_seconds"].nan_to_num(0).cummax(dim=1).values if "cpu_seconds" in traces else None
        self.draws = traces["train"].shape[1]
        # Losses at a draw: of every chain, for every example.
        self.measured = len(traces["train"]) * (traces["train"].shape[2] + traces["query"].shape[2])
        self.before = self.measured if "train_checkpoint" in traces else 0
        self.seconds, self.passes = _sum_of(parts, "cpu_seconds"), _sum_of(parts, "passes")

    def at(self, draws: int) -> dict[str, int | float | None]:
        """Return CPU seconds, by the chains' own clock if they have one, and passes: of the draws, and of all steps."""
        share = (self.burn_in + draws * self.steps) / (self.burn_in + self.draws * self.steps)
        seconds, passes = self.seconds, self.passes
        if self.clock is not None:
            seconds = self.clock[:, draws - 1].sum().item()
        elif seconds is not None:
            seconds *= share
        if passes is not None:
            steps = max(passes - self.before - self.draws * self.measured, 0)
            left = passes - steps - self.before
            passes = round(self.before + left * draws / self.draws + steps * share)
        return {"cpu_seconds": seconds, "passes": passes}


def _sum_of(parts: list[dict[str, Any]], name: str) -> int | float | None:
    """Add up the phases; nothing is known of the whole if a phase has nothing."""
    values = [part.get(name) for part in parts]
    return sum(values) if values and None not in values else None
