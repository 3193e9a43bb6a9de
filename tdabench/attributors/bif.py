"""The local Bayesian influence function: covariance of per-sample losses over SGLD draws."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Problem
from tdabench.attributors.chains import chain_generator, record_chain
from tdabench.attributors.sgld import sample_chain
from tdabench.attributors.traces import estimate_scores, require_estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIF:
    r"""Local Bayesian influence function (Kreer et al., 2025).

    .. math:: \mathrm{score}(j, i) = \mathrm{Cov}_\gamma(\ell_j(w), \ell_i(w)) = -\mathrm{BIF}(i, j)

    over the local posterior :math:`p(w) \propto \exp(-n\beta L(w) - \tfrac{\gamma}{2} |w - w^*|^2)`, sampled by SGLD.
    The losses of every draw are kept in the workspace (``traces.safetensors``: what ``record_chain`` gives, with a
    first axis for the chain).

    Attributes:
        step_size: :math:`\epsilon` of SGLD.
        inverse_temperature: :math:`n\beta`.
        localization: :math:`\gamma`.
        chains: Independent chains; covariances are centred in each.
        draws: Draws a chain, at least 2.
        burn_in: Steps of each chain before its first draw.
        steps_between_draws: SGLD steps a draw: draws one step apart are almost copies.
        batch_size: Minibatch of a step, from the reference set.
        estimate: ``covariance``, or ``correlation`` (the normalised BIF, in [-1, 1]).
        loss_batch_size: Examples a forward pass at a draw; changes speed and memory only.
    """

    step_size: float
    inverse_temperature: float
    localization: float
    chains: int
    draws: int
    burn_in: int = 0
    steps_between_draws: int = 1
    batch_size: int = 128
    estimate: str = "covariance"
    loss_batch_size: int = 500

    def __post_init__(self) -> None:
        lowest = {
            "chains": 1,
            "draws": 2,
            "burn_in": 0,
            "steps_between_draws": 1,
            "batch_size": 1,
            "loss_batch_size": 1,
        }
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}.")
        for name in ("inverse_temperature", "localization"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")
        require_estimate(self.estimate)

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Sample the chains, keep their traces, and give the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged.
        """
        chains = [self.sample_chain(problem, chain, generator=generator) for chain in range(self.chains)]
        return self.score_chains(chains, problem)

    def sample_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Sample one chain, from 0; see ``tdabench.attributors.chains.record_chain``."""
        steps = sample_chain(
            problem.models[0],
            problem.loss,
            problem.reference,
            steps=self.burn_in + self.draws * self.steps_between_draws,
            step_size=self.step_size,
            inverse_temperature=self.inverse_temperature,
            localization=self.localization,
            batch_size=self.batch_size,
            generator=chain_generator(problem, chain, generator),
        )
        return record_chain(
            problem,
            steps,
            draws=self.draws,
            burn_in=self.burn_in,
            steps_between_draws=self.steps_between_draws,
            loss_batch_size=self.loss_batch_size,
            description=f"BIF chain {chain + 1}/{self.chains}",
        )

    def score_chains(self, chains: Sequence[dict[str, Tensor]], problem: Problem) -> Float[Tensor, "query train"]:
        """Keep the chains' traces, and give the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged.
        """
        return estimate_scores(self, chains, problem, remedy=f"lower step_size ({self.step_size})")
