"""Scores of every pair of tokens: what is recorded of a chain, and what is made of the chains."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, Unsupported, batches
from tdabench.attributors.estimates.blocks import DRAWS, block_side, estimate_block, estimate_losses, parts
from tdabench.attributors.estimates.room import require_room
from tdabench.attributors.estimates.traces import has_converged, keep_traces, report_diverged
from tdabench.examples import batch_size_of

# Memory of sequence scores from tokens, where no limit is told.
DEFAULT_GIB = 1.0


def require_token_estimate(token_estimate: str) -> None:
    """Check the name of a way to estimate; there is one."""
    if token_estimate != "traces":
        raise ValueError(
            f"token_estimate must be traces, got {token_estimate!r}: leave it out, and set memory_gib to bound the "
            "estimate's memory."
        )


def make_recorder(settings: Any, problem: Problem) -> "TraceRecorder":
    """Make the recorder of one chain of ``settings.draws``.

    Raises:
        Unsupported: If the problem has no tokens.
    """
    if problem.token_loss is None:
        raise Unsupported("scores of tokens need a language model: this problem has no token_loss")
    return TraceRecorder(problem, draws=settings.draws, batch_size=settings.loss_batch_size)


def sample_and_score_tokens(
    method: Any, problem: Problem, *, generator: torch.Generator
) -> Float[Tensor, "query qpos train tpos"]:
    """Score tokens by the chains of a method, one after the other; that there is room is looked at first.

    Args:
        method: Its ``sample_token_chain`` and ``score_token_chains``.

    Raises:
        Unsupported: If the problem has no tokens.
        ValueError: If memory or disk are too small for the scores, or every chain diverged.
    """
    make_recorder(method, problem)
    require_room(method, problem)
    chains = (method.sample_token_chain(problem, chain, generator=generator) for chain in range(method.chains))
    return method.score_token_chains(chains, problem)


def score_tokens(
    settings: Any, chains: Iterable[dict[str, Tensor]], problem: Problem, *, remedy: str, markov: bool = True
) -> Float[Tensor, "query qpos train tpos"]:
    """Return ``settings.estimate`` of the losses of every pair of tokens; a token without a loss has 0.

    Args:
        chains: As ``record_chain`` gives them with the recorder of the same settings; those that are made when they
            are asked for, one after the other, need the least memory.
        remedy: What to do against divergence.
        markov: Whether a draw depends on the one before it; see ``estimate_scores``.

    Raises:
        Diverged: If every chain diverged (a ValueError).
    """
    return _gather(settings, chains, problem, remedy=remedy, markov=markov).scores(settings, problem)


def score_sequences(
    settings: Any, chains: Iterable[dict[str, Tensor]], problem: Problem, *, remedy: str, markov: bool = True
) -> Float[Tensor, "query train"]:
    """Return the sum of ``score_tokens`` over all pairs of tokens, without holding them all."""
    return _gather(settings, chains, problem, remedy=remedy, markov=markov).summed(settings)


@torch.no_grad()
def measure_tokens(
    model: nn.Module, problem: Problem, examples: Examples, batch_size: int | None
) -> Float[Tensor, "example position"]:
    """Measure every token's loss at a draw."""
    return torch.cat(
        [problem.token_loss(model, batch) for batch in batches(examples, batch_size or batch_size_of(examples))]
    )


class TraceRecorder:
    """Keeps every token's loss at every draw: ``query_tokens`` (draw, query, qpos), ``train_tokens`` alike."""

    def __init__(self, problem: Problem, *, draws: int, batch_size: int | None) -> None:
        self._problem, self._draws, self._batch_size = problem, draws, batch_size
        self._kept: dict[str, Tensor] = {}

    def measure(self, model: nn.Module, draw: int | None) -> Float[Tensor, " example"]:
        """Measure every token once; return each example's loss, the sum over its tokens (see ``record_chain``)."""
        losses = _measure_parts(model, self._problem, self._batch_size)
        for name, values in losses.items():
            if draw is None:
                self._kept[f"{name}_tokens"] = values.new_full((self._draws, *values.shape), torch.nan)
            else:
                self._kept[f"{name}_tokens"][draw] = values
        return _sum_tokens(losses)

    def tensors(self) -> dict[str, Tensor]:
        """Return the losses, NaN after a divergence."""
        return self._kept


@dataclasses.dataclass(frozen=True)
class TokenTraces:
    """The losses of all chains: a list entry a chain, each with the axes draw, example, position."""

    query: list[Float[Tensor, "draw query qpos"]] = dataclasses.field(default_factory=list)
    train: list[Float[Tensor, "draw train tpos"]] = dataclasses.field(default_factory=list)

    def add(self, chain: dict[str, Tensor]) -> None:
        """Add a chain."""
        self.query.append(chain["query_tokens"])
        self.train.append(chain["train_tokens"])

    def scores(self, settings: Any, problem: Problem) -> Float[Tensor, "query qpos train tpos"]:
        """Estimate all pairs, in blocks and on disk where memory is too small."""
        scores = estimate_losses(
            [losses.flatten(1) for losses in self.query],
            [losses.flatten(1) for losses in self.train],
            estimate=settings.estimate,
            memory_gib=settings.memory_gib,
            workspace=problem.workspace,
        )
        return scores.view(*self.query[0].shape[1:], *self.train[0].shape[1:])

    def summed(self, settings: Any) -> Float[Tensor, "query train"]:
        """Estimate in blocks of whole sequences, and keep only each pair's sum."""
        (draws, queries, of_query), (_, count, of_train) = self.query[0].shape, self.train[0].shape
        side = block_side(settings.memory_gib or DEFAULT_GIB, draws=min(DRAWS, draws))
        scores = self.query[0].new_empty((queries, count), dtype=torch.float64)
        for rows, columns in itertools.product(
            parts(queries, max(1, side // of_query)), parts(count, max(1, side // of_train))
        ):
            pairs = zip(self.query, self.train, strict=True)
            block = [(query[:, rows].flatten(1), train[:, columns].flatten(1)) for query, train in pairs]
            found = estimate_block(block, estimate=settings.estimate)
            scores[rows, columns] = found.view(-1, of_query, found.shape[1] // of_train, of_train).sum(dim=(1, 3))
        return scores


def _measure_parts(model: nn.Module, problem: Problem, batch_size: int | None) -> dict[str, Tensor]:
    measured = {name: measure_tokens(model, problem, getattr(problem, name), batch_size) for name in ("train", "query")}
    return {name: values.to(torch.promote_types(values.dtype, torch.float32)) for name, values in measured.items()}


def _sum_tokens(losses: dict[str, Tensor]) -> Float[Tensor, " example"]:
    """Return the losses of training examples and, after them, of queries; as exact as their type allows."""
    return torch.cat([losses[name].double().sum(dim=1).to(losses[name].dtype) for name in ("train", "query")])


def _gather(
    settings: Any, chains: Iterable[dict[str, Tensor]], problem: Problem, *, remedy: str, markov: bool
) -> TokenTraces:
    """Collect the tokens of the chains that converged, and keep the traces of all chains' sequences."""
    gathered, sequences, converged = TokenTraces(), [], []
    for chain in chains:
        sequences.append({name: values for name, values in chain.items() if "token" not in name})
        converged.append(has_converged(chain))
        if converged[-1]:
            gathered.add(chain)
    keep_traces(settings, sequences, problem, markov=markov)
    report_diverged(converged, remedy=remedy)
    return gathered
