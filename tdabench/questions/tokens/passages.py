"""What a token page shows, from the tensors and the record of a method's token scores."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from tdabench.questions.tokens.page import MethodPassages, Passage, Question
from tdabench.questions.tokens.pieces import cut_text

ESTIMATES = {"covariance": "Covariance of token losses (nats²)", "correlation": "Correlation of token losses"}


def make_question(index: int, row: Mapping[str, Tensor], tokenizer: Any) -> Question:
    """Return a query as text, without the padding behind its last token that counts."""
    counted = row["query_counts"]
    end = _end_of(counted)
    pieces = cut_text(row["query_ids"][:end].tolist(), tokenizer)
    return Question(index=index, pieces=tuple(pieces), counted=counted[:end])


def make_passages(label: str, row: Mapping[str, Tensor], record: Mapping[str, Any], tokenizer: Any) -> MethodPassages:
    """Return the sequences that a method named for one query.

    Args:
        row: That query's entry in every tensor of the method's file, as the stage ``tokens`` describes them.
    """
    passages = tuple(_make_passage(row, place, tokenizer) for place in range(len(row["train"])))
    half = len(passages) // 2
    return MethodPassages(
        label=label,
        summary=summarise_method(record, has_pairs="token_scores" in row),
        facts=tuple(list_settings(record)),
        helpful=passages[:half],
        harmful=passages[half:],
    )


def _make_passage(row: Mapping[str, Tensor], place: int, tokenizer: Any) -> Passage:
    counted, counts = row["query_counts"], row["train_counts"][place]
    pairs = row["token_scores"][:, place].float() if "token_scores" in row else None
    whole = row["train_token_scores"][place].float() if pairs is None else pairs[counted].sum(0)
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
    settings, calibrated = record["attributor"], _calibrated(record)
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
        for name, value in record["attributor"].items()
        if value is not None
    ]
    return settings if record["status"] == "ok" else [*settings, ("status", record["status"])]


def _calibrated(record: Mapping[str, Any]) -> list[str]:
    return [name for name, value in record["method"]["settings"].items() if value == "auto"]
