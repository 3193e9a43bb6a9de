"""A short chain that says how long a sampler takes to forget: autocorrelation, relaxation, the worth of a draw."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Problem, num_examples, take
from tdabench.attributors.sampling.chains import DIVERGED, measure_losses
from tdabench.attributors.sampling.walker import Step
from tdabench.runtime.progress import progress

# A pilot goes on, to the next of these lengths, until it has relaxed and is so many autocorrelation times long.
LENGTHS, LONG_ENOUGH = (100, 200, 400, 800), 30
# Training examples whose losses are followed.
FOLLOWED = 100
# Share of the whole change from which a chain counts as relaxed.
RELAXED = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pilot:
    """What a pilot chain was like.

    Attributes:
        steps: Its length.
        examples: Training examples whose losses were followed.
        relaxation: Steps until distance and mean loss had made 95 % of their change; None if they never settled.
        correlations: Autocorrelation of a loss by lag in steps, in the mean over examples, from 1 at lag 0; zero from
            where it can't be told from noise.
        mean_loss: Mean loss of those examples, at the checkpoint and after relaxation, in nats.
        distance: From the checkpoint after relaxation, root mean square.
        step_seconds: Wall-clock time of a step.
        pass_seconds: Wall-clock time of an example's forward pass.
        model: Where it ended.
    """

    steps: int
    examples: int
    relaxation: int | None
    correlations: Float[Tensor, " lag"]
    mean_loss: tuple[float, float]
    distance: float
    step_seconds: float
    pass_seconds: float
    model: nn.Module

    @property
    def autocorrelation_time(self) -> float:
        """Return the steps that are worth one independent draw for a mean loss."""
        return 1 + 2 * self.correlations[1:].sum().item()

    def describe(self) -> dict[str, Any]:
        """Describe it, without its times."""
        return {
            "steps": self.steps,
            "examples": self.examples,
            "relaxation": self.relaxation,
            "autocorrelation_time": self.autocorrelation_time,
            "mean_loss_checkpoint": self.mean_loss[0],
            "mean_loss": self.mean_loss[1],
            "distance": self.distance,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spacing:
    """What a draw every so many steps is worth.

    Attributes:
        steps: Steps between draws.
        effective: Effective draws a draw, for a covariance of losses, in (0, 1].
        passes: Forward passes of one example that a draw costs; a gradient counts as three.
    """

    steps: int
    effective: float
    passes: int

    @property
    def worth(self) -> float:
        """Return the effective draws a million forward passes."""
        return 1e6 * self.effective / self.passes

    def describe(self) -> dict[str, Any]:
        """Describe it."""
        return {**dataclasses.asdict(self), "worth": self.worth}


def run_pilot(
    problem: Problem, steps: Iterator[Step], *, loss_batch_size: int | None, generator: torch.Generator
) -> Pilot | None:
    """Walk a chain and follow some training examples' losses; no query is looked at. None if it diverged.

    Args:
        steps: Lazily, ``LENGTHS[-1]`` of them; fewer are taken if those suffice.
        generator: Chooses the examples.
    """
    count = num_examples(problem.train)
    chosen = torch.randperm(count, generator=generator)[:FOLLOWED]
    examples = take(problem.train, chosen.to(next(iter(problem.train.values())).device))
    losses = [measure_losses(problem.models[0], problem, examples, loss_batch_size).double().cpu()]
    distances, seconds = [0.0], [0.0, 0.0]
    walk = iter(progress(steps, "pilot", total=LENGTHS[-1]))
    while len(losses) <= LENGTHS[-1]:
        clock = [time.perf_counter()]
        step = next(walk)
        distances.append(step.distance())
        clock.append(time.perf_counter())
        losses.append(measure_losses(step.model, problem, examples, loss_batch_size).double().cpu())
        clock.append(time.perf_counter())
        if not (losses[-1].abs() < DIVERGED).all():  # NaN is not
            return None
        seconds = [spent + end - start for spent, start, end in zip(seconds, clock, clock[1:], strict=False)]
        if len(losses) - 1 in LENGTHS:
            pilot = _summarise(torch.stack(losses), torch.tensor(distances).double(), seconds, step.model)
            if pilot.relaxation is not None and pilot.steps >= LONG_ENOUGH * pilot.autocorrelation_time:
                break
    return pilot


def _summarise(
    losses: Float[Tensor, "position example"],
    distances: Float[Tensor, " position"],
    seconds: Sequence[float],
    model: nn.Module,
) -> Pilot:
    steps = len(losses) - 1
    times = [find_relaxation(series) for series in (distances.square(), losses.mean(dim=1))]
    relaxation = None if None in times else max(times)
    settled = slice(steps // 2 if relaxation is None else min(relaxation, steps // 2) + 1, None)
    return Pilot(
        steps=steps,
        examples=losses.shape[1],
        relaxation=relaxation,
        correlations=correlate(losses[settled]),
        mean_loss=(losses[0].mean().item(), losses[settled].mean().item()),
        distance=distances[settled].square().mean().sqrt().item(),
        step_seconds=seconds[0] / steps,
        pass_seconds=seconds[1] / steps / losses.shape[1],
        model=model,
    )


def find_relaxation(series: Float[Tensor, " position"]) -> int | None:
    """Return the steps after which a series from a chain's start has made 95 % of its change; None if it drifts on.

    Its level is the mean of the last half, whose own halves must agree: to 5 % of the whole change, or to three
    standard errors where the series fluctuates more.
    """
    half = series[-((len(series) - 1) // 4 * 2) :]
    level, change = half.mean(), half.mean() - series[0]
    parts = half.view(2, -1).T  # each with its own level, so that a drift is not taken for fluctuation
    independent = len(parts) / (1 + 2 * correlate(parts)[1:].sum())
    error = (2 * parts.var(dim=0).mean() / independent).sqrt()
    if (parts[:, 0].mean() - parts[:, 1].mean()).abs() > max(RELAXED * change.abs(), 3 * error):
        return None
    gap = (level - series) * change.sign()
    return int((gap <= RELAXED * change.abs()).nonzero()[0])


def correlate(values: Float[Tensor, "step example"]) -> Float[Tensor, " lag"]:
    """Return the autocorrelation by lag, in the mean over examples; those that never move are left out.

    Cut where pairs of lags first stop being positive, and made to fall from there on (Geyer, 1992): beyond is noise.
    All zero after lag 0 if nothing moves.
    """
    steps = len(values)
    moves = values.amax(dim=0) > values.amin(dim=0)
    if not moves.any():
        return torch.eye(1, steps).double()[0]
    centred = (values - values.mean(dim=0))[:, moves].double()
    # Twice as long, so that the end of a chain does not meet its beginning.
    spectrum = torch.fft.rfft(centred, n=2 * steps, dim=0).abs().square()
    products = torch.fft.irfft(spectrum, n=2 * steps, dim=0)[: steps - steps % 2]
    correlations = (products / products[0]).mean(dim=1)
    pairs = correlations.view(-1, 2).sum(dim=1)
    initial = (pairs > 0).cumprod(dim=0)
    highest = pairs.cummin(dim=0).values / pairs
    return (correlations * (initial * highest.nan_to_num(0)).repeat_interleave(2)).clamp(-1, 1)


def weigh_spacings(
    correlations: Float[Tensor, " lag"], *, step_passes: int, draw_passes: int, most: int
) -> list[Spacing]:
    r"""Say what a draw is worth at every number of steps between draws.

    A score is a mean of products of two centred losses. Where each has the autocorrelation :math:`\rho_t`, their
    product's is :math:`\rho_t^2`, so that T draws k steps apart count as
    :math:`T / (1 + 2 \sum_{j \ge 1} \rho_{jk}^2)`.

    Args:
        step_passes: Forward passes that a step costs.
        draw_passes: Forward passes that measuring the losses at a draw costs.
        most: Highest number of steps between draws.
    """
    squares = correlations.square()
    return [
        Spacing(
            steps=steps,
            effective=1 / (1 + 2 * squares[steps::steps].sum().item()),
            passes=steps * step_passes + draw_passes,
        )
        for steps in range(1, min(most, len(correlations) - 1) + 1)
    ]
