"""The commands of the group ``bank``: banks as files that others can use."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from tdabench.bank.bank import Bank, count_diverged, load_bank, make_bank, save_bank
from tdabench.experiment.read import Experiment
from tdabench.storage.files import hash_file
from tdabench.storage.records import make_record

logger = logging.getLogger(__name__)


def export(shards: list[Path], output: Path, dataset: Path | None = None, split: Path | None = None) -> None:
    """Make one file of an experiment's shards.

    Args:
        shards: every shard: results/NAME/REPEAT/SIZE/bank/*.safetensors.
        output: bank to write, never overwritten.
        dataset: file of `dataset` (default: the one of the results).
        split: file of `split` (default: the one of the results).
    """
    from tdabench.bank.shards import merge_shards

    torch.set_num_threads(1)
    made = merge_shards(shards, **_inputs_of(shards[0].parent.parent, dataset, split))
    save_bank(output, made)
    _write_description(made, output)


def import_(
    sources: list[Path],
    format: Literal["tdabench", "kronfluence", "arrays"] = "tdabench",
    masks: str = "masks",
    losses: str | None = None,
    margins: str | None = None,
    negative: bool = False,
    retrains: int | None = None,
    num_train: int | None = None,
    averaged: int | None = None,
    tuning_queries: int = 0,
    output: Path | None = None,
    into: Path | None = None,
    experiment: Path | None = None,
    dataset: Path | None = None,
    split: Path | None = None,
) -> None:
    """Make a bank of others' arrays, or put a bank into an experiment's results.

    Args:
        sources: a bank, kronfluence's folder, or files with arrays.
        format: what the sources are (default: tdabench).
        masks: arrays: name of the masks, (subset, train) (default: masks).
        losses: arrays: name of the losses, (subset[, retrain], query) (default: losses, if they are there).
        margins: arrays: name of margins instead, high where a model is right (default: margins, if without losses).
        negative: the losses may be below 0, which a cross-entropy never is.
        retrains: length of the second of three axes, where it could also be the queries of logits.
        num_train: arrays: masks are lists of indices into so many examples.
        averaged: retrains whose mean each loss is (kronfluence: 5, arrays: 1).
        tuning_queries: the last so many queries are not scored.
        output: bank to write, never overwritten.
        into: put the bank into results/NAME/REPEAT/SIZE instead.
        experiment: with --into: the YAML file, whose settings must agree.
        dataset: with --into: file of `dataset` (default: the one of the results).
        split: with --into: file of `split` (default: the one of the results).
    """
    torch.set_num_threads(1)
    if (output is None) == (into is None):
        raise ValueError("Say where to: either --output BANK, or --into FOLDER with --experiment FILE.")
    if format == "tdabench":
        if len(sources) > 1:
            raise ValueError(f"One bank at a time, got {len(sources)}: {_join(sources)}.")
        made = load_bank(sources[0])
    else:
        from tdabench.bank.measured import Measured

        measured = Measured(losses=losses, margins=margins, negative=negative, retrains=retrains)
        names = {"masks": masks, "measured": measured, "num_train": num_train, "averaged": averaged}
        made = _read_foreign(format, sources, tuning_queries, **names)
    if into is not None:
        _restore(made, into, experiment, **_inputs_of(into, dataset, split))
        return
    save_bank(output, made)
    _write_description(made, output)


def show(bank: Path) -> None:
    """Describe a bank.

    Args:
        bank: its file.
    """
    torch.set_num_threads(1)
    _write_description(load_bank(bank), bank)


def score(
    bank: Path,
    scores: list[Path],
    name: str = "scores",
    negate: bool = False,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int | None = None,
    output: Path | None = None,
) -> None:
    """Compare scores with a bank: LDS, interval, ceiling.

    Args:
        bank: its file.
        scores: .npy, .npz, .safetensors or .csv files of scores (query, train), or traker's .mmap.
        name: array to take of a file with several (default: scores).
        negate: the scores are positive where an example harms.
        resamples: of the bootstrap (default: 1000).
        confidence: of the intervals (default: 0.95).
        seed: of the bootstrap and the random scores (default: the bank's, or 0).
        output: table to write, as CSV.
    """
    from tdabench.bank.score import format_scores, read_scores, score_bank
    from tdabench.drawing.files import write_csv
    from tdabench.evaluation.evaluate import evaluate_scores
    from tdabench.experiment.sections import EvaluationSettings

    torch.set_num_threads(1)
    known = load_bank(bank)
    found = read_scores(scores, known, name=name, negate=negate)
    settings = EvaluationSettings(resamples=resamples, confidence=confidence)
    table = score_bank(known, found, settings, evaluate_scores, seed=seed)
    if output is not None:
        write_csv(output, table, digits="%.6f")
    for method in table["method"][table["high"] < 0]:
        logger.warning(
            "%s predicts the opposite of what was measured. Turn the scores (--negate), unless the bank is turned: its "
            "masks must be 1 for what a subset has, and what was measured, %s, low where a model is right.",
            method,
            known.record.get("measure"),
        )
    sys.stdout.write(format_scores(table) + "\n")


def _read_foreign(form: str, sources: list[Path], tuning_queries: int, **names: Any) -> Bank:
    from tdabench.bank.foreign import read_foreign

    try:
        tensors, details, files = read_foreign(form, sources, **names)
        # Names without folders: a bank travels, and where it was made concerns nobody.
        record = {**make_record({}, **details), "inputs": {path.name: hash_file(path) for path in files}}
        return make_bank(tensors, record, tuning_queries=tuning_queries)
    except ValueError as error:
        if any(str(source) in str(error) for source in sources):
            raise
        raise ValueError(f"{_join(sources)}: {error}") from error


def _restore(made: Bank, into: Path, file: Path | None, **inputs: Path) -> None:
    from tdabench.bank.restore import restore_shards
    from tdabench.experiment.derived import settle_bank
    from tdabench.experiment.read import load_experiment

    if file is None:
        raise ValueError("--into needs --experiment FILE: its settings are compared with the bank's.")
    experiment: Experiment = load_experiment(file)
    if experiment.bank is not None and into.name.isdecimal():
        bank = settle_bank(experiment, into.parent.parent, int(into.name))
        experiment = dataclasses.replace(experiment, bank=bank)
    paths = restore_shards(made, into, experiment, **inputs)
    names = " ".join(map(str, paths))
    sys.stdout.write(
        f"Wrote {names}. `snakemake {experiment.name}` will not retrain. Tell it first that they are of today's "
        f"settings, so that it notices when these change:\n    snakemake --touch --force {names}\n"
    )


def _write_description(made: Any, path: Path) -> None:
    from tdabench.bank.score import describe_bank
    from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement

    agreement = retrain_agreement(made.loss[..., : made.num_scored])
    ceiling = lds_ceiling(agreement, made.loss.shape[1])
    sys.stdout.write(f"{path}\n\n{describe_bank(made, agreement=agreement, ceiling=ceiling)}\n")
    if diverged := count_diverged(made.loss):
        logger.warning("%d retrained models have losses that are not finite; scoring leaves them out.", diverged)


def _inputs_of(cell: Path, dataset: Path | None, split: Path | None) -> dict[str, Path]:
    """Return split and dataset: those named, or where the workflow has them."""
    return {
        "split": split or cell.parent / "split.safetensors",
        "dataset": dataset or cell.parent.parent / "dataset.safetensors",
    }


def _join(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))
