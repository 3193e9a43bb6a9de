"""A bank of a colleague: put in place, so that the workflow needn't retrain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdabench.bank.bank import Bank, hash_tensors
from tdabench.bank.shards import conflicts
from tdabench.bank.subsets import shard_subsets
from tdabench.experiment.components import describe
from tdabench.experiment.read import Experiment
from tdabench.storage.cell import find_cell
from tdabench.storage.records import load_tensors, save_tensors


def restore_shards(bank: Bank, folder: Path, experiment: Experiment, *, dataset: Path, split: Path) -> list[Path]:
    """Write a bank's shards where the workflow expects them; return their paths.

    Args:
        folder: ``results/EXPERIMENT/REPEAT/TRAIN_SIZE``.

    Raises:
        FileNotFoundError: If the dataset or the split is missing.
        ValueError: If the bank is not the one that the experiment would make, or another one is there.
    """
    if bank.record.get("source") != "tdabench":
        raise ValueError(
            f"The bank is from {bank.record.get('source')!r}, not from an experiment: score against it with "
            "`tdabench bank score`."
        )
    _check_experiment(bank.record, folder, experiment)
    for role, path in (("split", split), ("dataset", dataset)):  # Snakemake makes both for the split
        _check_input(bank.record["hashes"], role, path)
    paths = [folder / "bank" / f"{shard}.safetensors" for shard in range(experiment.bank.shards)]
    parts = []
    for shard, path in enumerate(paths):
        subsets = shard_subsets(experiment.bank, shard)
        part = {name: values[subsets.start : subsets.stop] for name, values in bank.tensors.items()}
        if path.exists() and hash_tensors(load_tensors(path)) != hash_tensors(part):
            raise ValueError(f"{path} exists already with other contents and isn't overwritten: move it away first.")
        parts.append(part)
    for path, part, record in zip(paths, parts, bank.record["shards"], strict=True):
        save_tensors(path, part, {**record, "imported": bank.record["hashes"]})
    return paths


def _check_experiment(record: Mapping[str, Any], folder: Path, experiment: Experiment) -> None:
    place = [experiment.name, *map(str, record["stream"][1:])]
    if list(folder.resolve().parts[-3:]) != place:
        raise ValueError(
            f"The bank is of repeat {place[1]} and train_size {place[2]}, and belongs into results/{'/'.join(place)}; "
            f"got {folder}."
        )
    find_cell(experiment, *record["stream"][1:])
    sections = [name for name in record["settings"] if name != "train_size"]
    theirs = {name: record["settings"][name] for name in sections}
    mine: dict[str, Any] = {name: getattr(experiment, name) for name in sections}
    theirs |= {"seed": record["seed"], "bank": record["bank"], "model code": record["hashes"].get("model")}
    mine |= {"seed": experiment.seed, "bank": experiment.bank, "model code": describe(experiment.model).get("source")}
    for key, own, their in conflicts(mine, theirs):
        raise ValueError(
            f"The bank was made with other settings: {key} is {their} in the bank and {own} in the experiment "
            f"{experiment.name}. Change the experiment, or retrain."
        )


def _check_input(hashes: Mapping[str, str], role: str, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: run `snakemake {path}` first (the workflow would take a newer one as a reason to "
            "retrain)."
        )
    content = hash_tensors(load_tensors(path))
    if content != hashes[role]:
        raise ValueError(
            f"The contents of {path} have the hash {content}, and the bank was made from a {role} with "
            f"{hashes[role]}: the bank is of other data."
        )
