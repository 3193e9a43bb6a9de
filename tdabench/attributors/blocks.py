"""Estimates in blocks of queries and training examples, within a memory that is told."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.estimators import StreamingCovariance, loss_correlation, loss_covariance
from tdabench.records import create_mapped_tensor

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
    """Give the covariance or correlation of losses over the draws of all chains, within a memory that is told.

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
    for rows, columns in itertools.product(_parts(num_query, side), _parts(num_train, side)):
        block = StreamingCovariance(len(range(num_query)[rows]), len(range(num_train)[columns]), device=query[0].device)
        for chain, (of_query, of_train) in enumerate(zip(query, train, strict=True)):
            for draws in _parts(len(of_query), DRAWS):
                block.update(chain, of_query[draws, rows], of_train[draws, columns])
        scores[rows, columns] = block.covariance() if estimate == "covariance" else block.correlation()
    return scores


def block_side(memory_gib: float, *, draws: int) -> int:
    """Give how many queries, and training examples, a block may have.

    Args:
        draws: How many it takes in at a time.
    """
    # 16 s^2 bytes for a block and its result, 32 * draws * s for its losses in float64 and those that are centred; the
    # rest is left to what no formula counts: buffers of the matrix product, and freed memory that the allocator keeps.
    limit = 0.85 * (memory_gib * GIB - min(KEPT_BYTES, memory_gib * GIB / 2))
    return max(1, int((math.sqrt((16 * draws) ** 2 + 16 * limit) - 16 * draws) / 16))


def _parts(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))
