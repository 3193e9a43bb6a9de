"""The stages of a sweep: run the method at one point of the grid; judge every point on the tuning queries."""

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tdabench.bank.shards import load_shards
from tdabench.cost import measure_cost
from tdabench.experiment.components import instantiate
from tdabench.experiment.derived import component_at, settle_bank
from tdabench.experiment.read import Experiment
from tdabench.questions.diagnostics.diagnose import diagnose_traces
from tdabench.questions.sweep.points import Choice, Judgement, choose_point, judge_points
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.scoring import try_to_score
from tdabench.stages.trial import Trial
from tdabench.storage.cell import Cell, cells_of, root_of
from tdabench.storage.records import load_record, load_tensors, make_record, save_tensors

logger = logging.getLogger(__name__)


def sweep(experiment: Experiment, cell: Cell, point: str, machine: Machine) -> None:
    """Score the tuning queries at one point of the sweep; the scored queries are not even handed to the method.

    A point where every chain diverges, or that the method does not support, is a result: its status says so. Every
    point has the same random stream, so that points differ by their settings and not by luck as well, which makes
    their paired differences sharper. The stream is not that of ``attribute``: the settings that are chosen here are
    judged there on other draws than those that they were lucky with here.

    Args:
        point: its name: setting=value,... in alphabetical order.
    """
    component = component_at(experiment, point)
    trial = Trial(experiment, cell, experiment.sweep.method, machine)
    attributor, bench = instantiate(component, f"sweep point {point}"), trial.bench
    stream = ("sweep", cell.repeat, cell.train_size)
    with trial.lent_problem(bench.tuning, folder=f"sweep-{point}") as problem:
        with measure_cost(bench.device, workspace=problem.workspace) as cost:
            scored, outcome = try_to_score(trial, attributor, problem, stream)
        tensors, diagnosis = _summarise(problem.workspace / "traces.safetensors")
    if scored is None:
        logger.warning("%s: %s", point, outcome)
    else:
        cost, tensors = scored.cost, {**scored.tensors, **tensors}
    details = {"stream": stream, "point": point, "method": component, "attributor": attributor}
    record = bench.record(cost, *trial.checkpoints, status=str(outcome), diagnosis=diagnosis, **details)
    save_tensors(cell.point(point), tensors, record)


def choose(experiment: Experiment) -> None:
    """Judge every point of the sweep against the bank's tuning queries; make tables, figures and the choice."""
    from tdabench.questions.sweep.report import write_sweep

    torch.set_num_threads(1)
    if experiment.sweep is None:
        raise ValueError(f"{experiment.name} sweeps no settings: give it the key sweep.")
    root = root_of(experiment)
    rows, traces, inputs, choices = [], [], [], {}
    for size in experiment.data.train_sizes:
        points = [_Points(experiment, cell) for cell in cells_of(experiment, root, [size])]
        judgements = [one.judge() for one in points]
        confidence = experiment.evaluation.confidence
        choices[size] = None if None in judgements else choose_point(judgements, confidence)
        for one, judgement in zip(points, judgements, strict=True):
            rows += one.rows(judgement, choices[size])
            traces += one.traces()
            inputs += one.inputs
    settings = {"sweep": experiment.sweep, "evaluation": experiment.evaluation}
    record = make_record(settings, inputs=list(dict.fromkeys(inputs)), seed=experiment.seed)
    sys.stdout.write(write_sweep(experiment, root, rows, traces, choices, record))


def check_points(experiment: Experiment) -> None:
    """Check the settings of every point of a sweep, if the experiment has one.

    Raises:
        ValueError: If a key of the grid is no setting of the method, a value is refused, or a key is the name of a
            column of the table.
    """
    from tdabench.questions.sweep.report import SWEEP_COLUMNS

    if experiment.sweep is None:
        return
    taken = [key for key in experiment.sweep.grid if key in SWEEP_COLUMNS]
    if taken:
        raise ValueError(f"sweep.grid can't have the key {taken[0]}: the table of the sweep has a column of that name.")
    for point in experiment.sweep.points:
        try:
            instantiate(component_at(experiment, point), "sweep.grid")
        except ValueError as error:
            raise ValueError(f"The point {point} of the sweep can't be: {error}") from error


class _Points:
    """The points of one repeat and size, and the bank that judges them."""

    def __init__(self, experiment: Experiment, cell: Cell) -> None:
        self.experiment = experiment
        self.place = {"experiment": experiment.name, "repeat": cell.repeat, "train_size": cell.train_size}
        self.split = load_tensors(cell.split)
        self.num_tuning = len(self.split["tuning"])
        self.bank = cell.bank(settle_bank(experiment, cell.root, cell.train_size).shards)
        paths = {point: cell.point(point) for point in experiment.sweep.points}
        self.inputs = [cell.split, *self.bank, *paths.values()]
        self.tensors = {point: load_tensors(path) for point, path in paths.items()}
        self.records = {point: load_record(path) for point, path in paths.items()}

    def judge(self) -> Judgement | None:
        """Judge the points that have scores; None if none has."""
        scores = {point: tensors["scores"] for point, tensors in self.tensors.items() if "scores" in tensors}
        if not scores:
            return None
        bank = load_shards(self.bank)
        num_scored = len(self.split["query"])
        if bank.loss.shape[2] != num_scored + self.num_tuning:
            raise ValueError(
                f"{self.bank[0]} has losses of {bank.loss.shape[2]} queries, and the split {num_scored} scored and "
                f"{self.num_tuning} tuning ones: they are of different runs. Delete the bank, run the workflow again."
            )
        stream = ("bootstrap", "sweep", self.place["repeat"], self.place["train_size"])
        generator = make_generator(self.experiment.seed, *stream)
        # The losses of the scored queries are cut off before anything is computed.
        tuning = bank.loss[..., num_scored:]
        return judge_points(scores, bank.masks, tuning, self.experiment.evaluation, generator=generator)

    def rows(self, judgement: Judgement | None, choice: Choice | None) -> list[dict[str, Any]]:
        """Return a row of the table for each point."""
        found = {} if judgement is None else judgement.describe(self.experiment.evaluation.confidence)
        rows = []
        for point, settings in self.experiment.sweep.points.items():
            record = self.records[point]
            row = {**self.place, "point": point, **settings, "tuning_queries": self.num_tuning}
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


def _summarise(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Reduce the traces that a method kept to means over examples, and diagnose them; nothing if it kept none."""
    if not path.is_file():
        return {}, None
    traces = load_tensors(path)
    train, query = traces["train"], traces["query"]
    kept = {name: traces[name] for name in ("step_loss", "distance", "cpu_seconds") if name in traces}
    kept |= {"loss": train.mean(dim=2), "tuning_loss": query.mean(dim=2)}
    for name, short in (("train_checkpoint", "checkpoint_loss"), ("query_checkpoint", "tuning_checkpoint_loss")):
        if name in traces:
            kept[short] = traces[name].mean()
    return kept, diagnose_traces(train, query, markov=load_record(path).get("markov", True))
