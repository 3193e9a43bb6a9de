r"""Settings of a chain, found from the curvature, the minibatches' noise and a pilot chain.

No query is looked at: curvature and noise are of the reference set, and the pilot follows training examples. Of the
queries only their number counts, as part of the price of a draw.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Problem, device_of, num_examples
from tdabench.attributors.calibration.auto import AUTO
from tdabench.attributors.calibration.curvature import PRODUCT_PASSES
from tdabench.attributors.calibration.pilot import (
    LENGTHS,
    LONG_ENOUGH,
    Pilot,
    Spacing,
    run_pilot,
    weigh_spacings,
)
from tdabench.attributors.calibration.stability import Stability, measure_stability
from tdabench.attributors.running.passes import GRADIENT as GRADIENT_PASSES
from tdabench.attributors.sampling.walker import Step
from tdabench.seeds import fork_generator

# (step size, steps, stream) -> the chain's steps, lazily; all else is the method's.
Walk = Callable[[float, int, torch.Generator], Iterator[Step]]

# Pilots at most, each with a smaller step size than the one before.
MOST_PILOTS = 8
# A step size stays where the pilot's end allows this share of it.
ENOUGH = 0.8
# Burn-in is rounded up to a multiple of this.
ROUND_TO = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """How a step size was found.

    Attributes:
        step_size: The one that stayed.
        pilot: The chain at it.
        checkpoint: Curvature and noise at the checkpoint.
        sampled: The same where the pilot ended.
        refused: Larger ones that were tried before: there the chain diverged, or went where the curvature forbids it.
        passes: Forward passes that the search took.
    """

    step_size: float
    pilot: Pilot
    checkpoint: Stability
    sampled: Stability
    refused: tuple[float, ...]
    passes: int

    @property
    def stiffer(self) -> Stability:
        """Return the one of the two with the larger curvature."""
        return max(self.checkpoint, self.sampled, key=lambda stability: stability.spectrum.largest)


def calibrate_chain(
    settings: Any,
    problem: Problem,
    model: nn.Module,
    walk: Walk,
    *,
    generator: torch.Generator,
    metric: Float[Tensor, " parameter"] | None = None,
) -> dict[str, Any]:
    r"""Propose step size, steps between draws and burn-in of a chain, and say what they rest on.

    The step size is 0.375 of the stability limit, or less where minibatches would widen the stiffest direction's
    variance by more than half: their gradients' noise is heat that no posterior asked for. It holds both at the
    checkpoint and where a pilot chain goes, which may be stiffer. The steps between draws have the most effective
    draws a forward pass, counted, not timed: the same seed gives the same settings on every machine. The burn-in is
    the steps that the pilot takes to settle.

    Args:
        settings: A BIF, whose step size may say ``auto``: else it is kept, and the rest is found for it.
        model: With the parameters that move requiring a gradient.
        walk: Makes the pilot chain.
        generator: The stream of the calibration alone.
        metric: A diagonal preconditioner P: the step is :math:`\epsilon P`.

    Returns:
        ``proposed``: settings by name; ``curvature``, ``noise``, ``pilot``, ``spacings``: what they rest on;
        ``warnings``; ``passes``: forward passes that it took; ``seconds``: wall-clock times, of interest only.

    Raises:
        ValueError: If the checkpoint's loss or its derivatives are not finite, nothing holds a chain, or it diverges.
    """
    batch = min(settings.batch_size, num_examples(problem.reference))
    search = _search(settings, problem, model, walk, generator, metric, step_passes=GRADIENT_PASSES * batch)
    spacings = weigh_spacings(
        search.pilot.correlations,
        step_passes=GRADIENT_PASSES * batch,
        draw_passes=num_examples(problem.train) + num_examples(problem.query),
        most=search.pilot.steps // 4,
    )
    return _report(search, spacings, inverse_temperature=settings.inverse_temperature, batch_size=batch)


def _search(
    settings: Any,
    problem: Problem,
    model: nn.Module,
    walk: Walk,
    generator: torch.Generator,
    metric: Float[Tensor, " parameter"] | None,
    *,
    step_passes: int,
) -> Search:
    device = device_of(problem.train)
    examples = fork_generator(generator).initial_seed()  # the same ones wherever the curvature is measured

    def measure(at: nn.Module) -> Stability:
        chosen = torch.Generator(device).manual_seed(examples)
        return measure_stability(settings, problem, at, generator=chosen, metric=metric)

    def pilot(step_size: float) -> Pilot | None:
        steps = walk(step_size, LENGTHS[-1], fork_generator(generator, device))
        return run_pilot(problem, steps, loss_batch_size=settings.loss_batch_size, generator=fork_generator(generator))

    return search_step_size(model, measure, pilot, step_size=settings.step_size, step_passes=step_passes)


def search_step_size(
    model: nn.Module,
    measure: Callable[[nn.Module], Stability],
    pilot: Callable[[float], Pilot | None],
    *,
    step_size: float | str,
    step_passes: int,
) -> Search:
    """Find a step size at which a pilot stays where that step size is right; one that is given is kept.

    Args:
        measure: Gives curvature and noise at a model's parameters.
        pilot: Walks a chain at a step size; None if it diverged.
        step_passes: Forward passes that a step of it costs.

    Raises:
        ValueError: If the pilot diverges at the given step size, or at every one that was tried.
    """
    checkpoint = measure(model)
    passes, refused = _passes(checkpoint), []
    tried = round_down(checkpoint.proposal) if step_size == AUTO else float(step_size)
    while True:
        found = pilot(tried)
        sampled = None if found is None else measure(found.model)
        passes += LENGTHS[0] * step_passes if found is None else found.steps * (step_passes + found.examples)
        passes += 0 if sampled is None else _passes(sampled)
        proposal = tried / 2 if sampled is None else sampled.proposal
        last = step_size != AUTO or len(refused) + 1 == MOST_PILOTS
        if found is not None and (last or proposal >= ENOUGH * tried):
            return Search(
                step_size=tried, pilot=found, checkpoint=checkpoint, sampled=sampled, refused=tuple(refused),
                passes=passes,
            )  # fmt: skip
        if last:
            remedy = "raise localization" if step_size == AUTO else "lower it, or let it say auto"
            raise ValueError(f"The pilot chain diverged at step_size {tried:g}: {remedy}.")
        refused.append(tried)
        tried = round_down(proposal)


def round_down(value: float) -> float:
    """Round a positive number down to two digits: last bits, which differ between machines, change no setting."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / unit * (1 + 1e-6)) * unit:.2g}")


