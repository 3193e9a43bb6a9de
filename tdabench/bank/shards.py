"""A bank of our own: the shards that the workflow made become one file."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tdabench.bank.bank import Bank, hash_tensors, make_bank
from tdabench.bank.subsets import shard_subsets
from tdabench.experiment.components import Component, describe
from tdabench.experiment.sections import BankSettings
from tdabench.experiment.settings import build
from tdabench.storage.files import hash_file
from tdabench.storage.records import load_record, load_tensors, make_record

SAME = ("settings", "bank", "seed", "stream")
# Settings that may change between two jobs of one bank: sizes are nested, and a part of a batch is the same batch.
FREE = {"data.train_sizes", "training.microbatch", "pretraining.microbatch"}


def load_shards(paths: Sequence[Path]) -> Bank:
    """Read all shards of one bank as they are judged: joined in their order, once they are known to be of one recipe.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the shards don't belong together, or one is missing or stands twice.
    """
    shards = {path: _load_shard_record(path) for path in sorted(paths, key=lambda path: (len(path.stem), path.stem))}
    (first, record), *others = shards.items()
    for path, other in others:
        for key, one, two in conflicts(_recipe(record), _recipe(other)):
            raise ValueError(
                f"{first} and {path} don't belong together: {key} is {one} in one and {two} in the other. Give the "
                "shards of one bank."
            )
    wanted = Counter(f"{shard}.safetensors" for shard in range(record["bank"]["shards"]))
    found = Counter(path.name for path in paths)
    if wrong := [*(wanted - found), *(found - wanted)]:
        raise ValueError(
            f"A bank of {wanted.total()} shards is 0.safetensors to {wanted.total() - 1}.safetensors, each once; "
            f"{', '.join(wrong)} is missing or too much: give all of them, or let Snakemake finish the bank."
        )
    parts = {path: load_tensors(path) for path in shards}
    _check_contents(parts, build(BankSettings, record["bank"], where="bank"))
    tensors: dict[str, Tensor] = {name: torch.cat([part[name] for part in parts.values()]) for name in parts[first]}
    return Bank(tensors=tensors, record={**record, "shards": list(shards.values())})


def _check_contents(parts: Mapping[Path, Mapping[str, Tensor]], settings: BankSettings) -> None:
    """Refuse shards that lie in each other's place, or twice."""
    first, seen = next(iter(parts)), {}
    for shard, (path, part) in enumerate(parts.items()):
        if part.keys() != parts[first].keys() or "masks" not in part:
            raise ValueError(f"{path} has the tensors {sorted(part)}, {first} has {sorted(parts[first])}.")
        size = len(shard_subsets(settings, shard))
        if len(part["masks"]) != size:
            raise ValueError(f"{path} has {len(part['masks'])} subsets; shard {shard} has {size}.")
        content = hash_tensors(part)
        if content in seen:
            raise ValueError(f"{path} has the same contents as {seen[content]}: one is a copy.")
        seen[content] = path


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
    bank = load_shards(paths)
    shards, files = bank.record["shards"], {"dataset": dataset, "split": split}
    model = describe(Component(**bank.record["settings"]["model"])).get("source")  # of a plug-in's file
    record = make_record(
        bank.record["settings"],
        inputs=[*sorted(paths), *files.values()],
        **{name: bank.record[name] for name in SAME if name != "settings"},
        source="tdabench",
        measure="loss",
        averaged=1,
        hashes={**{role: _hash_input(path, shards, role) for role, path in files.items()}, "model": model},
        commits=sorted({str(shard.get("commit")) for shard in shards}),
        shards=[{name: value for name, value in shard.items() if name != "imported"} for shard in shards],
    )
    return make_bank(bank.tensors, record, tuning_queries=len(load_tensors(split)["tuning"]))


def check_recipe(bank: Bank, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that scores are of models that were trained as the bank's were.

    Args:
        records: Of the scores, by method.

    Raises:
        ValueError: If they are not: an edit of the settings came between.
    """
    for method, record in records.items():
        for key, one, other in conflicts(bank.record["settings"], record.get("settings", {})):
            raise ValueError(
                f"The bank and the scores of {method} are of two recipes: {key} is {one} in the bank and {other} in "
                "the scores. Run the workflow again, which makes anew what is of old settings."
            )


def conflicts(one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Return each setting that differs and may not: its dotted name, and both values."""
    return (found for found in _differences(_plain(one), _plain(other), ()) if found[0] not in FREE)


def _differences(one: Any, other: Any, place: tuple[str, ...]) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            yield from _differences(one.get(key), other.get(key), (*place, key))
    elif one != other:
        yield ".".join(place), one, other


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=vars))


def _recipe(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record["settings"], **{name: record[name] for name in SAME if name != "settings"}}


def _load_shard_record(path: Path) -> dict[str, Any]:
    record = load_record(path)
    if missing := [name for name in (*SAME, "inputs") if name not in record]:
        raise ValueError(f"{path} is no shard of a bank (its record has no {missing[0]}): give files of `retrain`.")
    return record


def _hash_input(path: Path, shards: Sequence[Mapping[str, Any]], role: str) -> str:
    """Return the content's hash, after checking that every shard was made from it."""
    content, file = hash_tensors(load_tensors(path)), hash_file(path)
    for shard, record in enumerate(shards):
        # An imported shard was made from a colleague's file of the same content.
        found = {record["imported"][role]} if "imported" in record else set(record["inputs"].values())
        if not found & {file, content}:
            raise ValueError(
                f"Shard {shard} was not made from {path} (its hash {file} is none of its record's inputs). Give the "
                f"right one with --{role}, or let Snakemake bring the bank up to date."
            )
    return content
