"""The local Bayesian influence function over draws from a Laplace approximation of the local posterior."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Problem, Unsupported
from tdabench.attributors.estimates.blocks import require_memory
from tdabench.attributors.estimates.estimators import require_estimate
from tdabench.attributors.estimates.tokens import (
    make_recorder,
    require_token_estimate,
    sample_and_score_tokens,
    score_tokens,
)
from tdabench.attributors.estimates.traces import estimate_scores
from tdabench.attributors.sampling.chains import Measure, chain_batches, chain_generator, record_chain
from tdabench.attributors.sampling.laplace import measure_curvature, posterior_variances, sample_laplace
from tdabench.attributors.sampling.restriction import require_patterns, restrict_model
from tdabench.attributors.sampling.sgld import Step
from tdabench.cost import phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaplaceBIF:
    r"""BIF whose draws come from a Gaussian local posterior instead of a Markov chain.

    .. math:: \mathrm{score}(j, i) = \mathrm{Cov}(\ell_j(w), \ell_i(w)), \qquad
        w \sim N\big(w^*, (n\beta F + \gamma D)^{-1}\big) \text{ in } \mathrm{span}\{D^{-1} v_1, \dots, D^{-1} v_T\}

    with :math:`F` the Fisher, :math:`D` its damped diagonal (the metric of the localization: parameters to which the
    losses are sensitive are held more tightly) and :math:`v_t` randomly signed minibatch gradients. The posterior is
    restricted to their span, as the paper restricts it to some layers: outside of it the losses hardly move, so that
    draws there cost forward passes and return noise. The draws' sample covariance is exactly the posterior's
    (orthogonal Monte Carlo), so that none of it is lost to chance either.

    A chain costs ``draws`` gradients of ``batch_size`` examples (phase ``fit``; twice as many with the curvature of
    tokens) and ``draws`` forward passes over the training and query examples. It holds ``draws`` vectors of the size of
    the model in memory, twice as many while it measures the curvature, in the model's precision (at least float32).

    Attributes:
        draws: Draws a chain, at least 3; also the number of its gradients.
        chains: Independent chains, each in a space of its own: one chain of more draws is better where memory allows.
        batch_size: Examples of a gradient, from the reference set.
        microbatch: Most of them in memory at once, whose gradients are summed; null: all of them.
        localization: :math:`\gamma / n\beta`, relative to the mean eigenvalue of :math:`D^{-1/2} F D^{-1/2}` over as
            many directions as there are reference examples.
        metric_damping: Added to the diagonal of the Fisher, relative to its mean over each parameter tensor.
        amplitude: Root mean square by which a draw moves a reference loss, in nats, to first order; sets
            :math:`n\beta`.
        estimate: ``covariance``, or ``correlation`` (in [-1, 1]).
        loss_batch_size: Examples a forward pass at a draw, which changes speed and memory only; null: 500 images, or
            as many rows as have 4,096 tokens.
        memory_gib: Most memory of the estimate in GiB, beside the losses; None for no limit. Scores that don't fit are
            made in blocks, and lie on disk.
        restrict: Which parameters move, by patterns of names (see ``restriction.restrict_model``); null: all.
        curvature: Whose Fisher the posterior has: that of whole examples (``example``) or, of a language model, that of
            tokens (``token``), which takes twice the gradients. ``localization`` is then relative to the mean
            eigenvalue in the draws' space, and ``amplitude`` what a row would move by if its tokens moved
            independently.
        token_estimate: Of tokens: ``traces`` or ``online``; the same numbers from another memory, see
            ``tdabench.attributors.estimates.tokens``.
    """

    draws: int
    chains: int = 1
    batch_size: int = 128
    microbatch: int | None = None
    localization: float = 10.0
    metric_damping: float = 0.1
    amplitude: float = 0.03
    estimate: str = "covariance"
    loss_batch_size: int | None = None
    memory_gib: float | None = None
    restrict: tuple[str, ...] | None = None
    curvature: str = "example"
    token_estimate: str = "traces"

    def __post_init__(self) -> None:
        for name, low in {"draws": 3, "chains": 1, "batch_size": 1, "microbatch": 1, "loss_batch_size": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        for name in ("localization", "metric_damping", "amplitude"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}.")
        if self.curvature not in ("example", "token"):
            raise ValueError(f"curvature must be example or token, got {self.curvature!r}.")
        require_estimate(self.estimate)
        require_token_estimate(self.token_estimate)
        require_memory(self.memory_gib)
        require_patterns(self.restrict)

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Measure the curvature, draw, keep the traces, and return the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged, no gradient differs from zero, or a pattern matches nothing.
        """
        chains = [self.sample_chain(problem, chain, generator=generator) for chain in range(self.chains)]
        return self.score_chains(chains, problem)

    def sample_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Measure the curvature and draw, for one chain, from 0; see ``record_chain``.

        Raises:
            ValueError: If no gradient differs from zero, or one is not finite.
        """
        return self._record(problem, chain, generator)

    def attribute_tokens(
        self, problem: Problem, *, generator: torch.Generator
    ) -> Float[Tensor, "query qpos train tpos"]:
        """Score every training token for every query token, by the draws that ``attribute`` makes too.

        Raises:
            Unsupported: If the problem has no tokens.
            ValueError: As ``attribute``; or if memory or disk are too small for the scores.
        """
        return sample_and_score_tokens(self, problem, generator=generator)

    def sample_token_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Do what ``sample_chain`` does, and keep the tokens too; see ``tdabench.attributors.estimates.tokens``."""
        recorder = make_recorder(self, problem)
        recorded = self._record(problem, chain, generator, measure=recorder.measure)
        return {**recorded, **recorder.tensors()}

    def score_token_chains(
        self, chains: Iterable[dict[str, Tensor]], problem: Problem
    ) -> Float[Tensor, "query qpos train tpos"]:
        """Return the covariance or correlation of the tokens' losses, from chains of ``sample_token_chain``.

        Raises:
            ValueError: If every chain diverged.
        """
        return score_tokens(self, chains, problem, remedy=self._remedy, markov=False)

    def score_chains(self, chains: Sequence[dict[str, Tensor]], problem: Problem) -> Float[Tensor, "query train"]:
        """Keep the chains' traces, and return the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged.
        """
        return estimate_scores(self, chains, problem, remedy=self._remedy, markov=False)

    def batch_sizes(self, problem: Problem) -> dict[str, int]:
        """Return the most examples at once, of a minibatch and of a pass that measures losses."""
        return chain_batches(self, problem)

    @property
    def _remedy(self) -> str:
        return f"lower amplitude ({self.amplitude})"

    def _record(
        self, problem: Problem, chain: int, generator: torch.Generator, *, measure: Measure | None = None
    ) -> dict[str, Tensor]:
        return record_chain(
            problem,
            self._draw(problem, chain_generator(problem, chain, generator)),
            draws=self.draws,
            loss_batch_size=self.loss_batch_size,
            description=f"BIF chain {chain + 1}/{self.chains}",
            measure=measure,
        )

    def _draw(self, problem: Problem, generator: torch.Generator) -> Iterator[Step]:
        if self.curvature == "token" and problem.token_loss is None:
            raise Unsupported("curvature: token needs a language model: this problem has no token_loss")
        model = restrict_model(problem.models[0], self.restrict)
        with phase("fit"):
            curvature = measure_curvature(
                model,
                problem.loss,
                problem.reference,
                directions=self.draws - 1,
                batch_size=self.batch_size,
                microbatch=self.microbatch,
                metric_damping=self.metric_damping,
                generator=generator,
                token_loss=problem.token_loss if self.curvature == "token" else None,
            )
            variances = posterior_variances(curvature, localization=self.localization, amplitude=self.amplitude)
        yield from sample_laplace(model, curvature, variances, draws=self.draws, generator=generator)
