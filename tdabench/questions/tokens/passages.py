"""What a token page shows, from the tensors and the record of a method's token scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tdabench.questions.tokens.page import MethodPassages, Passage, Question
from tdabench.questions.tokens.pieces import cut_text

ESTIMATES = {"covariance": "Covariance of token losses (nats²)", "correlation": "Correlation of token losses"}


def make_question(index: int, tokens: Int[Tensor, " qpos"], counted: Bool[Tensor, " qpos"], tokenizer: Any) -> Question:
    """Return a query as text, without the padding behind its last token that counts."""
    end = _end_of(counted)
    return Question(index=index, pieces=tuple(cut_text(tokens[:end].tolist(), tokenizer)), counted=counted[:end])


def count_query_tokens(rows: Sequence[Mapping[str, Tensor]]) -> Bool[Tensor, " qpos"]:
    """Say which tokens of a query count: as a file says, or else those that have a score, or else all but the first.

    A token that doesn't count has the loss 0 at every draw, so that its scores are exactly 0.

    Args:
        rows: A row for each method.
    """
    for row in rows:
        if "query_counts" in row:
            return row["query_counts"].bool()
    for row in rows:
        if "token_scores" in row:
            return (row["token_scores"] != 0).flatten(1).any(1)
    return torch.arange(len(rows[0]["query_ids"])) > 0


def make_passages(
    label: str, row: Mapping[str, Tensor], counted: Bool[Tensor, " qpos"], record: Mapping[str, Any], tokenizer: Any
) -> MethodPassages:
    """Return the sequences that a method named for one query.

    Args:
        row: That query's entry in every tensor of the method's file: ``train``, ``train_ids`` and ``scores`` with the
            most helpful sequences first and the most harmful behind, and ``token_scores`` (query token, sequence,
            position) or ``train_token_scores`` (sequence, position).
        counted: Which tokens of the query count.

    Raises:
        ValueError: If a tensor is missing, or shapes disagree.
    """
    _check_row(label, row, counted)
    passages = tuple(_make_passage(row, place, counted, tokenizer) for place in range(len(row["train"])))
    half = len(passages) // 2
    return MethodPassages(
        label=label,
        summary=summarise_method(record, has_pairs="token_scores" in row),
        facts=tuple(list_settings(record)),
        helpful=passages[:half],
        harmful=passages[half:],
    )


def _check_row(label: str, row: Mapping[str, Tensor], counted: Bool[Tensor, " qpos"]) -> None:
    needed = ("train", "train_ids", "scores")
    missing = [name for name in needed if name not in row]
    if missing or not {"token_scores", "train_token_scores"} & set(row):
        lacks = missing[0] if missing else "token_scores or train_token_scores"
        raise ValueError(f"The token scores of {label} have no {lacks}: make them anew with this version.")
    sequences, positions = row["train_ids"].shape
    if "token_scores" in row:
        name, expected = "token_scores", (len(counted), sequences, positions)
    else:
        name, expected = "train_token_scores", (sequences, positions)
    for tensor, shape in ((name, expected), ("train", (sequences,)), ("scores", (sequences,))):
        if tuple(row[tensor].shape) != shape:
            raise ValueError(f"{tensor} of {label} has the shape {tuple(row[tensor].shape)}, not {shape}.")
    if sequences % 2:
        raise ValueError(f"{label} names {sequences} sequences: as many helpful as harmful ones are expected.")


def _make_passage(row: Mapping[str, Tensor], place: int, counted: Bool[Tensor, " qpos"], tokenizer: Any) -> Passage:
    pairs = row["token_scores"][:, place].float() if "token_scores" in row else None
    whole = row["train_token_scores"][place].float() if pairs is None else pairs[counted].sum(0)
    if "train_counts" in row:
        counts = row["train_counts"][place].bool()
    else:  # what doesn't count has scores of exactly 0
        counts = ((whole[None] if pairs is None else pairs) != 0).any(0)
    end = _end_of(counts)
    return Passage(
        index=int(row["train"][place]),
        pieces=tuple(cut_text(row["train_ids"][place, :end].tolist(), tokenizer)),
        counted=counts[:end],
        score=float(row["scores"][place]),
        whole=whole[:end],
        pairs=None if pairs is None else pairs[: _end_of(counted), :end],
    )


def _end_of(counted: Bool[Tensor, " position"]) -> int:
    """Return where the padding begins; a text of which nothing counts is kept whole."""
    places = counted.nonzero()
    return int(places[-1]) + 1 if len(places) else len(counted)


def summarise_method(record: Mapping[str, Any], *, has_pairs: bool) -> str:
    """Say in a sentence what a method's scores are, what they were made from, and what was calibrated."""
    settings, calibrated = _settings_of(record), _calibrated(record)
    what = ESTIMATES.get(settings.get("estimate"), "Scores") if has_pairs else "A training token and the whole query"
    drawn = ""
    if {"chains", "draws"} <= set(settings):
        drawn = f", over {settings['chains']:,} chains × {settings['draws']:,} draws"
    found = f"; calibrated: {', '.join(name.replace('_', ' ') for name in calibrated)}" if calibrated else ""
    return f"{what}{drawn}{found}."


def list_settings(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List a method's settings as they were run, those that a calibration found marked, and a status with warnings."""
    calibrated = _calibrated(record)
    settings = [
        (name, f"{value}{' (calibrated)' if name in calibrated else ''}")
        for name, value in _settings_of(record).items()
        if value is not None
    ]
    status = record.get("status", "ok")
    return [*settings, *([("status", status)] if status != "ok" else [])]


def _settings_of(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("attributor") or _asked(record)


def _asked(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("method", {}).get("settings", {})


def _calibrated(record: Mapping[str, Any]) -> list[str]:
    return [name for name, value in _asked(record).items() if value == "auto"]
