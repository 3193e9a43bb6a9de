"""The commands of the group ``bank``: banks as files that others can use."""

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from tdabench.storage.files import hash_file
from tdabench.storage.records import make_record

logger = logging.getLogger(__name__)


def bank(arguments: argparse.Namespace) -> None:
    """Export, import, show a bank, or score against it."""
    torch.set_num_threads(1)
    {"export": _export, "import": _import, "show": _show, "score": _score}[arguments.action](arguments)


def _export(arguments: argparse.Namespace) -> None:
    from tdabench.bank.bank import save_bank
    from tdabench.bank.retrain import shard_subsets
    from tdabench.bank.shards import merge_shards

    split, dataset = _inputs_of(arguments.shards[0].parent.parent, arguments)
    made = merge_shards(arguments.shards, shard_subsets, dataset=dataset, split=split)
    save_bank(arguments.output, made)
    _write_description(made, arguments.output)


def _import(arguments: argparse.Namespace) -> None:
    from tdabench.bank.bank import save_bank

    if (arguments.output is None) == (arguments.into is None):
        raise ValueError("Say where to: either --output BANK, or --into FOLDER with --experiment FILE.")
    if arguments.into is not None:
        _restore(arguments)
        return
    made = _read_sources(arguments)
    save_bank(arguments.output, made)
    _write_description(made, arguments.output)


def _restore(arguments: argparse.Namespace) -> None:
    from tdabench.bank.restore import restore_shards
    from tdabench.bank.retrain import shard_subsets
    from tdabench.experiment.read import load_experiment
    from tdabench.planning.jobs import settle_bank

    if arguments.experiment is None:
        raise ValueError("--into needs --experiment FILE: its settings are compared with the bank's.")
    split, dataset = _inputs_of(arguments.into, arguments)
    experiment, size = load_experiment(arguments.experiment), arguments.into.name
    if experiment.bank is not None and size.isdecimal():
        bank = settle_bank(experiment, arguments.into.parent.parent, int(size))
        experiment = dataclasses.replace(experiment, bank=bank)
    made = _read_sources(arguments)
    paths = restore_shards(made, arguments.into, experiment, shard_subsets, dataset=dataset, split=split)
    names = " ".join(map(str, paths))
    sys.stdout.write(
        f"Wrote {names}. `snakemake {experiment.name}` will not retrain. Tell it first that they are of today's "
        f"settings, so that it notices when these change:\n    snakemake --touch --force {names}\n"
    )


def _read_sources(arguments: argparse.Namespace) -> Any:
    from tdabench.bank.bank import load_bank, make_bank
    from tdabench.bank.foreign import read_foreign

    if arguments.format == "tdabench":
        if len(arguments.sources) > 1:
            raise ValueError(f"One bank at a time, got {len(arguments.sources)}: {_join(arguments.sources)}.")
        return load_bank(arguments.sources[0])
    try:
        tensors, details, files = read_foreign(
            arguments.format,
            arguments.sources,
            masks=arguments.masks,
            losses=arguments.losses,
            num_train=arguments.num_train,
            averaged=arguments.averaged,
        )
        # Names without folders: a bank travels, and where it was made concerns nobody.
        record = {**make_record({}, **details), "inputs": {path.name: hash_file(path) for path in files}}
        return make_bank(tensors, record, tuning_queries=arguments.tuning_queries)
    except ValueError as error:
        if any(str(source) in str(error) for source in arguments.sources):
            raise
        raise ValueError(f"{_join(arguments.sources)}: {error}") from error


def _show(arguments: argparse.Namespace) -> None:
    from tdabench.bank.bank import load_bank

    _write_description(load_bank(arguments.bank), arguments.bank)


def _score(arguments: argparse.Namespace) -> None:
    from tdabench.bank.bank import load_bank
    from tdabench.bank.score import format_scores, read_scores, score_bank
    from tdabench.drawing.files import write_csv
    from tdabench.evaluation.evaluate import evaluate_scores
    from tdabench.experiment.sections import EvaluationSettings

    known = load_bank(arguments.bank)
    scores = read_scores(arguments.scores, known, name=arguments.name, negate=arguments.negate)
    settings = EvaluationSettings(resamples=arguments.resamples, confidence=arguments.confidence)
    table = score_bank(known, scores, settings, evaluate_scores, seed=arguments.seed)
    if arguments.output is not None:
        write_csv(arguments.output, table, digits="%.6f")
    sys.stdout.write(format_scores(table) + "\n")


def _write_description(made: Any, path: Path) -> None:
    from tdabench.bank.bank import count_diverged
    from tdabench.bank.score import describe_bank
    from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement

    agreement = retrain_agreement(made.loss[..., : made.num_scored])
    ceiling = lds_ceiling(agreement, made.loss.shape[1])
    sys.stdout.write(f"{path}\n\n{describe_bank(made, agreement=agreement, ceiling=ceiling)}\n")
    if diverged := count_diverged(made.loss):
        logger.warning("%d retrained models have losses that are not finite; scoring leaves them out.", diverged)


def _inputs_of(cell: Path, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Return split and dataset: those named, or where the workflow has them."""
    split = arguments.split or cell.parent / "split.safetensors"
    return split, arguments.dataset or cell.parent.parent / "dataset.safetensors"


def _join(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))
