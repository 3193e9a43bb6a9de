"""The samplers that BIF can use, and the settings that each of them has."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, LossFn
from tdabench.attributors.sampling import baoab, rmsprop_sgld, sgld
from tdabench.attributors.sampling.preconditioner import STABILITY, STEPS, measure_preconditioner
from tdabench.attributors.sampling.sgld import Step, make_walker

SAMPLERS = {"sgld": sgld.sample_chain, "rmsprop_sgld": rmsprop_sgld.sample_chain, "baoab": baoab.sample_chain}
PRECONDITIONERS = {"sgld": (), "rmsprop_sgld": ("frozen", "adaptive"), "baoab": ("frozen",)}
OPTIONS = {
    "sgld": (),
    "rmsprop_sgld": ("preconditioner", "preconditioner_steps", "stability", "decay"),
    "baoab": ("friction", "preconditioner", "preconditioner_steps", "stability"),
}


def sample_chain(
    model: nn.Module, loss: LossFn, reference: Examples, *, sampler: str, **settings: Any
) -> Iterator[Step]:
    """Take steps with the sampler of that name; the settings are those of its own ``sample_chain``."""
    return SAMPLERS[sampler](model, loss, reference, **settings)


def measure_metric(
    model: nn.Module,
    loss: LossFn,
    reference: Examples,
    *,
    batch_size: int,
    generator: torch.Generator,
    microbatch: int | None,
    settings: dict[str, Any],
) -> Float[Tensor, " parameter"] | None:
    """Measure the diagonal by which a sampler's steps are multiplied at the checkpoint; None if it has none.

    Args:
        settings: What ``sampler_settings`` gives.
    """
    if settings["sampler"] == "sgld" or (settings["sampler"] == "baoab" and "preconditioner" not in settings):
        return None
    walker = make_walker(model, loss, reference, batch_size=batch_size, generator=generator, microbatch=microbatch)
    steps, stability = settings.get("preconditioner_steps", STEPS), settings.get("stability", STABILITY)
    return measure_preconditioner(walker, steps=steps, stability=stability).strength()


def sampler_settings(settings: Any) -> dict[str, Any]:
    """Return the sampler and those of its own settings that are not null.

    Args:
        settings: The attributor, with ``sampler`` and an attribute for every option of every sampler.
    """
    given = {name: getattr(settings, name) for name in _all_options()}
    return {"sampler": settings.sampler} | {name: value for name, value in given.items() if value is not None}


def require_sampler(settings: Any) -> None:
    """Check the sampler and its own settings; null stands for the sampler's default.

    Args:
        settings: As for ``sampler_settings``; ``localization`` too.

    Raises:
        ValueError: If there is no such sampler, it does not use a setting that is given, or one is out of range.
    """
    sampler = settings.sampler
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}.")
    given = {name: value for name, value in sampler_settings(settings).items() if name != "sampler"}
    for name, value in given.items():
        if name not in OPTIONS[sampler]:
            users = [other for other, options in OPTIONS.items() if name in options]
            raise ValueError(f"{name} is a setting of sampler {' and '.join(users)}, not of {sampler}; got {value!r}.")
    for name in ("friction", "stability"):
        if name in given and not 0 < given[name] < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {given[name]}.")
    if given.get("preconditioner_steps", 1) < 1:
        raise ValueError(f"preconditioner_steps must be at least 1, got {given['preconditioner_steps']}.")
    if not 0 <= given.get("decay", 0) < 1:
        raise ValueError(f"decay must lie in [0, 1), got {given['decay']}.")
    _require_preconditioner(sampler, given)
    if sampler == "baoab" and settings.localization == 0 and "friction" not in given:
        raise ValueError("Without localization, sampler baoab needs friction: its default is the localization's.")


def _require_preconditioner(sampler: str, given: dict[str, Any]) -> None:
    choice = given.get("preconditioner")
    if choice is not None and choice not in PRECONDITIONERS[sampler]:
        choices = " or ".join(PRECONDITIONERS[sampler])
        raise ValueError(f"preconditioner of sampler {sampler} must be {choices}, got {choice!r}.")
    if "decay" in given and choice != "adaptive":
        raise ValueError(f"decay is for preconditioner: adaptive, which alone follows the chain; got {given['decay']}.")
    if sampler == "baoab" and choice is None and not given.keys().isdisjoint(("preconditioner_steps", "stability")):
        raise ValueError("preconditioner_steps and stability are for preconditioner: frozen, which is not given.")


def _all_options() -> list[str]:
    return list(dict.fromkeys(name for options in OPTIONS.values() for name in options))
