"""What step sizes a sampler can have at a point: curvature, and what minibatches add to it."""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Problem, num_examples, take
from tdabench.attributors.calibration.curvature import Landscape, MinibatchNoise, Spectrum, find_spectrum

# Reference examples whose mean loss is differentiated twice.
CURVED = 512
# Of the top eigenvector's residual, relative to the eigenvalue; and a bound, for spectra too flat to get there.
TOLERANCE, MOST_PRODUCTS = 0.02, 40
# Share of the stability limit: the stiffest direction forgets three quarters of itself each step, and its variance is
# 1 / (1 - 0.375) = 1.6 times the posterior's. From 0.5 on it swings to the other side.
SHARE = 0.375
# Most that minibatches may widen the stiffest direction's variance: half of what the injected noise gives it.
MOST_INFLATION = 1.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stability:
    r"""What a step size meets, with :math:`A = n\beta H + \gamma I`, in the metric of the sampler's preconditioner.

    Attributes:
        spectrum: Of A.
        hessian: The ends of the mean loss's own, smallest first; None with a preconditioner.
        noise: Of minibatches, along A's top eigenvector.
        heat: :math:`(n\beta)^2 \sigma^2 / 4`, with the noise along that direction or in the mean, whichever is larger.
        limit: 4 / largest eigenvalue: beyond it the chain diverges, on a quadratic loss.
        minibatch_limit: At most as large: beyond it the mean square along the stiffest direction grows, since each
            minibatch has a curvature of its own.
        examples: Reference examples that it is measured on.
    """

    spectrum: Spectrum
    hessian: tuple[float, float] | None
    noise: MinibatchNoise
    heat: float
    limit: float
    minibatch_limit: float
    examples: int

    @property
    def proposal(self) -> float:
        """Return the step size that is right here, by stability and by the heat of minibatches' gradients."""
        stable = SHARE * self.minibatch_limit
        return stable if self.heat * stable <= MOST_INFLATION - 1 else (MOST_INFLATION - 1) / self.heat

    def describe(self, step_size: float, inverse_temperature: float) -> dict[str, Any]:
        r"""Describe it, and what a step size meets here.

        ``loss_share`` is the loss's part in the largest eigenvalue: where it is small, localization decides nearly
        alone where a chain goes, and covariances of losses come close to gradient dot products. ``variance_factor`` is
        :math:`1 / (1 - \epsilon \lambda / 4)`, by which the step size widens the stiffest direction's variance, None
        beyond the limit; ``inflation`` is :math:`1 + \epsilon (n\beta)^2 \sigma^2 / 4`, by which minibatches do.
        """
        share, factor = step_size / self.limit, step_size * inverse_temperature**2 / 4
        return {
            **dataclasses.asdict(self.spectrum),
            "hessian_smallest": self.hessian and self.hessian[0],
            "hessian_largest": self.hessian and self.hessian[1],
            "loss_share": self.hessian and inverse_temperature * self.hessian[1] / self.spectrum.largest,
            "examples": self.examples,
            "limit": self.limit,
            "minibatch_limit": self.minibatch_limit,
            "share_of_limit": share,
            "variance_factor": 1 / (1 - share) if share < 1 else None,
            "gradient_variance_along_stiffest": self.noise.along,
            "gradient_variance_mean": self.noise.mean,
            "inflation_along_stiffest": 1 + factor * self.noise.along,
            "inflation_mean": 1 + factor * self.noise.mean,
        }


def measure_stability(
    settings: Any,
    problem: Problem,
    model: nn.Module,
    *,
    generator: torch.Generator,
    metric: Float[Tensor, " parameter"] | None = None,
) -> Stability:
    """Measure the curvature that bounds the step size, and the noise of minibatches, at a model's parameters.

    Args:
        settings: The sampler's ``inverse_temperature``, ``localization``, ``batch_size`` and ``microbatch``.
        generator: Chooses the reference examples, and Lanczos' first direction; on their device.

    Raises:
        ValueError: If a loss or its derivatives are not finite, or nothing holds a chain.
    """
    population = num_examples(problem.reference)
    chosen = torch.randperm(population, generator=generator, device=generator.device)[:CURVED]
    at_once = settings.microbatch or settings.batch_size
    landscape = Landscape(model, problem.loss, take(problem.reference, chosen), batch_size=at_once, metric=metric)
    start = landscape.random_direction(generator)
    inverse_temperature, localization = settings.inverse_temperature, settings.localization
    spectrum, top, hessian = _find_spectrum(landscape, start, inverse_temperature, localization, metric)
    _require_curvature(landscape, spectrum, inverse_temperature, localization)
    noise = landscape.minibatch_noise(top, batch_size=settings.batch_size, population=population)
    stiffest = spectrum.largest + inverse_temperature**2 * noise.curvature / spectrum.largest
    return Stability(
        spectrum=spectrum,
        hessian=hessian,
        noise=noise,
        heat=inverse_temperature**2 * max(noise.along, noise.mean) / 4,
        limit=4 / spectrum.largest,
        minibatch_limit=4 / stiffest,
        examples=len(chosen),
    )


def _find_spectrum(
    landscape: Landscape,
    start: Float[Tensor, " parameter"],
    inverse_temperature: float,
    localization: float,
    metric: Float[Tensor, " parameter"] | None,
) -> tuple[Spectrum, Float[Tensor, " parameter"], tuple[float, float] | None]:
    """Return the potential's spectrum, its top eigenvector and, without a metric, the ends of the mean loss's own."""
    bounds = {"tolerance": TOLERANCE, "most_products": MOST_PRODUCTS}
    if metric is None:  # of the loss alone: localization only shifts it, and would hide how well it is known
        of_loss, top = find_spectrum(landscape.hessian_product, start, **bounds)
        return of_loss.scale(inverse_temperature, shift=localization), top, (of_loss.smallest, of_loss.largest)

    def product(direction: Float[Tensor, " parameter"]) -> Float[Tensor, " parameter"]:
        return inverse_temperature * landscape.hessian_product(direction) + localization * metric * direction

    return *find_spectrum(product, start, **bounds), None


def _require_curvature(
    landscape: Landscape, spectrum: Spectrum, inverse_temperature: float, localization: float
) -> None:
    if spectrum.largest <= 0:
        raise ValueError(
            f"Nothing holds a chain: the largest eigenvalue of {inverse_temperature:g} x Hessian + {localization:g} is "
            f"{spectrum.largest:.3g}. Raise localization."
        )
    if spectrum.largest == localization and not landscape.gradient().any():
        raise ValueError(
            "The loss has neither gradient nor curvature at the checkpoint: no loss would ever move. Look whether its "
            "parameters that require a gradient have an effect, and whether the network is dead or saturated."
        )
