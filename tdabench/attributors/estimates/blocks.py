"""Estimates in blocks of queries and training examples, within a memory that is told."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.estimates.estimators import StreamingCovariance, loss_correlation, loss_covariance
from tdabench.storage.records import create_mapped_tensor

GIB = 2**30
# Draws that a block takes in at a time.
DRAWS = 500
# Freed memory that glibc keeps for later (measured: 28 to 44 MB, whatever the limit).
KEPT_BYTES = 2**25


def require_memory(memory_gib: float | None) -> None:
    """Check a limit of memory."""
    if memory_gib is not None and not 0 < memory_gib < math.inf:
        raise ValueError(f"memory_gib must be positive and finite, or null for no limit, got {memory_gib}.")


def estimate_losses(
    query: Sequence[Float[Tensor, "draw query"]],
    train: Sequence[Float[Tensor, "draw train"]],
    *,
    estimate: str,
    memory_gib: float | None,
    workspace: Path,
) -> Float[Tensor, "query train"]:
    """Return the covariance or correlation of losses over the draws of all chains, within a memory that is told.

    Args:
        query: The queries' losses, a tensor a chain; all chains have as many draws.
        train: Those of the training examples at the same draws.
        estimate: ``covariance`` or ``correlation``.
        memory_gib: Most memory in GiB beside the losses; None for no limit. Where the scores don't fit, they are
            float32 and lie on disk, mapped into memory: their pages are the system's to drop.
        workspace: Folder of that file, which has no name there and goes with the scores.

    Raises:
        ValueError: If a chain has fewer than two draws.
    """
    num_query, num_train = query[0].shape[1], train[0].shape[1]
    # Of all at once: the scores, once more as float32, and the losses thrice, all as float64 but one.
    at_once = 12 * num_query * num_train + 24 * sum(map(len, query)) * (num_query + num_train)
    if memory_gib is None or at_once <= memory_gib * GIB:
        estimator = loss_covariance if estimate == "covariance" else loss_correlation
        return estimator(torch.stack(tuple(query)), torch.stack(tuple(train)))
    scores = create_mapped_tensor(workspace / "scores", (num_query, num_train))
    side = block_side(memory_gib, draws=min(DRAWS, len(query[0])))
    for rows, columns in itertools.product(parts(num_query, side), parts(num_train, side)):
        block = [(of_query[:, rows], of_train[:, columns]) for of_query, of_train in zip(query, train, strict=True)]
        scores[rows, columns] = estimate_block(block, estimate=estimate)
    return scores


def estimate_block(
    chains: Sequence[tuple[Float[Tensor, "draw query"], Float[Tensor, "draw train"]]], *, estimate: str
) -> Float[Tensor, "query train"]:
    """Return the covariance or correlation over the draws of all chains, which are taken in a part at a time.

    Args:
        chains: The losses of the queries and of the training examples, chain by chain.
        estimate: ``covariance`` or ``correlation``.

    Raises:
        ValueError: If no chain has two draws.
    """
    query, train = chains[0]
    block = StreamingCovariance(query.shape[1], train.shape[1], device=query.device)
    for chain, (of_query, of_train) in enumerate(chains):
        for draws in parts(len(of_query), DRAWS):
            block.update(chain, of_query[draws], of_train[draws])
    return block.estimate(estimate)


def least_memory(side: int, *, draws: int) -> int:
    """Return the bytes of the least limit with which a block may have that many queries, and training examples.

    Args:
        draws: How many it takes in at a time.
    """
    limit = (16 * (side + 1) ** 2 + 32 * draws * (side + 1)) / 0.85
    return math.ceil(limit + min(KEPT_BYTES, limit))


def block_side(memory_gib: float, *, draws: int) -> int:
    """Return how many queries, and training examples, a block may have.

    Args:
        draws: How many it takes in at a time.
    """
    # 16 s^2 bytes for a block and its result, 32 * draws * s for its losses in float64 and those that are centred; the
    # rest is left to what no formula counts: buffers of the matrix product, and freed memory that the allocator keeps.
    limit = 0.85 * (memory_gib * GIB - min(KEPT_BYTES, memory_gib * GIB / 2))
    return max(1, int((math.sqrt((16 * draws) ** 2 + 16 * limit) - 16 * draws) / 16))


def parts(length: int, size: int) -> Iterator[slice]:
    """Divide a length into consecutive parts of at most ``size``."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