def _passes(stability: Stability) -> int:
    return (stability.spectrum.products + 1) * PRODUCT_PASSES * stability.examples


def _report(search: Search, spacings: list[Spacing], *, inverse_temperature: float, batch_size: int) -> dict[str, Any]:
    pilot, best = search.pilot, max(spacings, key=lambda spacing: spacing.worth)
    settled = pilot.steps if pilot.relaxation is None else pilot.relaxation
    gradients = best.steps * GRADIENT_PASSES * batch_size
    return {
        "proposed": {
            "step_size": search.step_size,
            "steps_between_draws": best.steps,
            "burn_in": ROUND_TO * math.ceil(settled / ROUND_TO),
        },
        "curvature": {
            "checkpoint": search.checkpoint.describe(search.step_size, inverse_temperature),
            "sampled": search.sampled.describe(search.step_size, inverse_temperature),
        },
        "batch_size": batch_size,
        "step_size_limit": search.stiffer.limit,
        "refused_step_sizes": list(search.refused),
        "pilot": pilot.describe(),
        "spacings": [entry.describe() for entry in spacings[: 2 * best.steps + 4]],
        "warnings": _warn(search),
        "passes": search.passes,
        "seconds": {
            "step": pilot.step_seconds,
            "forward_pass": pilot.pass_seconds,
            "effective_draws_a_second": best.effective
            / (best.steps * pilot.step_seconds + (best.passes - gradients) * pilot.pass_seconds),
        },
    }


def _warn(search: Search) -> list[str]:
    """Say in plain sentences what the proposal can't mend."""
    pilot, sentences = search.pilot, []
    for where, stability in (("At the checkpoint", search.checkpoint), ("Where the chain goes", search.sampled)):
        spectrum = stability.spectrum
        if spectrum.smallest < 0:
            sentences.append(
                f"{where} the potential curves down, by {-spectrum.smallest:.3g}: localization is too weak there to "
                "hold a chain by itself."
            )
        if not spectrum.converged:
            error = spectrum.residual / spectrum.largest
            sentences.append(f"{where} the largest eigenvalue is known to {error:.0%} only.")
    if search.sampled.proposal < ENOUGH * search.step_size:
        sentences.append(
            f"Where the chain goes, the step size should be at most {search.sampled.proposal:.2g}: raise localization."
        )
    if pilot.relaxation is None:
        sentences.append(
            f"The chain still drifts after {pilot.steps} steps: raise localization, or burn in for longer."
        )
    elif pilot.steps < LONG_ENOUGH * pilot.autocorrelation_time:
        sentences.append(
            f"The pilot's {pilot.steps} steps are few beside the autocorrelation time of "
            f"{pilot.autocorrelation_time:.0f} steps, which is known roughly."
        )
    return sentences
