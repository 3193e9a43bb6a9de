"""The stage that scores tokens, of a few queries and the training examples that matter most to them."""

import argparse
import dataclasses
import logging
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdabench.data.base import Examples
from tdabench.experiment.components import instantiate
from tdabench.seeds import make_generator
from tdabench.stages.attribution import find_method, lend_problem, settle_method, stream_of
from tdabench.stages.bench import Bench
from tdabench.storage.records import load_record, load_rows, save_tensors

logger = logging.getLogger(__name__)


def tokens(arguments: argparse.Namespace) -> None:
    """Score tokens with one method; the file is empty, and says why, if the method can't.

    The file has, for each chosen query, ``train``: the method's most helpful training examples, the most helpful
    first, and after them as many of its most harmful ones, the most harmful first; their ``scores``; and either
    ``token_scores`` (query, qpos, train, tpos) or, of a method that scores training tokens for whole queries,
    ``train_token_scores`` (query, train, tpos). ``queries`` and ``train`` are rows of the scores. Whoever reads it
    needs no data: ``query_ids`` and ``train_ids`` are their tokens, and ``query_counts`` and ``train_counts`` say which
    of them have a loss.
    """
    from tdabench.attributors.base import Unsupported

    bench = Bench(arguments)
    component, settings = find_method(bench, arguments), bench.experiment.tokens
    if arguments.method not in bench.experiment.token_methods:
        raise ValueError(
            f"{arguments.experiment} shows no tokens of {arguments.method}: it has no section tokens, or the section's "
            "methods leave it out."
        )
    attributor, stream = instantiate(component, f"methods.{arguments.method}"), stream_of(arguments)
    details = {"stream": stream, "method": component, "tokens": settings}
    scores = load_rows(arguments.scores, "scores", range(settings.queries))
    try:
        if scores is None:
            raise Unsupported(load_record(arguments.scores)["status"].removeprefix("unsupported: "))
        train = choose_top(scores, settings.top)
        details["attributor"] = settle_method(attributor, arguments)
        attribution, tensors = _score(bench, arguments, details["attributor"], train)
    except Unsupported as reason:
        logger.warning("%s is not supported here: %s", arguments.method, reason)
        save_tensors(arguments.output, {}, bench.record(arguments, None, status=f"unsupported: {reason}", **details))
        return
    tensors |= {"queries": torch.arange(settings.queries), "train": train, "scores": scores.gather(1, train)}
    status = "; ".join(["ok", *(f"warning: {message}" for message in attribution.warnings)])
    save_tensors(arguments.output, tensors, bench.record(arguments, attribution.cost, status=status, **details))


def choose_top(scores: Float[Tensor, "query train"], top: int) -> Int[Tensor, "query chosen"]:
    """Return each query's most helpful training examples and then its most harmful ones, the extremes first.

    Args:
        top: How many of each; twice as many there are at least, so that none is both.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    return torch.cat([order[:, :top], order[:, -top:].flip(1)], dim=1)


def _score(
    bench: Bench, arguments: argparse.Namespace, attributor: Any, train: Int[Tensor, "query chosen"]
) -> tuple[Any, dict[str, Tensor]]:
    """Score the tokens of all that was chosen for any query, and return each query its own."""
    from tdabench.attributors.running.run import run_token_attributor
    from tdabench.examples import take

    some, places = train.unique(return_inverse=True)
    query = take(bench.query, slice(len(train)))
    generator = make_generator(bench.experiment.seed, *stream_of(arguments))
    with lend_problem(bench, arguments, query, folder=f"tokens-{arguments.method}") as problem:
        chosen = take(bench.train, some.to(bench.device))
        problem = dataclasses.replace(problem, train=chosen)
        attribution = run_token_attributor(attributor, problem, generator=generator)
        rows = zip(attribution.scores, places, strict=True)
        if attribution.scores.ndim == 4:
            found = {"token_scores": torch.stack([scores[:, place] for scores, place in rows])}
        else:
            found = {"train_token_scores": torch.stack([scores[place] for scores, place in rows])}
    return attribution, {**found, **_describe(query, "query"), **_describe(take(chosen, places), "train")}


def _describe(examples: Examples, name: str) -> dict[str, Tensor]:
    return {f"{name}_ids": examples["input_ids"], f"{name}_counts": examples["labels"] >= 0}
