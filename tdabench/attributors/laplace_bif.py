"""The local Bayesian influence function over draws from a Laplace approximation of the local posterior."""

import dataclasses
import math

from tdabench.attributors.sampling.laplace import Laplace
from tdabench.attributors.sampling.method import SampledBIF


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaplaceBIF(SampledBIF):
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

    Its settings are these and those of ``SampledBIF``; a chain has at least 3 draws, and as many gradients.

    Attributes:
        chains: Independent chains, each in a space of its own: one chain of more draws is better where memory allows.
        localization: :math:`\gamma / n\beta`, relative to the mean eigenvalue of :math:`D^{-1/2} F D^{-1/2}` over as
            many directions as there are reference examples.
        metric_damping: Added to the diagonal of the Fisher, relative to its mean over each parameter tensor.
        amplitude: Root mean square by which a draw moves a reference loss, in nats, to first order; sets
            :math:`n\beta`.
        curvature: Whose Fisher the posterior has: that of whole examples (``example``) or, of a language model, that of
            tokens (``token``), which takes twice the gradients. ``localization`` is then relative to the mean
            eigenvalue in the draws' space, and ``amplitude`` what a row would move by if its tokens moved
            independently.
    """

    chains: int = 1
    localization: float = 10.0
    metric_damping: float = 0.1
    amplitude: float = 0.03
    curvature: str = "example"

    def __post_init__(self) -> None:
        self._require_shared(draws=3)
        for name in ("localization", "metric_damping", "amplitude"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}.")
        if self.curvature not in ("example", "token"):
            raise ValueError(f"curvature must be example or token, got {self.curvature!r}.")

    def _sampler(self) -> Laplace:
        return Laplace(
            draws=self.draws,
            localization=self.localization,
            metric_damping=self.metric_damping,
            amplitude=self.amplitude,
            curvature=self.curvature,
        )

    def _remedy(self) -> str:
        return f"lower amplitude ({self.amplitude})"
