"""The stage that judges a cell: every method against the bank, and against each other."""

from typing import Any

import torch

from tdabench.bank.bank import Bank
from tdabench.bank.shards import check_recipe, load_shards
from tdabench.evaluation.lds import GroundTruth, average_retrains
from tdabench.experiment.derived import settle_bank
from tdabench.experiment.read import Experiment
from tdabench.questions.agreement.compare import compare_methods
from tdabench.questions.diagnostics.stage import load_traces
from tdabench.questions.lds.grow import grow_from
from tdabench.questions.lds.judge import judge_cell, mean_lds_of
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
    inputs, settings = [cell.split, *files.values()], experiment.evaluation
    place = {"num_scored": num_scored, "seed": experiment.seed, "place": (cell.repeat, cell.train_size)}
    if experiment.bank is None:
        generator = make_generator(experiment.seed, "agreement", cell.repeat, cell.train_size)
        some = len(scores) > 1
        pairs = compare_methods(scores, settings, num_scored=num_scored, generator=generator) if some else []
        content = {"agreement": pairs}
    else:
        paths = cell.bank(settle_bank(experiment, cell.root, cell.train_size).shards)
        bank = load_shards(paths)
        check_recipe(bank, {method: records[method] for method in scores})
        variations = _variations(experiment, cell, scores, bank, num_scored)
        content = judge_cell(scores, bank.masks, bank.loss, settings, variations=variations, **place)
        content["lds"] = {method: content["lds"].get(method, {"mean": None}) for method in files}
        unsupported = {method: status for method, status in statuses.items() if method not in scores}
        content["comparison"] |= {"unsupported": unsupported, "seconds_per_model": _seconds_per_model(bank)}
        truth = average_retrains(bank.masks, bank.loss)
        content["growth"] = {method: _grow(experiment, cell, method, truth, place) for method in scores}
        inputs += [*paths, *(cell.variations(method) for method in experiment.varied_methods)]
        inputs += [path for method in scores if (path := cell.traces(method)).is_file()]
    record = make_record(
        {"evaluation": settings, "methods": list(experiment.methods)}, inputs=inputs, seed=experiment.seed
    )
    save_json(cell.judgement, {"statuses": statuses, **content}, record)


def _grow(experiment: Experiment, cell: Cell, method: str, truth: GroundTruth, place: dict[str, Any]) -> dict[str, Any]:
    """Return how a method's LDS grows with its draws, from the traces that it kept; nothing is run again."""
    path, scores = cell.traces(method), cell.scores(method)
    if not path.is_file():
        return {"status": f"no growth: {method} keeps no traces", "traces": False, "growth": False}
    traces, markov = load_traces(path, scores), load_record(path).get("markov", True)
    status, found = grow_from(traces, load_record(scores), truth, experiment.evaluation, markov=markov, **place)
    return {"status": status, "traces": True, "growth": bool(found), **found}


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
