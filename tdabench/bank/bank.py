"""The format of a bank: one safetensors file with masks and losses, and a record that says what they are."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.storage.records import load_record, load_tensors, save_tensors

FORMAT = "tdabench-bank"
VERSION = 1
FEWEST_SUBSETS = 3
# Of the record: a bank of an experiment has all, one of others' arrays perhaps some.
KINDS = {"settings": dict, "seed": int, "stream": list, "bank": dict, "commits": list, "shards": list}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bank:
    """Subsets and what models that were retrained on them gave.

    Attributes:
        tensors: ``masks`` (subset, train), ``loss`` (subset, retrain, query; a model that diverged is NaN), perhaps
            ``margin`` and others whose first axis is the subset.
        record: ``format``, ``version``, ``source``, ``queries`` (how many are ``scored``; the rest, ``tuning``, come
            after them), ``averaged`` (retrains whose mean each loss is), ``measure``, ``hashes``; for a bank of an
            experiment also ``settings``, ``seed``, ``stream``, ``bank``, ``commits``, and the records of its shards.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    @property
    def masks(self) -> Bool[Tensor, "subset train"]:
        """Which examples each subset has."""
        return self.tensors["masks"]

    @property
    def loss(self) -> Float[Tensor, "subset retrain query"]:
        """Every query's loss in every retrained model."""
        return self.tensors["loss"]

    @property
    def num_scored(self) -> int:
        """The first so many queries are scored, the rest are for tuning."""
        return self.record["queries"]["scored"]


def make_bank(tensors: Mapping[str, Tensor], record: Mapping[str, Any], *, tuning_queries: int = 0) -> Bank:
    """Check tensors and describe them as a bank.

    Args:
        record: How they came about (``make_record``).
        tuning_queries: The last so many queries are for tuning.

    Raises:
        ValueError: If they are no bank, or nothing could be scored against it.
    """
    check_tensors(tensors)
    queries = tensors["loss"].shape[2]
    if not 0 <= tuning_queries < queries:
        raise ValueError(f"The tuning queries must be fewer than all {queries} queries, got {tuning_queries}.")
    record = {
        "format": FORMAT,
        "version": VERSION,
        **record,
        "queries": {"scored": queries - tuning_queries, "tuning": tuning_queries},
        "hashes": {"content": hash_tensors(tensors), **record.get("hashes", {})},
    }
    return Bank(tensors=dict(tensors), record=record)


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors are a bank that scores can be compared with.

    Raises:
        ValueError: If one is missing, types or shapes disagree, or no comparison is possible.
    """
    if missing := [name for name in ("masks", "loss") if name not in tensors]:
        raise ValueError(f"A bank needs the tensor {missing[0]!r}; there are {_names(tensors)}.")
    masks, loss = tensors["masks"], tensors["loss"]
    if masks.dtype != torch.bool or masks.ndim != 2:
        raise ValueError(f"Masks must be true or false, (subset, train); got {masks.dtype}, {tuple(masks.shape)}.")
    if not loss.is_floating_point() or loss.ndim != 3:
        raise ValueError(f"Losses must be numbers, (subset, retrain, query); got {loss.dtype}, {tuple(loss.shape)}.")
    for name, values in tensors.items():
        if values.ndim == 0 or len(values) != len(masks):
            raise ValueError(
                f"Masks have {len(masks)} subsets and {name!r} has the shape {tuple(values.shape)}: the first axis of "
                "both must be the subset. Transpose one, or leave out what the other lacks."
            )
    if "margin" in tensors and tensors["margin"].shape != loss.shape:
        raise ValueError(f"Margins {tuple(tensors['margin'].shape)} and losses {tuple(loss.shape)} differ in shape.")
    if len(masks) < FEWEST_SUBSETS:
        raise ValueError(f"A bank needs at least {FEWEST_SUBSETS} subsets, got {len(masks)}: retrain on more.")
    if 0 in masks.shape or 0 in loss.shape:
        raise ValueError(
            f"A bank can't be empty: masks have the shape {tuple(masks.shape)}, losses {tuple(loss.shape)}."
        )
    if (masks == masks[0]).all():
        raise ValueError(f"All {len(masks)} subsets are the same, so that no score can tell them apart: draw others.")
    _check_losses(loss)


def _check_losses(loss: Float[Tensor, "subset retrain query"]) -> None:
    diverged = count_diverged(loss)
    left = int(loss.isfinite().all(dim=2).any(dim=1).sum())
    if left < FEWEST_SUBSETS:
        subset, retrain, query = (~loss.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{diverged} of {loss[..., 0].numel()} retrained models diverged (the first: loss "
            f"{loss[subset, retrain, query].item()} of subset {subset}, retrain {retrain}, query {query}). That leaves "
            f"{left} subsets, and {FEWEST_SUBSETS} are needed: retrain them, or leave out a query that is NaN in every "
            "model."
        )
    constant = int(constant_queries(loss).sum())
    if constant == loss.shape[2]:
        raise ValueError(
            f"All {constant} queries have the same loss whatever the subset, so that there is nothing to predict: "
            "check what was measured."
        )


def count_diverged(loss: Float[Tensor, "subset retrain query"]) -> int:
    """Count the retrained models with a loss that is not finite."""
    return int((~loss.isfinite().all(dim=2)).sum())


def constant_queries(loss: Float[Tensor, "subset retrain query"]) -> Bool[Tensor, " query"]:
    """Find the queries whose loss is one value in every model that converged."""
    converged = loss[loss.isfinite().all(dim=2)]
    return (converged == converged[:1]).all(dim=0)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in order of the names: equal for equal contents.

    A file's own hash also covers its record, which holds times and versions. For each tensor, a line of JSON (name,
    type, shape) and the values' bytes, row by row, as safetensors has them.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        digest.update((json.dumps([name, str(values.dtype), list(values.shape)]) + "\n").encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_bank(path: Path | str, bank: Bank) -> None:
    """Write a bank, atomically.

    Raises:
        ValueError: If something is there already: a bank is hours of work.
    """
    if os.path.lexists(path):
        raise ValueError(f"{path} exists already and isn't overwritten: give another name, or move it away first.")
    save_tensors(path, bank.tensors, bank.record)


def load_bank(path: Path | str) -> Bank:
    """Read a bank and check it, also against the hash in its record.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no bank, of a version that is not known, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no bank {path}; `tdabench bank export` or `import` makes one.")
    try:
        record, tensors = load_record(path), load_tensors(path)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no bank, or cut off ({error.__cause__ or error}). Get it again, or make one of other files "
            "with `tdabench bank import --format`."
        ) from error
    try:
        _check_record(record)
        check_tensors(tensors)
        if sum(record["queries"].values()) != tensors["loss"].shape[2]:
            raise ValueError(f"It has {tensors['loss'].shape[2]} queries, its record says {record['queries']}.")
        content = hash_tensors(tensors)
        if content != record["hashes"]["content"]:
            raise ValueError(
                f"The hash of its tensors is {content}, its record says {record['hashes']['content']}: it was damaged "
                "or changed. Get it again."
            )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Bank(tensors=tensors, record=record)


