"""The stage that judges the points of a sweep, on the tuning queries alone."""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.planning.jobs import settle_bank
from tdabench.questions.sweep.points import Choice, Judgement
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record, load_tensors, make_record


def choose(arguments: argparse.Namespace) -> None:
    """Judge every point of the sweep against the bank's tuning queries; make tables, figures and the choice.

    The bank's losses of the scored queries are cut off before anything is computed.
    """
    from tdabench.questions.sweep.points import choose_point
    from tdabench.questions.sweep.report import write_sweep

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    if experiment.sweep is None:
        raise ValueError(f"{arguments.experiment} sweeps no settings: give it the key sweep.")
    rows, traces, inputs, choices = [], [], [], {}
    for size in experiment.data.train_sizes:
        cells = [_Cell(experiment, arguments.output, repeat, size) for repeat in range(experiment.repeats)]
        judgements = [cell.judge() for cell in cells]
        confidence = experiment.evaluation.confidence
        choices[size] = None if None in judgements else choose_point(judgements, confidence)
        for cell, judgement in zip(cells, judgements, strict=True):
            rows += cell.rows(judgement, choices[size])
            traces += cell.traces()
            inputs += cell.inputs
    settings = {"sweep": experiment.sweep, "evaluation": experiment.evaluation}
    record = make_record(settings, inputs=list(dict.fromkeys(inputs)), seed=experiment.seed)
    sys.stdout.write(write_sweep(experiment, arguments.output, rows, traces, choices, record))


class _Cell:
    """The points of one repeat and size, and the bank that judges them."""

    def __init__(self, experiment: Experiment, folder: Path, repeat: int, size: int) -> None:
        cell = folder / str(repeat) / str(size)
        self.experiment = experiment
        self.place = {"experiment": experiment.name, "repeat": repeat, "train_size": size}
        self.split = folder / str(repeat) / "split.safetensors"
        shards = settle_bank(experiment, folder, size).shards
        self.bank = [cell / "bank" / f"{shard}.safetensors" for shard in range(shards)]
        self.points = {point: cell / "sweep" / f"{point}.safetensors" for point in experiment.sweep.points}
        self.inputs = [self.split, *self.bank, *self.points.values()]
        self.tensors = {point: load_tensors(path) for point, path in self.points.items()}
        self.records = {point: load_record(path) for point, path in self.points.items()}

    def judge(self) -> Judgement | None:
        """Judge the points that have scores; None if none has."""
        from tdabench.questions.sweep.points import judge_points

        scores = {point: tensors["scores"] for point, tensors in self.tensors.items() if "scores" in tensors}
        if not scores:
            return None
        split, shards = load_tensors(self.split), [load_tensors(path) for path in self.bank]
        losses = torch.cat([shard["loss"] for shard in shards])
        num_scored, num_tuning = len(split["query"]), len(split["tuning"])
        if losses.shape[2] != num_scored + num_tuning:
            raise ValueError(
                f"{self.bank[0]} has losses of {losses.shape[2]} queries, and {self.split} {num_scored} scored and "
                f"{num_tuning} tuning ones: they are of different runs. Delete the bank and run the workflow again."
            )
        return judge_points(
            scores,
            torch.cat([shard["masks"] for shard in shards]),
            losses[..., num_scored:],
            self.experiment.evaluation,
            generator=make_generator(
                self.experiment.seed, "bootstrap", "sweep", self.place["repeat"], self.place["train_size"]
            ),
        )

    def rows(self, judgement: Judgement | None, choice: Choice | None) -> list[dict[str, Any]]:
        """Return a row of the table for each point."""
        found = {} if judgement is None else judgement.describe(self.experiment.evaluation.confidence)
        rows = []
        for point, settings in self.experiment.sweep.points.items():
            record = self.records[point]
            row = {**self.place, "point": point, **settings, "tuning_queries": len(load_tensors(self.split)["tuning"])}
            row |= {**found.get(point, {}), **_describe_draws(self.tensors[point], record)}
            row["cpu_seconds"] = sum(part["cpu_seconds"] for part in record["cost"].values())
            rows.append({**row, "status": record["status"], "choice": _word(point, choice)})
        return rows

    def traces(self) -> list[dict[str, Any]]:
        """Return the mean training loss of every point, chain and draw; draw 0 is the checkpoint."""
        rows = []
        for point, tensors in self.tensors.items():
            start = tensors.get("checkpoint_loss", torch.tensor(torch.nan)).item()
            for chain, losses in enumerate(tensors.get("loss", torch.empty(0, 0)).tolist()):
                place = {**self.place, "point": point, "chain": chain}
                rows += [{**place, "draw": draw, "loss": loss} for draw, loss in enumerate([start, *losses])]
        return rows


def _describe_draws(tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> dict[str, Any]:
    """Say how the draws went, where there are any: how far the loss went from the checkpoint's, and how they mix."""
    diagnosis = record.get("diagnosis") or {}
    row = {"diverged_chains": diagnosis.get("diverged_chains")}
    if "checkpoint_loss" in tensors and diagnosis["diverged_chains"] < diagnosis["chains"]:
        last = tensors["loss"][:, -1]
        row["loss_change"] = (last[last.isfinite()].mean() - tensors["checkpoint_loss"]).item()
    row["effective_draws"] = (diagnosis.get("effective_draws") or {}).get("median")
    row["rhat_high"] = (diagnosis.get("rhat") or {}).get("high")
    return row


def _word(point: str, choice: Choice | None) -> str:
    """Say how a point stands to the best; nothing if it has no LDS in some repeat."""
    if choice is None:
        return ""
    if point == choice.best:
        return "best"
    return "not told apart" if point in choice.together else "worse" if point in choice.worse else ""
