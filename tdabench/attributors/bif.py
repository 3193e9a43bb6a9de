"""The local Bayesian influence function: covariance of per-sample losses over SGLD draws."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Problem
from tdabench.attributors.calibration.auto import AUTO, settle
from tdabench.attributors.calibration.search import calibrate_chain
from tdabench.attributors.estimates.blocks import require_memory
from tdabench.attributors.estimates.estimators import require_estimate
from tdabench.attributors.estimates.tokens import (
    make_recorder,
    require_token_estimate,
    sample_and_score_tokens,
    score_sequences,
    score_tokens,
)
from tdabench.attributors.estimates.traces import estimate_scores
from tdabench.attributors.sampling.chains import chain_batches, chain_generator, record_chain
from tdabench.attributors.sampling.restriction import require_patterns, restrict_model
from tdabench.attributors.sampling.samplers import measure_metric, require_sampler, sample_chain, sampler_settings
from tdabench.attributors.sampling.sgld import Step
from tdabench.seeds import fork_generator, make_generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIF:
    r"""Local Bayesian influence function (Kreer et al., 2025).

    .. math:: \mathrm{score}(j, i) = \mathrm{Cov}_\gamma(\ell_j(w), \ell_i(w)) = -\mathrm{BIF}(i, j)

    over the local posterior :math:`p(w) \propto \exp(-n\beta L(w) - \tfrac{\gamma}{2} |w - w^*|^2)`, sampled by
    chains. The losses of every draw are kept in the workspace (``traces.safetensors``: what ``record_chain`` gives,
    with a first axis for the chain).

    Step size, steps between draws and burn-in may say ``auto``: see ``tdabench.attributors.calibration.search``.

    Attributes:
        step_size: :math:`\epsilon` of SGLD; the other samplers' has the same meaning and the same limit.
        inverse_temperature: :math:`n\beta`.
        localization: :math:`\gamma`.
        chains: Independent chains; covariances are centred in each.
        draws: Draws a chain, at least 2.
        burn_in: Steps of each chain before its first draw.
        steps_between_draws: Steps a draw: draws one step apart are almost copies.
        batch_size: Minibatch of a step, from the reference set.
        microbatch: Most examples of a minibatch in memory at once, whose gradients are summed; null: all of them.
        estimate: ``covariance``, or ``correlation`` (the normalised BIF, in [-1, 1]).
        loss_batch_size: Examples a forward pass at a draw, which changes speed and memory only; null: 500 images, or
            as many rows as have 4,096 tokens.
        memory_gib: Most memory of the estimate in GiB, beside the losses; None for no limit. Scores that don't fit are
            made in blocks, and lie on disk.
        sampler: ``sgld``, ``rmsprop_sgld`` or ``baoab``. What follows are settings of one or two of them, refused by
            the others; null is the default that ``sample_chain`` in the sampler's module gives and explains.
        friction: ``baoab``.
        preconditioner: ``rmsprop_sgld`` (``frozen`` or ``adaptive``), ``baoab`` (``frozen``).
        preconditioner_steps: Gradients that a preconditioner is measured from.
        stability: Of a preconditioner.
        decay: Of the ``adaptive`` preconditioner.
        restrict: Which parameters move, by patterns of names (see ``restriction.restrict_model``); null: all.
        level: What scores of sequences are made of: the losses of whole sequences (``sequence``, the paper's
            implementation A), or those of tokens, whose estimates are summed over all pairs (``token``, B). As
            covariance both are the same, and B is dearer by the square of a sequence's length; as correlation B
            weighs all pairs of tokens alike.
        token_estimate: Of tokens: ``traces`` or ``online``; the same numbers from another memory, see
            ``tdabench.attributors.estimates.tokens``.
    """

    step_size: float | Literal["auto"]
    inverse_temperature: float
    localization: float
    chains: int
    draws: int
    burn_in: int | Literal["auto"] = 0
    steps_between_draws: int | Literal["auto"] = 1
    batch_size: int = 128
    microbatch: int | None = None
    estimate: str = "covariance"
    loss_batch_size: int | None = None
    memory_gib: float | None = None
    sampler: str = "sgld"
    friction: float | None = None
    preconditioner: str | None = None
    preconditioner_steps: int | None = None
    stability: float | None = None
    decay: float | None = None
    restrict: tuple[str, ...] | None = None
    level: str = "sequence"
    token_estimate: str = "traces"

    def __post_init__(self) -> None:
        lowest = {
            "chains": 1,
            "draws": 2,
            "burn_in": 0,
            "steps_between_draws": 1,
            "batch_size": 1,
            "microbatch": 1,
            "loss_batch_size": 1,
        }
        for name, low in lowest.items():
            if getattr(self, name) not in (AUTO, None) and getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        if self.step_size != AUTO and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}.")
        for name in ("inverse_temperature", "localization"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")
        require_estimate(self.estimate)
        require_memory(self.memory_gib)
        require_token_estimate(self.token_estimate)
        if self.level not in ("sequence", "token"):
            raise ValueError(f"level must be sequence or token, got {self.level!r}.")
        require_sampler(self)
        require_patterns(self.restrict)

    def calibrate(self, problem: Problem, *, generator: torch.Generator) -> dict[str, Any]:
        """Propose step size, steps between draws and burn-in; see ``tdabench.attributors.calibration.search``."""
        stream = make_generator(generator.initial_seed(), "calibrate", device=generator.device)
        model = restrict_model(problem.models[0], self.restrict)
        metric = measure_metric(
            model,
            problem.loss,
            problem.reference,
            batch_size=self.batch_size,
            generator=fork_generator(stream, next(iter(problem.train.values())).device),
            microbatch=self.microbatch,
            settings=sampler_settings(self),
        )
        return calibrate_chain(
            problem,
            model,
            lambda step_size, steps, stream: dataclasses.replace(self, step_size=step_size)._walk(
                problem, steps, stream
            ),
            step_size=self.step_size,
            inverse_temperature=self.inverse_temperature,
            localization=self.localization,
            batch_size=self.batch_size,
            loss_batch_size=self.loss_batch_size,
            microbatch=self.microbatch,
            generator=stream,
            metric=metric,
        )

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Sample the chains, keep their traces, and return the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged, or a pattern of ``restrict`` matches nothing.
        """
        method = settle(self, problem, generator=generator)
        chains = (method.sample_chain(problem, chain, generator=generator) for chain in range(method.chains))
        return method.score_chains(chains, problem)

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
        return self._record(problem, chain, generator, tokens=self.level == "token")

    def sample_token_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample one chain and keep its tokens too; see ``tdabench.attributors.estimates.tokens``.

        It is the chain that ``sample_chain`` samples, and one forward pass a draw gives tokens and sequences.
        """
        return self._record(problem, chain, generator, tokens=True)

    def _record(self, problem: Problem, chain: int, generator: torch.Generator, *, tokens: bool) -> dict[str, Tensor]:
        method = settle(self, problem, generator=generator)
        recorder = make_recorder(method, problem) if tokens else None
        steps = method.burn_in + method.draws * method.steps_between_draws
        recorded = record_chain(
            problem,
            method._walk(problem, steps, chain_generator(problem, chain, generator)),
            draws=method.draws,
            burn_in=method.burn_in,
            steps_between_draws=method.steps_between_draws,
            loss_batch_size=method.loss_batch_size,
            description=f"BIF chain {chain + 1}/{method.chains}",
            measure=recorder and recorder.measure,
        )
        return {**recorded, **(recorder.tensors() if recorder else {})}

    def count_tracked(self, problem: Problem) -> int:
        """Count the parameters that move."""
        parameters = restrict_model(problem.models[0], self.restrict).parameters()
        return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)

    def batch_sizes(self, problem: Problem) -> dict[str, int] | None:
        """Return the most examples at once, of a minibatch and of a pass; None where the losses of tokens are kept."""
        return None if self.level == "token" else chain_batches(self, problem)

    def _walk(self, problem: Problem, steps: int, generator: torch.Generator) -> Iterator[Step]:
        return sample_chain(
            restrict_model(problem.models[0], self.restrict),
            problem.loss,
            problem.reference,
            steps=steps,
            step_size=self.step_size,
            inverse_temperature=self.inverse_temperature,
            localization=self.localization,
            batch_size=self.batch_size,
            generator=generator,
            microbatch=self.microbatch,
            **sampler_settings(self),
        )

    def score_chains(self, chains: Iterable[dict[str, Tensor]], problem: Problem) -> Float[Tensor, "query train"]:
        """Keep the chains' traces, and return the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged.
        """
        remedy = f"lower step_size ({self.step_size})"
        if self.level == "token":
            return score_sequences(self, chains, problem, remedy=remedy)
        return estimate_scores(self, list(chains), problem, remedy=remedy)

    def score_token_chains(
        self, chains: Iterable[dict[str, Tensor]], problem: Problem
    ) -> Float[Tensor, "query qpos train tpos"]:
        """Return the covariance or correlation of the tokens' losses, from chains of ``sample_token_chain``.

        Raises:
            ValueError: If every chain diverged.
        """
        return score_tokens(self, chains, problem, remedy=f"lower step_size ({self.step_size})")
