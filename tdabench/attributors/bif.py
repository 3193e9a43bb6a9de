"""The local Bayesian influence function: covariance of per-sample losses over SGLD draws."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch

from tdabench.attributors.base import Problem, device_of
from tdabench.attributors.calibration.auto import AUTO
from tdabench.attributors.calibration.search import calibrate_chain
from tdabench.attributors.sampling.chains import Schedule
from tdabench.attributors.sampling.method import SampledBIF
from tdabench.attributors.sampling.restriction import restrict_model
from tdabench.attributors.sampling.samplers import make_sampler
from tdabench.attributors.sampling.walker import MarkovSampler, Step
from tdabench.seeds import fork_generator, make_generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIF(SampledBIF):
    r"""Local Bayesian influence function (Kreer et al., 2025).

    .. math:: \mathrm{score}(j, i) = \mathrm{Cov}_\gamma(\ell_j(w), \ell_i(w)) = -\mathrm{BIF}(i, j)

    over the local posterior :math:`p(w) \propto \exp(-n\beta L(w) - \tfrac{\gamma}{2} |w - w^*|^2)`, sampled by
    chains. The losses of every draw are kept in the workspace (``traces.safetensors``: what ``record_chain`` gives,
    with a first axis for the chain).

    Step size, steps between draws and burn-in may say ``auto``: see ``tdabench.attributors.calibration.search``.

    Its settings are these and those of ``SampledBIF``; a chain has at least 2 draws.

    Attributes:
        step_size: :math:`\epsilon` of SGLD; the other samplers' has the same meaning and the same limit.
        inverse_temperature: :math:`n\beta`.
        localization: :math:`\gamma`.
        burn_in: Steps of each chain before its first draw.
        steps_between_draws: Steps a draw: draws one step apart are almost copies.
        sampler: ``sgld``, ``rmsprop_sgld`` or ``baoab``: see the classes in ``sampling``. What follows are settings of
            one or two of them, refused by the others; null is the sampler's default.
        friction: ``baoab``.
        preconditioner: ``rmsprop_sgld`` (``frozen`` or ``adaptive``), ``baoab`` (``frozen``).
        preconditioner_steps: Gradients that a preconditioner is measured from.
        stability: Of a preconditioner.
        decay: Of the ``adaptive`` preconditioner.
        level: What scores of sequences are made of: the losses of whole sequences (``sequence``, the paper's
            implementation A), or those of tokens, whose estimates are summed over all pairs (``token``, B). As
            covariance both are the same, and B is dearer by the square of a sequence's length; as correlation B
            weighs all pairs of tokens alike.
    """

    step_size: float | Literal["auto"]
    inverse_temperature: float
    localization: float
    burn_in: int | Literal["auto"] = 0
    steps_between_draws: int | Literal["auto"] = 1
    sampler: str = "sgld"
    friction: float | None = None
    preconditioner: str | None = None
    preconditioner_steps: int | None = None
    stability: float | None = None
    decay: float | None = None
    level: str = "sequence"

    def __post_init__(self) -> None:
        self._require_shared(draws=2, burn_in=0, steps_between_draws=1)
        if self.step_size != AUTO and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}.")
        for name in ("inverse_temperature", "localization"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")
        if self.level not in ("sequence", "token"):
            raise ValueError(f"level must be sequence or token, got {self.level!r}.")
        self._sampler()

    def calibrate(self, problem: Problem, *, generator: torch.Generator) -> dict[str, Any]:
        """Propose step size, steps between draws and burn-in; see ``tdabench.attributors.calibration.search``."""
        stream = make_generator(generator.initial_seed(), "calibrate", device=generator.device)
        walker = self._make_walker(problem, fork_generator(stream, device_of(problem.train)))
        model = restrict_model(problem.models[0], self.restrict)

        def walk(step_size: float, steps: int, generator: torch.Generator) -> Iterator[Step]:
            return dataclasses.replace(self, step_size=step_size)._walk(problem, steps, generator)

        metric = self._sampler().metric(walker)
        return calibrate_chain(self, problem, model, walk, generator=stream, metric=metric)

    def _sampler(self) -> MarkovSampler:
        return make_sampler(self)

    def _remedy(self) -> str:
        return f"lower step_size ({self.step_size})"

    def _schedule(self) -> Schedule:
        return Schedule(draws=self.draws, burn_in=self.burn_in, steps_between_draws=self.steps_between_draws)

    def _scores_tokens(self) -> bool:
        return self.level == "token"