def _check_record(record: Any) -> None:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else record
        raise ValueError(
            f"The format is {found!r}, not {FORMAT!r}: it is another result file. "
            "`tdabench bank export` makes a bank of an experiment's shards."
        )
    if record.get("version") != VERSION:
        raise ValueError(f"The format's version is {record.get('version')!r}, known is {VERSION}: update tdabench.")
    queries, hashes = record.get("queries"), record.get("hashes")
    counts = queries.values() if isinstance(queries, dict) and set(queries) == {"scored", "tuning"} else ()
    if not counts or not all(type(count) is int and count >= 0 for count in counts) or queries["scored"] < 1:
        raise ValueError(f"The record's queries must be numbers of scored and tuning ones, got {queries!r}.")
    if not isinstance(hashes, dict) or "content" not in hashes:
        raise ValueError(f"The record's hashes must name the content's, got {hashes!r}.")
    for name, kind in KINDS.items():
        if not isinstance(record.get(name, kind()), kind):
            raise ValueError(f"The record's {name} must be of type {kind.__name__}, got {record[name]!r}.")
    if record.get("source") == "tdabench":
        _check_experiments_record(record)


def _check_experiments_record(record: Mapping[str, Any]) -> None:
    missing = [name for name in KINDS if name not in record]
    missing += [f"hashes.{role}" for role in ("dataset", "split") if role not in record["hashes"]]
    missing += ["settings.train_size"] if "train_size" not in record.get("settings", {}) else []
    if missing:
        raise ValueError(f"The record of an experiment's bank must have {missing[0]}.")
    if len(record["stream"]) != 3:
        raise ValueError(f"The record's stream must name bank, repeat and train_size, got {record['stream']!r}.")


def _names(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(map(repr, tensors)) or "none"
