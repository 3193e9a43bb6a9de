"""The stages of tokens: score those of a few queries and of what matters most to them; make a page a query."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdabench.attributors.running.run import run_token_attributor
from tdabench.data.text.tokenizers import restore_tokenizer
from tdabench.drawing.style import method_styles
from tdabench.examples import Examples, take
from tdabench.experiment.read import Experiment
from tdabench.questions.tokens import page
from tdabench.questions.tokens.page import MethodPassages, Question, render_token_index, render_token_page
from tdabench.questions.tokens.passages import count_query_tokens, make_passages, make_question
from tdabench.runtime.machine import Machine
from tdabench.stages.attribution import NoResult, Trial, outcome_of
from tdabench.storage.cell import Cell
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, load_rows, load_tensors, save_tensors, save_text

logger = logging.getLogger(__name__)
TENSORS = ("query_ids", "query_counts", "train", "train_ids", "train_counts", "scores")
TOKEN_SCORES = ("token_scores", "train_token_scores")


def tokens(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Score tokens with one method; the file is empty, and says why, if the method can't.

    The file has, for each chosen query, ``train``: the method's most helpful training examples, the most helpful
    first, and after them as many of its most harmful ones, the most harmful first; their ``scores``; and either
    ``token_scores`` (query, qpos, train, tpos) or, of a method that scores training tokens for whole queries,
    ``train_token_scores`` (query, train, tpos). ``queries`` and ``train`` are rows of the scores. Whoever reads it
    needs no data: ``query_ids`` and ``train_ids`` are their tokens, and ``query_counts`` and ``train_counts`` say which
    of them have a loss.

    Args:
        method: its key in the experiment file.
    """
    trial = Trial(experiment, cell, method, machine)
    if method not in experiment.token_methods:
        raise ValueError(
            f"{experiment.name} shows no tokens of {method}: it has no section tokens, or the section's methods leave "
            "it out."
        )
    settings, path, details = experiment.tokens, cell.scores(method), {"tokens": experiment.tokens}
    scores = load_rows(path, "scores", range(settings.queries))
    try:
        if scores is None:
            raise NoResult(Outcome.of(load_record(path)))
        train = choose_top(scores, settings.top)
        details["attributor"] = trial.settled()
        attribution, tensors = _score(trial, details["attributor"], train)
    except Exception as error:
        outcome = outcome_of(error, trial.own)
        logger.warning("%s: %s", method, outcome)
        record = trial.record(None, outcome, path, **details)
        save_tensors(cell.tokens(method), {}, record)
        return
    tensors |= {"queries": torch.arange(settings.queries), "train": train, "scores": scores.gather(1, train)}
    record = trial.record(attribution.cost, Outcome.ok(attribution.warnings), path, **details)
    save_tensors(cell.tokens(method), tensors, record)


def pages(experiment: Experiment, cell: Cell) -> None:
    """Make a page for each query whose tokens were scored, and one with links to them all."""
    place = page.Cell(experiment=experiment.name, repeat=cell.repeat, train_size=cell.train_size)
    output = cell.root / "tokens" / f"{cell.repeat}-{cell.train_size}"
    tokenizer = _load_tokenizer(cell.dataset)
    files = {method: cell.tokens(method) for method in experiment.token_methods}
    records = {method: load_record(path) for method, path in files.items()}
    queries = _load_queries(files, records)
    names = [f"{query}.html" for query in queries]
    questions = []
    for number, (question, methods) in enumerate(_load_pages(files, records, queries, tokenizer)):
        around = (names[number - 1] if number else None, names[number + 1] if number + 1 < len(names) else None)
        save_text(output / names[number], render_token_page(place, question, methods, neighbours=around))
        questions.append(question)
    save_text(output / "index.html", render_token_index(place, questions, list(_labels(files).values())))


def choose_top(scores: Float[Tensor, "query train"], top: int) -> Int[Tensor, "query chosen"]:
    """Return each query's most helpful training examples and then its most harmful ones, the extremes first.

    Args:
        top: How many of each; twice as many there are at least, so that none is both.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, :top], order[:, -top:].flip(1)], dim=1)


def _score(trial: Trial, attributor: Any, train: Int[Tensor, "query chosen"]) -> tuple[Any, dict[str, Tensor]]:
    """Score the tokens of all that was chosen for any query, and return each query its own."""
    bench = trial.bench
    some, places = train.unique(return_inverse=True)
    query = take(bench.query, slice(len(train)))
    with trial.lent_problem(query, folder=f"tokens-{trial.method}") as problem:
        chosen = take(bench.train, some.to(bench.device))
        problem = dataclasses.replace(problem, train=chosen)
        attribution = run_token_attributor(attributor, problem, generator=trial.generator())
        rows = zip(attribution.scores, places, strict=True)
        if attribution.scores.ndim == 4:
            found = {"token_scores": torch.stack([scores[:, place] for scores, place in rows])}
        else:
            found = {"train_token_scores": torch.stack([scores[place] for scores, place in rows])}
    return attribution, {**found, **_describe(query, "query"), **_describe(take(chosen, places), "train")}


def _describe(examples: Examples, name: str) -> dict[str, Tensor]:
    return {f"{name}_ids": examples["input_ids"], f"{name}_counts": examples["labels"] >= 0}


def _load_tokenizer(path: Path) -> Any:
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
    return {method: style["label"] for method, style in method_styles(methods).items()}


def _reason(record: Mapping[str, Any]) -> str:
    """Say why a method has no scores; nothing if it has."""
    outcome = Outcome.of(record)
    return "" if outcome.is_ok else outcome.reason
