"""The stage that judges a cell: every method against the bank, and against each other."""

from typing import Any

import torch

from tdabench.bank.bank import Bank
from tdabench.bank.shards import load_shards
from tdabench.evaluation.evaluate import evaluate_scores
from tdabench.experiment.read import Experiment
from tdabench.planning.jobs import settle_bank
from tdabench.questions.lds.agreement import compare_methods
from tdabench.questions.lds.growth_stage import grow_from
from tdabench.questions.lds.judge import compare_scores, mean_lds_of
from tdabench.seeds import make_generator
from tdabench.storage.cell import Cell
from tdabench.storage.matrix import Rows
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, load_tensors, make_record, open_matrices, save_json


def judge(experiment: Experiment, cell: Cell) -> None:
    """Judge every method: its LDS against the bank, paired differences, growth with its draws, and agreement.

    A method without scores is named with the reason. Without a bank the methods are compared with each other alone.
    """
    torch.set_num_threads(1)
    files = {method: cell.scores(method) for method in experiment.methods}
    records = {method: load_record(path) for method, path in files.items()}
    outcomes = {method: Outcome.of(record) for method, record in records.items()}
    statuses = {method: str(outcome) for method, outcome in outcomes.items()}
    scores = {method: open_matrices(files[method])["scores"] for method in files if outcomes[method].is_ok}
    num_scored = len(load_tensors(cell.split, ["query"])["query"])
    inputs, content = [cell.split, *files.values()], {}
    if experiment.bank is not None:
        paths = cell.bank(settle_bank(experiment, cell.root, cell.train_size).shards)
        bank, varied = load_shards(paths), [cell.variations(method) for method in experiment.varied_methods]
        place = {"seed": experiment.seed, "place": (cell.repeat, cell.train_size)}
        variations = _variations(experiment, cell, scores, bank, num_scored)
        compared = compare_scores(
            scores,
            bank.masks,
            bank.loss,
            experiment.evaluation,
            num_scored=num_scored,
            variations=variations,
            **place,
        )
        content["lds"] = {method: _evaluate(experiment, cell, scores.get(method), bank, num_scored) for method in files}
        unsupported = {method: status for method, status in statuses.items() if method not in scores}
        content["comparison"] = {**compared, "unsupported": unsupported, "seconds_per_model": _seconds_per_model(bank)}
        content["growth"] = {method: grow_from(experiment, cell, method, bank, num_scored) for method in scores}
        inputs += [*paths, *varied, *(path for method in scores if (path := cell.traces(method)).is_file())]
    content["agreement"] = _agree(experiment, cell, scores, num_scored)
    settings = {"evaluation": experiment.evaluation, "methods": list(experiment.methods)}
    save_json(
        cell.judgement,
        {"statuses": statuses, **content},
        make_record(settings, inputs=inputs, seed=experiment.seed),
    )


def _evaluate(experiment: Experiment, cell: Cell, scores: Rows | None, bank: Bank, num_scored: int) -> dict[str, Any]:
    if scores is None:
        return {"mean": None}
    generator = make_generator(experiment.seed, "bootstrap", cell.repeat, cell.train_size)
    settings = experiment.evaluation
    return evaluate_scores(scores, bank.masks, bank.loss, settings, num_scored=num_scored, generator=generator)


def _agree(experiment: Experiment, cell: Cell, scores: dict[str, Rows], num_scored: int) -> list[dict[str, Any]]:
    """Return a row for every two methods."""
    settings = experiment.evaluation
    if len(scores) < 2:
        return []
    return compare_methods(
        scores,
        top=settings.top,
        num_scored=num_scored,
        resamples=settings.resamples,
        confidence=settings.confidence,
        memory_gib=settings.memory_gib,
        generator=make_generator(experiment.seed, "agreement", cell.repeat, cell.train_size),
    )


def _variations(
    experiment: Experiment, cell: Cell, scores: dict[str, Rows], bank: Bank, num_scored: int
) -> dict[str, list[list[float]]]:
    """Return each varied method's mean LDS by checkpoint (row) and run."""
    found, grid = {}, experiment.variance
    for method in experiment.varied_methods:
        path = cell.variations(method)
        if method not in scores or not Outcome.of(load_record(path)).is_ok:
            continue
        matrices = {"scores-0-0": scores[method], **open_matrices(path)}
        found[method] = [
            [
                mean_lds_of(matrices[f"scores-{checkpoint}-{run}"], bank.masks, bank.loss, num_scored=num_scored)
                for run in range(grid.runs)
            ]
            for checkpoint in range(grid.checkpoints)
        ]
    return found


def _seconds_per_model(bank: Bank) -> float | None:
    records = bank.record["shards"]
    if not all("cost" in record for record in records):
        return None
    seconds = sum(part["seconds"] for record in records for part in record["cost"].values())
    return seconds / (bank.loss.shape[0] * bank.loss.shape[1])
