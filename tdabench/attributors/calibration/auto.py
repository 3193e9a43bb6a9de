"""Settings that say ``auto``: what a method may leave to its calibration, and how it gets what was found."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

import torch

from tdabench.attributors.base import Calibrated, Problem
from tdabench.cost import phase

AUTO = "auto"


def auto_settings(attributor: Any) -> tuple[str, ...]:
    """Name the settings of a method that its calibration has still to find."""
    if not isinstance(attributor, Calibrated) or not dataclasses.is_dataclass(attributor):
        return ()
    return tuple(field.name for field in dataclasses.fields(attributor) if getattr(attributor, field.name) == AUTO)


def leave_to_calibration(attributor: Any) -> Any:
    """Return the method with ``auto`` in every setting that may say so, by its type."""
    hints = typing.get_type_hints(type(attributor))
    possible = [field.name for field in dataclasses.fields(attributor) if _allows_auto(hints[field.name])]
    return dataclasses.replace(attributor, **dict.fromkeys(possible, AUTO))


def settle(attributor: Any, problem: Problem, *, generator: torch.Generator) -> Any:
    """Calibrate a method, as phase ``fit``, and return it with what was found; itself if no setting says ``auto``.

    Args:
        generator: As ``attribute`` gets it; it is not moved.
    """
    if not auto_settings(attributor):
        return attributor
    with phase("fit"):
        report = attributor.calibrate(problem, generator=generator)
    return apply_proposal(attributor, report["proposed"])


def apply_proposal(attributor: Any, proposed: Mapping[str, Any]) -> Any:
    """Return the method with the proposed values in the settings that say ``auto``; the others stay.

    Raises:
        ValueError: If nothing is proposed for one of them.
    """
    wanted = auto_settings(attributor)
    missing = [name for name in wanted if name not in proposed]
    if missing:
        raise ValueError(
            f"{missing[0]} says auto, and the calibration proposes {', '.join(proposed) or 'nothing'}: give it a value."
        )
    return dataclasses.replace(attributor, **{name: proposed[name] for name in wanted}) if wanted else attributor


def _allows_auto(hint: Any) -> bool:
    return any(AUTO in typing.get_args(option) for option in (hint, *typing.get_args(hint)))
