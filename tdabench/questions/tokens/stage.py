"""The stages of tokens: score those of a few queries and of what matters most to them; make a page a query."""

import dataclasses
import logging
from collections.abc import Mapping
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
from tdabench.questions.tokens.page import MethodPassages, render_token_index, render_token_page
from tdabench.questions.tokens.passages import make_passages, make_question
from tdabench.runtime.machine import Machine
from tdabench.stages.trial import NoResult, Trial, outcome_of
from tdabench.storage.cell import Cell
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, load_rows, load_tensors, save_tensors, save_text

logger = logging.getLogger(__name__)
TENSORS = (
    "query_ids", "query_counts", "train", "train_ids", "train_counts", "scores", "token_scores", "train_token_scores",
)  # fmt: skip


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
    output = cell.root / "tokens" / f"{cell.repeat}-{cell.train_size}"
    tokenizer = _load_tokenizer(cell.dataset)
    labels = {method: style["label"] for method, style in method_styles(experiment.token_methods).items()}
    records = {method: load_record(cell.tokens(method)) for method in labels}
    scored = [method for method in labels if Outcome.of(records[method]).is_ok]
    if not scored:
        reasons = ", ".join(Outcome.of(record).reason for record in records.values())
        raise ValueError(f"No method scored tokens ({reasons}).")
    found = {method: load_tensors(cell.tokens(method), ["queries"])["queries"] for method in scored}
    queries = _require_same(found, "scored the tokens of different queries")
    names = [None, *(f"{query}.html" for query in queries.tolist()), None]
    questions = []
    for place, query in enumerate(queries.tolist()):  # one after another is read from the disk
        rows = {method: _load_row(cell.tokens(method), place) for method in scored}
        _require_same(
            {method: row["query_ids"] for method, row in rows.items()}, f"have different tokens for query {query}"
        )
        question = make_question(query, rows[scored[0]], tokenizer)
        methods = [
            make_passages(label, rows[method], records[method], tokenizer)
            if method in rows
            else MethodPassages(label=label, reason=Outcome.of(records[method]).reason)
            for method, label in labels.items()
        ]
        around = (names[place], names[place + 2])
        page = render_token_page(experiment.name, cell, question, methods, neighbours=around)
        save_text(output / question.file, page)
        questions.append(question)
    save_text(output / "index.html", render_token_index(experiment.name, cell, questions, list(labels.values())))


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


def _require_same(tensors: Mapping[str, Tensor], problem: str) -> Tensor:
    """Return what every method has alike."""
    (first, tensor), *others = tensors.items()
    for method, own in others:
        if not torch.equal(own, tensor):
            raise ValueError(f"{first} and {method} {problem}: run both again.")
    return tensor


def _load_row(path: Path, place: int) -> dict[str, Tensor]:
    tensors = {name: load_rows(path, name, [place]) for name in TENSORS}
    return {name: tensor[0] for name, tensor in tensors.items() if tensor is not None}
