"""The stage that compares the methods of one bank with each other."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.storage.matrix import Rows
from tdabench.storage.records import load_record, load_tensors, make_record, open_matrices, save_json

logger = logging.getLogger(__name__)


def compare(arguments: argparse.Namespace) -> None:
    """Compare every two methods on one bank, and the bank with itself."""
    from tdabench.questions.lds.judge import judge_cell

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    files = {path.stem: path for path in arguments.scores}
    _check_names(experiment, files)
    statuses = {name: load_record(files[name])["status"] for name in experiment.methods}
    scores = {
        name: open_matrices(files[name])["scores"]
        for name, status in statuses.items()
        if not status.startswith("unsupported")
    }
    shards = [load_tensors(path) for path in arguments.bank]
    masks, losses = (torch.cat([shard[key] for shard in shards]) for key in ("masks", "loss"))
    num_scored = len(load_tensors(arguments.split)["query"])
    result = judge_cell(
        scores,
        masks,
        losses,
        experiment.evaluation,
        num_scored=num_scored,
        seed=experiment.seed,
        place=(arguments.repeat, arguments.train_size),
        variations=_variations(experiment, arguments.varied, scores, masks, losses, num_scored),
    )["comparison"]
    record = make_record(
        {"evaluation": experiment.evaluation, "methods": list(experiment.methods)},
        inputs=[*arguments.scores, arguments.split, *arguments.bank, *arguments.varied],
        seed=experiment.seed,
    )
    unsupported = {name: status for name, status in statuses.items() if name not in scores}
    seconds = _seconds_per_model(arguments.bank, losses)
    save_json(arguments.output, {**result, "unsupported": unsupported, "seconds_per_model": seconds}, record)


def _check_names(experiment: Experiment, files: dict[str, Path]) -> None:
    missing = [name for name in experiment.methods if name not in files]
    if missing:
        raise ValueError(f"--scores has no file of {', '.join(missing)}: give one a method, named by its key.")


def _variations(
    experiment: Experiment,
    paths: Sequence[Path],
    scores: dict[str, Rows],
    masks: torch.Tensor,
    losses: torch.Tensor,
    num_scored: int,
) -> dict[str, list[list[float]]]:
    """Return each varied method's mean LDS by checkpoint (row) and run."""
    from tdabench.questions.lds.judge import mean_lds_of

    found = {}
    for path in paths:
        if path.stem not in scores or load_record(path)["status"] != "ok":
            continue
        matrices = {"scores-0-0": scores[path.stem], **open_matrices(path)}
        grid = experiment.variance
        found[path.stem] = [
            [
                mean_lds_of(matrices[f"scores-{checkpoint}-{run}"], masks, losses, num_scored=num_scored)
                for run in range(grid.runs)
            ]
            for checkpoint in range(grid.checkpoints)
        ]
    return found


def _seconds_per_model(paths: Sequence[Path], losses: Any) -> float | None:
    records = [load_record(path) for path in paths]
    if not all("cost" in record for record in records):
        return None
    seconds = sum(part["seconds"] for record in records for part in record["cost"].values())
    return seconds / (losses.shape[0] * losses.shape[1])
