"""The stage that makes a page a query of token scores."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tdabench.experiment.read import load_experiment
from tdabench.questions.tokens.page import Cell, MethodPassages, Question, render_token_index, render_token_page
from tdabench.questions.tokens.passages import count_query_tokens, make_passages, make_question
from tdabench.storage.records import load_record, load_rows, load_tensors, save_text

TENSORS = ("query_ids", "query_counts", "train", "train_ids", "train_counts", "scores")
TOKEN_SCORES = ("token_scores", "train_token_scores")

Rows = Mapping[str, Mapping[str, Tensor]]


def pages(arguments: argparse.Namespace) -> None:
    """Make a page for each query whose tokens were scored, and one with links to them all."""
    experiment = load_experiment(arguments.experiment)
    cell = Cell(experiment=experiment.name, repeat=arguments.repeat, train_size=arguments.train_size)
    tokenizer = _load_tokenizer(arguments.dataset)
    files = {path.stem: path for path in arguments.tokens}
    records = {method: load_record(path) for method, path in files.items()}
    queries = _load_queries(files, records)
    names = [f"{query}.html" for query in queries]
    questions = []
    for place, (question, methods) in enumerate(_load_pages(files, records, queries, tokenizer)):
        around = (names[place - 1] if place else None, names[place + 1] if place + 1 < len(names) else None)
        save_text(arguments.output / names[place], render_token_page(cell, question, methods, neighbours=around))
        questions.append(question)
    labels = list(_labels(files).values())
    save_text(arguments.output / "index.html", render_token_index(cell, questions, labels))


def _load_tokenizer(path: Path) -> Any:
    from tdabench.data.text.tokenizers import restore_tokenizer

    tensors = load_tensors(path, ["tokenizer"])
    if "tokenizer" not in tensors:
        raise ValueError(f"{path} has no tokenizer: pages of tokens are for text.")
    return restore_tokenizer(tensors["tokenizer"])


def _load_queries(files: Mapping[str, Path], records: Mapping[str, Mapping[str, Any]]) -> list[int]:
    """Return the queries that every method scored.

    Raises:
        ValueError: If methods scored different ones, or none did.
    """
    scored = {method: path for method, path in files.items() if not _reason(records[method])}
    found = {method: load_tensors(path, ["queries"])["queries"] for method, path in scored.items()}
    if not found:
        raise ValueError(f"No method scored tokens ({', '.join(_reason(record) for record in records.values())}).")
    (first, queries), *others = found.items()
    for method, own in others:
        if not torch.equal(own, queries):
            raise ValueError(f"{first} and {method} scored the tokens of different queries: run both again.")
    return queries.tolist()


def _load_pages(
    files: Mapping[str, Path], records: Mapping[str, Mapping[str, Any]], queries: Sequence[int], tokenizer: Any
) -> Iterator[tuple[Question, list[MethodPassages]]]:
    """Return each query with what every method says about it; one query after another is read from the disk."""
    labels = _labels(files)
    for place, query in enumerate(queries):
        rows = {method: _load_row(path, place) for method, path in files.items() if not _reason(records[method])}
        ids = {method: row["query_ids"] for method, row in rows.items()}
        (first, tokens), *others = ids.items()
        for method, own in others:
            if not torch.equal(own, tokens):
                raise ValueError(f"{first} and {method} have different tokens for query {query}: run both again.")
        counted = count_query_tokens(list(rows.values()))
        yield (
            make_question(query, tokens, counted, tokenizer),
            [_make_method(labels[method], rows.get(method), counted, records[method], tokenizer) for method in files],
        )


def _make_method(
    label: str, row: Mapping[str, Tensor] | None, counted: Tensor, record: Mapping[str, Any], tokenizer: Any
) -> MethodPassages:
    if row is None:
        return MethodPassages(label=label, reason=_reason(record))
    return make_passages(label, row, counted, record, tokenizer)


def _load_row(path: Path, place: int) -> dict[str, Tensor]:
    tensors = {name: load_rows(path, name, [place]) for name in (*TENSORS, *TOKEN_SCORES)}
    return {name: tensor[0] for name, tensor in tensors.items() if tensor is not None}


def _labels(methods: Mapping[str, Path]) -> dict[str, str]:
    from tdabench.drawing.style import method_styles

    return {method: style["label"] for method, style in method_styles(methods).items()}


def _reason(record: Mapping[str, Any]) -> str:
    """Say why a method has no scores; nothing if it has."""
    return record["status"].removeprefix("unsupported: ") if record["status"].startswith("unsupported") else ""
