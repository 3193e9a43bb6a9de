"""How many queries' scores may be in memory at once, for a job to stay within the memory that it is told."""

from jaxtyping import Bool, Float
from torch import Tensor

from tdabench.evaluation.lds import QUERIES_AT_ONCE

GIB = 2**30
# Python, torch and scipy with their libraries (measured: 0.52 GiB), and freed memory that the allocator keeps.
PROCESS_BYTES = 600 * 2**20
# Of a score on its way to a sum: as it is read, which the block before still is too, and in float64.
SUMMED_BYTES = 4 + 4 + 8


def bank_bytes(
    masks: Bool[Tensor, "subset train"],
    losses: Float[Tensor, "subset retrain query"],
    *,
    methods: int,
    resamples: int,
) -> int:
    """Return what a bank and the bootstrap of so many methods take, beside any scores."""
    subsets, retrains, queries = losses.shape
    # Masks as read, joined, chosen and in float64; losses as read and joined, and up to four times in float64.
    bank = 11 * masks.numel() + 40 * losses.numel()
    # Sums or losses in float64, thrice while they are sorted, and both orders.
    sides = 48 * (1 + max(methods, retrains)) * subsets * queries
    return bank + sides + 9 * resamples * queries


def queries_at_once(memory_gib: float | None, *, beside: int, per_query: int, most: int = QUERIES_AT_ONCE) -> int:
    """Return how many queries a block may have.

    Args:
        memory_gib: Most resident memory of the process in GiB; None for no limit.
        beside: Bytes that are taken whatever the block, the process's own left out.
        per_query: Bytes that a query takes in a block.
        most: What is given at most, and without a limit.

    Raises:
        ValueError: If not even one query fits.
    """
    if memory_gib is None:
        return most
    fixed = PROCESS_BYTES + beside
    fits = int((memory_gib * GIB - fixed) // per_query)
    if fits < 1:
        raise ValueError(
            f"An evaluation.memory_gib of {memory_gib} is too little: the bank, its bootstrap and the scores of one "
            f"query need {(fixed + per_query) / GIB:.2f}. Raise it, or leave it out."
        )
    return min(most, fits)
