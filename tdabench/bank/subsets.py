"""Which examples a model is retrained on: random subsets, and all but the most helpful ones."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tdabench.experiment.sections import BankSettings


def draw_mask(num_train: int, settings: BankSettings, *, generator: torch.Generator) -> Bool[Tensor, " train"]:
    """Draw one subset of the attribution set: fixed size, or each example kept with equal probability.

    Raises:
        ValueError: If a subset of fixed size would be empty or the whole set.
    """
    if settings.sampling == "bernoulli":
        return torch.rand(num_train, generator=generator) < settings.fraction
    size = round(num_train * settings.fraction)
    if not 0 < size < num_train:
        raise ValueError(
            f"A bank.fraction of {settings.fraction} of {num_train} examples is "
            f"{'an empty subset' if size == 0 else 'the whole set'}."
        )
    mask = torch.zeros(num_train, dtype=torch.bool)
    mask[torch.randperm(num_train, generator=generator)[:size]] = True
    return mask


def shard_subsets(settings: BankSettings, shard: int) -> range:
    """Return the subsets of a shard: consecutive, shards equal to within one.

    Raises:
        ValueError: If there is no such shard.
    """
    if not 0 <= shard < settings.shards:
        raise ValueError(f"There are shards 0 to {settings.shards - 1}, got {shard}.")
    return range(settings.subsets * shard // settings.shards, settings.subsets * (shard + 1) // settings.shards)


def most_helpful(scores: Float[Tensor, " train"], count: int) -> Int[Tensor, " removed"]:
    """Choose the examples with the highest scores, best first; of equal ones, those that come first.

    Raises:
        ValueError: If nothing would be left, or nothing is removed.
    """
    if not 0 < count < len(scores):
        raise ValueError(f"Of {len(scores)} examples, 1 to {len(scores) - 1} can be removed, got {count}.")
    return scores.sort(descending=True, stable=True).indices[:count]


def draw_matched(
    removed: Int[Tensor, " removed"], labels: Int[Tensor, " train"], *, generator: torch.Generator
) -> Int[Tensor, " removed"]:
    """Draw as many examples with the same labels, uniformly from all that have them, the removed ones included.

    Without that, a method would look good by finding the query's class, which needs no attribution.
    """
    drawn = []
    for label, count in zip(*labels[removed].unique(return_counts=True), strict=True):
        same = (labels == label).nonzero().flatten()
        drawn.append(same[torch.randperm(len(same), generator=generator)[:count]])
    return torch.cat(drawn)


def align_arms(
    removed: Int[Tensor, " removed"], matched: Int[Tensor, " removed"], labels: Int[Tensor, " train"]
) -> tuple[Int[Tensor, " kept"], Int[Tensor, " kept"]]:
    """Return what each of two arms keeps, in orders that agree wherever both keep the same example.

    Where they differ, they have examples of the same label. With the same seed both arms then see the same batches but
    for the exchanged examples, so that their difference is the removal's and not the order's.
    """
    gone = torch.zeros(2, len(labels), dtype=torch.bool)
    gone[0, removed], gone[1, matched] = True, True
    both = (~gone.any(dim=0)).nonzero().flatten()
    only_first, only_second = ((gone[other] & ~gone[arm]).nonzero().flatten() for arm, other in ((0, 1), (1, 0)))
    by_label = [only[labels[only].sort(stable=True).indices] for only in (only_first, only_second)]
    return torch.cat([both, by_label[0]]), torch.cat([both, by_label[1]])
