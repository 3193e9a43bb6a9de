"""What BIF and LaplaceBIF share: the settings of chains, and the one path from a sampler to scores."""

import abc
import dataclasses
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Problem, Unsupported, chain_generator
from tdabench.attributors.calibration.auto import AUTO, settle
from tdabench.attributors.estimates.blocks import require_memory
from tdabench.attributors.estimates.estimators import require_estimate
from tdabench.attributors.estimates.tokens import (
    make_recorder,
    require_token_estimate,
    sample_and_score_tokens,
    score_sequences,
    score_tokens,
)
from tdabench.attributors.estimates.traces import estimate_scores, estimate_self
from tdabench.attributors.sampling.chains import Schedule, chain_batches, record_chain
from tdabench.attributors.sampling.restriction import require_patterns, restrict_model
from tdabench.attributors.sampling.walker import Sampler, Step, Walker, make_walker, walk


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledBIF(abc.ABC):
    """Covariance or correlation of losses over draws around a checkpoint; a subclass says what draws.

    Attributes:
        chains: Independent chains; covariances are centred in each.
        draws: Draws a chain.
        batch_size: Minibatch of a gradient, from the reference set.
        microbatch: Most of its examples in memory at once, whose gradients are summed; null: all of them.
        estimate: ``covariance``, or ``correlation`` (the normalised BIF, in [-1, 1]).
        loss_batch_size: Examples a forward pass at a draw, which changes speed and memory only; null: 500 images, or
            as many rows as have 4,096 tokens.
        memory_gib: Most memory of the estimate in GiB, beside the losses; None for no limit. Scores that don't fit are
            made in blocks, and lie on disk.
        restrict: Which parameters move, by patterns of names (see ``restriction.restrict_model``); null: all.
        token_estimate: ``traces``, the only way there is: every token's loss is kept at every draw.
    """

    draws: int
    chains: int
    batch_size: int = 128
    microbatch: int | None = None
    estimate: str = "covariance"
    loss_batch_size: int | None = None
    memory_gib: float | None = None
    restrict: tuple[str, ...] | None = None
    token_estimate: str = "traces"

    @abc.abstractmethod
    def _sampler(self) -> Sampler:
        """Make the sampler of these settings."""

    @abc.abstractmethod
    def _remedy(self) -> str:
        """Say what to do against divergence."""

    def _schedule(self) -> Schedule:
        """Say when a chain draws."""
        return Schedule(draws=self.draws)

    def _scores_tokens(self) -> bool:
        """Say whether scores of sequences are summed over scores of their tokens."""
        return False

    def _require_shared(self, **lowest: int) -> None:
        """Check the shared settings, and those that have a lowest value."""
        lowest = {"chains": 1, "batch_size": 1, "microbatch": 1, "loss_batch_size": 1, **lowest}
        for name, low in lowest.items():
            if getattr(self, name) not in (AUTO, None) and getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        require_estimate(self.estimate)
        require_memory(self.memory_gib)
        require_token_estimate(self.token_estimate)
        require_patterns(self.restrict)

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Sample the chains, keep their traces, and return the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged, or a pattern of ``restrict`` matches nothing.
        """
        method = settle(self, problem, generator=generator)
        chains = (method.sample_chain(problem, chain, generator=generator) for chain in range(method.chains))
        return method.score_chains(chains, problem)

    def self_influence(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, " train"]:
        """Return the variance of the training losses over the draws of the scores, or 1 for a correlation.

        Raises:
            Unsupported: For correlations that are summed over pairs of tokens.
        """
        if self._scores_tokens() and self.estimate == "correlation":
            raise Unsupported("with level: token a correlation is divided token by token already (normalize: self)")
        return estimate_self(self, problem)

    def attribute_tokens(
        self, problem: Problem, *, generator: torch.Generator
    ) -> Float[Tensor, "query qpos train tpos"]:
        """Score every training token for every query token, from the chains that ``attribute`` samples too.

        Raises:
            Unsupported: If the problem has no tokens.
            ValueError: If memory or disk are too small for the scores, or every chain diverged.
        """
        return sample_and_score_tokens(settle(self, problem, generator=generator), problem, generator=generator)

    def sample_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample one chain, from 0; see ``record_chain``."""
        return self._record(problem, chain, generator, tokens=self._scores_tokens())

    def sample_token_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample one chain and keep its tokens too; see ``tdabench.attributors.estimates.tokens``.

        It is the chain that ``sample_chain`` samples, and one forward pass a draw gives tokens and sequences.
        """
        return self._record(problem, chain, generator, tokens=True)

    def score_chains(self, chains: Iterable[dict[str, Tensor]], problem: Problem) -> Float[Tensor, "query train"]:
        """Keep the chains' traces, and return the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged.
        """
        score = score_sequences if self._scores_tokens() else estimate_scores
        return score(self, chains, problem, remedy=self._remedy(), markov=self._sampler().markov)

    def score_token_chains(
        self, chains: Iterable[dict[str, Tensor]], problem: Problem
    ) -> Float[Tensor, "query qpos train tpos"]:
        """Return the covariance or correlation of the tokens' losses, from chains of ``sample_token_chain``.

        Raises:
            ValueError: If every chain diverged.
        """
        return score_tokens(self, chains, problem, remedy=self._remedy(), markov=self._sampler().markov)

    def count_tracked(self, problem: Problem) -> int:
        """Count the parameters that move."""
        parameters = restrict_model(problem.models[0], self.restrict).parameters()
        return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)

    def batch_sizes(self, problem: Problem) -> dict[str, int] | None:
        """Return the most examples at once, of a minibatch and of a pass; None where the losses of tokens are kept."""
        return None if self._scores_tokens() else chain_batches(self, problem)

    def _record(self, problem: Problem, chain: int, generator: torch.Generator, *, tokens: bool) -> dict[str, Tensor]:
        method = settle(self, problem, generator=generator)
        recorder = make_recorder(method, problem) if tokens else None
        schedule = method._schedule()
        recorded = record_chain(
            problem,
            method._walk(problem, schedule.steps, chain_generator(problem, chain, generator)),
            schedule,
            loss_batch_size=method.loss_batch_size,
            description=f"BIF chain {chain + 1}/{method.chains}",
            measure=recorder and recorder.measure,
        )
        return {**recorded, **(recorder.tensors() if recorder else {})}

    def _walk(self, problem: Problem, steps: int, generator: torch.Generator) -> Iterator[Step]:
        yield from walk(self._sampler(), self._make_walker(problem, generator), steps)

    def _make_walker(self, problem: Problem, generator: torch.Generator) -> Walker:
        model = restrict_model(problem.models[0], self.restrict)
        return make_walker(model, problem, batch_size=self.batch_size, microbatch=self.microbatch, generator=generator)
