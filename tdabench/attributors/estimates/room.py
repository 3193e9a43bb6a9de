"""Memory and disk that scores of tokens need, told before a chain is sampled."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from tdabench.attributors.base import Problem, num_examples, take
from tdabench.attributors.estimates.blocks import DRAWS, GIB, least_memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenBytes:
    """Bytes that scores of every pair of tokens need.

    Attributes:
        scores: Of all scores as float32; on disk, if they are made in blocks.
        losses: Memory of what the chains keep.
        at_once: Memory of the estimate beside that, if all scores are made at once.
        least: The least limit of that memory with which blocks have a pair of sequences at least.
        text: Where the scores' number comes from.
    """

    scores: int
    losses: int
    at_once: int
    least: int
    text: str


def token_scores_bytes(
    *, queries: int, query_positions: int, train: int, train_positions: int, chains: int, draws: int
) -> TokenBytes:
    """Tell what scores of tokens need."""
    of_query, of_train = queries * query_positions, train * train_positions
    pairs, text = of_query * of_train, f"{queries:,} x {query_positions:,} x {train:,} x {train_positions:,}"
    losses = 4 * chains * draws * (of_query + of_train)
    at_once = 12 * pairs + 6 * losses  # as estimate_losses counts
    least = least_memory(max(query_positions, train_positions), draws=min(DRAWS, draws))
    return TokenBytes(scores=4 * pairs, losses=losses, at_once=at_once, least=min(least, at_once), text=text)


def require_room(settings: Any, problem: Problem) -> TokenBytes:
    """Check that the scores of all pairs of tokens will fit, and return what they need.

    Args:
        settings: The attributor: ``chains``, ``draws`` and ``memory_gib``.

    Raises:
        ValueError: If memory or disk are too small; the message has the numbers.
    """
    needs = _needs_of(settings, problem)
    of_scores = f"{needs.text} scores (queries x positions x training examples x positions) x 4 bytes"
    of_scores = f"{of_scores} = {needs.scores:,} bytes"
    if settings.memory_gib is None:
        memory = _find_memory(problem)
        if needs.losses + needs.at_once > memory:
            raise ValueError(
                f"Scores of tokens need {needs.losses + needs.at_once:,} bytes of memory, {needs.losses:,} of them for "
                f"what the chains keep, and there are {memory:,}: {of_scores}. Set memory_gib: "
                "scores that don't fit are made in blocks, and lie on disk. Or ask for fewer examples."
            )
    elif needs.at_once > settings.memory_gib * GIB:
        if needs.least > settings.memory_gib * GIB:
            raise ValueError(
                f"memory_gib is {settings.memory_gib}, and scores of tokens need {needs.least / GIB:.3g} at least: "
                f"{of_scores}. Raise it, or ask for fewer queries or training examples."
            )
        free = shutil.disk_usage(problem.workspace).free
        if needs.scores > free:
            raise ValueError(
                f"With memory_gib {settings.memory_gib} scores of tokens lie on disk, which has {free:,} bytes free in "
                f"{Path(problem.workspace)}: {of_scores}. Free some, or ask for fewer queries or training examples."
            )
    return needs


def _needs_of(settings: Any, problem: Problem) -> TokenBytes:
    with torch.no_grad():
        positions = [
            problem.token_loss(problem.models[0], take(examples, slice(1))).shape[1]
            for examples in (problem.query, problem.train)
        ]
    return token_scores_bytes(
        queries=num_examples(problem.query),
        query_positions=positions[0],
        train=num_examples(problem.train),
        train_positions=positions[1],
        chains=settings.chains,
        draws=settings.draws,
    )


def _find_memory(problem: Problem) -> int:
    device = next(iter(problem.train.values())).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
