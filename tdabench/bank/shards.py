"""A bank of our own: the shards that the workflow made become one file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tdabench.bank.bank import Bank, hash_tensors, make_bank
from tdabench.bank.subsets import shard_subsets
from tdabench.experiment.components import Component, build, describe
from tdabench.experiment.sections import BankSettings
from tdabench.storage.files import hash_file
from tdabench.storage.records import load_record, load_tensors, make_record

SAME = ("settings", "bank", "seed", "stream")
# Settings that may change between two jobs of one bank: sizes are nested, and a part of a batch is the same batch.
FREE = {f"settings.{key}" for key in ("data.train_sizes", "training.microbatch", "pretraining.microbatch")}


def load_shards(paths: Sequence[Path]) -> Bank:
    """Read all shards of one bank as they are judged: joined, once they are known to be of one recipe.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the shards don't belong together, or one is missing.
    """
    shards, records = _number(paths), {}
    for number, path in shards.items():
        records[number] = _load_shard_record(path)
    _check_together(shards, records, build(BankSettings, records[min(records)]["bank"], where="bank"))
    order = sorted(shards)
    return Bank(
        tensors=_join([load_tensors(shards[shard]) for shard in order]),
        record={**records[order[0]], "shards": [records[shard] for shard in order]},
    )


def merge_shards(paths: Sequence[Path], *, dataset: Path, split: Path) -> Bank:
    """Merge all shards of one bank, whatever their order.

    Args:
        paths: Files of the stage ``retrain``, named by their numbers.
        dataset: File of the stage ``dataset`` that they were made from.
        split: File of the stage ``split`` that they were made from.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the shards don't belong together, one is missing or stands twice, or the data are others.
    """
    shards = _number(paths)
    records = {shard: _load_shard_record(path) for shard, path in shards.items()}
    first = records[min(records)]
    settings = build(BankSettings, first["bank"], where="bank")
    _check_together(shards, records, settings)
    tensors = [load_tensors(shards[shard]) for shard in range(settings.shards)]
    _check_sizes(tensors, shards, [len(shard_subsets(settings, shard)) for shard in range(settings.shards)])
    files = {"dataset": dataset, "split": split}
    record = make_record(
        first["settings"],
        inputs=[*(shards[shard] for shard in sorted(shards)), *files.values()],
        **{name: first[name] for name in SAME if name != "settings"},
        source="tdabench",
        measure="loss",
        averaged=1,
        hashes={
            **{role: _hash_input(path, records, role, shards) for role, path in files.items()},
            "model": describe(Component(**first["settings"]["model"])).get("source"),  # of a plug-in's file
        },
        commits=sorted({str(record.get("commit")) for record in records.values()}),
        shards=[_without_import(records[shard]) for shard in sorted(shards)],
    )
    return make_bank(_join(tensors), record, tuning_queries=len(load_tensors(split)["tuning"]))


def _join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _number(paths: Sequence[Path]) -> dict[int, Path]:
    shards: dict[int, Path] = {}
    for path in paths:
        if not path.stem.isdecimal():
            raise ValueError(f"A shard is named by its number, such as 0.safetensors; got {path}.")
        if int(path.stem) in shards:
            raise ValueError(f"Shard {int(path.stem)} stands twice: {shards[int(path.stem)]} and {path}.")
        shards[int(path.stem)] = path
    return shards


def _load_shard_record(path: Path) -> dict[str, Any]:
    record = load_record(path)
    if missing := [name for name in (*SAME, "inputs") if name not in record]:
        raise ValueError(f"{path} is no shard of a bank (its record has no {missing[0]}): give files of `retrain`.")
    return record


def _check_together(shards: Mapping[int, Path], records: Mapping[int, dict[str, Any]], settings: BankSettings) -> None:
    first = min(records)
    for shard, record in records.items():
        for name in SAME:
            for key, one, other in _conflicts(records[first][name], record[name], name):
                raise ValueError(
                    f"{shards[first]} and {shards[shard]} don't belong together: {key} is {one} in one and {other} in "
                    "the other. Give the shards of one bank."
                )
    if missing := sorted(set(range(settings.shards)) - set(shards)):
        raise ValueError(
            f"Of {settings.shards} shards, {', '.join(map(str, missing))} is missing: give all of them, or let "
            "Snakemake finish the bank."
        )
    if more := sorted(set(shards) - set(range(settings.shards))):
        raise ValueError(f"There are {settings.shards} shards, from 0, and {shards[more[0]]} is none of them.")


def check_recipe(bank: Bank, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that scores are of models that were trained as the bank's were.

    Args:
        records: Of the scores, by method.

    Raises:
        ValueError: If they are not: an edit of the settings came between.
    """
    for method, record in records.items():
        for key, one, other in _conflicts(bank.record["settings"], record.get("settings", {}), "settings"):
            raise ValueError(
                f"The bank and the scores of {method} are of two recipes: {key.removeprefix('settings.')} is {one} in "
                f"the bank and {other} in the scores. Run the workflow again, which makes anew what is of old settings."
            )


def _conflicts(one: Any, other: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    return (difference for difference in differences(one, other, name) if difference[0] not in FREE)


def _check_sizes(tensors: Sequence[Mapping[str, Tensor]], shards: Mapping[int, Path], sizes: Sequence[int]) -> None:
    seen: dict[str, Path] = {}
    for shard, (part, size) in enumerate(zip(tensors, sizes, strict=True)):
        if part.keys() != tensors[0].keys() or "masks" not in part:
            raise ValueError(f"{shards[shard]} has the tensors {sorted(part)}, shard 0 {sorted(tensors[0])}.")
        if len(part["masks"]) != size:
            raise ValueError(f"{shards[shard]} has {len(part['masks'])} subsets; shard {shard} has {size}.")
        content = hash_tensors(part)
        if content in seen:
            raise ValueError(f"{shards[shard]} has the same contents as {seen[content]}: one is a copy.")
        seen[content] = shards[shard]


def _hash_input(path: Path, records: Mapping[int, dict[str, Any]], role: str, shards: Mapping[int, Path]) -> str:
    """Return the content's hash, after checking that every shard was made from it."""
    content = hash_tensors(load_tensors(path))
    file = hash_file(path)
    for shard, record in records.items():
        # An imported shard was made from a colleague's file of the same content.
        found = {record["imported"][role]} if "imported" in record else set(record["inputs"].values())
        if not found & {file, content}:
            raise ValueError(
                f"{shards[shard]} was not made from {path} (its hash {file} is none of its record's inputs). Give the "
                f"right one with --{role}, or let Snakemake bring the bank up to date."
            )
    return content


def _without_import(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "imported"}


def differences(one: Any, other: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Return each setting that differs: its dotted name, and both values."""
    one, other = _plain(one), _plain(other)
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield name, one, other
        return
    for key in sorted(one.keys() | other.keys()):
        yield from differences(one.get(key), other.get(key), f"{name}.{key}")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=vars))
