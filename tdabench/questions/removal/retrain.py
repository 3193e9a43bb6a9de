"""Models retrained without the examples that a method calls most helpful for a query, and the arms beside them."""

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.bank.retrain import Measure, Retrain, measure_queries
from tdabench.bank.subsets import align_arms, draw_matched, most_helpful
from tdabench.examples import Examples, device_of, num_examples, take
from tdabench.experiment.sections import RemovalSettings
from tdabench.runtime.progress import progress
from tdabench.seeds import make_generator

Stream = tuple[str | int, ...]


def remove_most_helpful(
    train: Examples,
    query: Examples,
    scores: Float[Tensor, "query train"],
    settings: RemovalSettings,
    *,
    seed: int,
    stream: Stream,
    retrain: Retrain,
    measure: Measure,
) -> dict[str, Tensor]:
    """Retrain without the most helpful examples, and without a matched random draw, and measure the query.

    A query's retrain has one training seed, whatever the method, the count and the arm; seeds differ between retrains
    and between queries. The matched draws are the same for two methods that remove the same labels.

    Args:
        query: The queries, from the first on.
        scores: Of those queries; positive means helpful.
        stream: The same one for every method.

    Returns:
        ``removed_loss`` and ``matched_loss`` (count, query, retrain); ``overlap`` of the same shape, the share of
        the matched examples that are the removed ones themselves; and ``removed`` (query, largest count), best first.
        A model that diverged has NaN.
    """
    labels = train["label"].cpu() if "label" in train else torch.zeros(num_examples(train), dtype=torch.long)
    shape = (len(settings.counts), settings.queries, settings.retrains)
    losses = {"removed_loss": torch.full(shape, torch.nan), "matched_loss": torch.full(shape, torch.nan)}
    overlap = torch.zeros(shape)
    for index, one, place in progress(_cells(settings), "remove"):
        count, address = settings.counts[place], (*stream, "query", one, "retrain", index)
        removed = most_helpful(scores[one], count)
        matched = draw_matched(removed, labels, generator=make_generator(seed, *address, "matched", count))
        overlap[place, one, index] = torch.isin(matched, removed).float().mean()
        for name, kept in zip(losses, align_arms(removed, matched, labels), strict=True):
            arm = take(train, kept.to(device_of(train)))
            losses[name][place, one, index] = _query_loss(arm, query, one, seed, address, retrain, measure)
    largest = max(settings.counts)
    chosen = torch.stack([most_helpful(row, largest) for row in scores[: settings.queries]])
    return {**losses, "overlap": overlap, "removed": chosen}


def keep_all(
    train: Examples,
    query: Examples,
    settings: RemovalSettings,
    *,
    seed: int,
    stream: Stream,
    retrain: Retrain,
    measure: Measure,
) -> dict[str, Tensor]:
    """Retrain on every example with the seeds of the removals, which no method changes.

    Returns:
        ``loss`` (query, retrain). A model that diverged has NaN.
    """
    loss = torch.full((settings.queries, settings.retrains), torch.nan)
    cells = [(index, one) for index in range(settings.retrains) for one in range(settings.queries)]
    for index, one in progress(cells, "keep"):
        address = (*stream, "query", one, "retrain", index)
        loss[one, index] = _query_loss(train, query, one, seed, address, retrain, measure)
    return {"loss": loss}


def _cells(settings: RemovalSettings) -> list[tuple[int, int, int]]:
    """Return every retrain, query and place among the counts."""
    return [
        (index, one, place)
        for index in range(settings.retrains)
        for one in range(settings.queries)
        for place in range(len(settings.counts))
    ]


def _query_loss(
    train: Examples, query: Examples, one: int, seed: int, address: Stream, retrain: Retrain, measure: Measure
) -> Tensor:
    model = retrain(train, make_generator(seed, *address, "model"))
    return measure_queries(model, take(query, slice(one, one + 1)), measure)[0].squeeze(0)
