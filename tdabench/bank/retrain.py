"""The bank: models retrained on random subsets, and their losses on the queries."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.bank.subsets import draw_mask, shard_subsets
from tdabench.examples import Examples, batch_size_of, batches, device_of, num_examples, take
from tdabench.experiment.sections import BankSettings
from tdabench.runtime.progress import progress
from tdabench.seeds import make_generator

Retrain = Callable[[Examples, torch.Generator], nn.Module]
Measure = Callable[[nn.Module, Examples], tuple[Tensor, Tensor]]
# Nats: a loss or margin beyond any that a trained model has.
DIVERGED = 1e6


def fill_shard(
    train: Examples,
    query: Examples,
    settings: BankSettings,
    *,
    shard: int,
    seed: int,
    stream: tuple[str | int, ...],
    retrain: Retrain,
    measure: Measure,
) -> dict[str, Tensor]:
    """Retrain on each of a shard's subsets and measure every query.

    Every model has its own streams, named by subset and retrain, so that the division into shards changes nothing.

    Args:
        retrain: ``(examples of the subset, stream) -> trained model``.
        measure: ``(model, queries) -> (loss, margin)``, each (query,).

    Returns:
        ``masks`` (subset, train), ``loss`` and ``margin`` (subset, retrain, query). A model that diverged has NaN.
    """
    masks, losses, margins = [], [], []
    runs = [(subset, index) for subset in shard_subsets(settings, shard) for index in range(settings.retrains)]
    for subset, index in progress(runs, f"retrain, shard {shard + 1}/{settings.shards}"):
        if index == 0:
            mask_stream = make_generator(seed, *stream, "subset", subset)
            masks.append(draw_mask(num_examples(train), settings, generator=mask_stream))
        chosen = masks[-1].to(device_of(train))
        model_stream = make_generator(seed, *stream, "subset", subset, "retrain", index)
        model = retrain(take(train, chosen), model_stream)
        loss, margin = measure_queries(model, query, measure)
        losses.append(loss)
        margins.append(margin)
    shape = (len(masks), settings.retrains, -1)
    return {
        "masks": torch.stack(masks),
        "loss": torch.stack(losses).reshape(shape),
        "margin": torch.stack(margins).reshape(shape),
    }


@torch.no_grad()
def measure_queries(
    model: nn.Module, query: Examples, measure: Measure, *, batch_size: int | None = None
) -> tuple[Float[Tensor, " query"], Float[Tensor, " query"]]:
    """Measure every query; if a value is not finite, or beyond a million, the model diverged: all are NaN."""
    parts = [measure(model, part) for part in batches(query, batch_size or batch_size_of(query))]
    loss, margin = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    if not all((values.abs() < DIVERGED).all() for values in (loss, margin)):  # NaN is not
        return torch.full_like(loss, torch.nan), torch.full_like(margin, torch.nan)
    return loss, margin
