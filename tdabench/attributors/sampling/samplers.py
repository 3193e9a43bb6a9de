"""The Markov chains that BIF can sample, by the names that its setting ``sampler`` has for them."""

import dataclasses
import math
from typing import Any

from tdabench.attributors.calibration.auto import AUTO
from tdabench.attributors.sampling.baoab import BAOAB
from tdabench.attributors.sampling.rmsprop_sgld import RMSpropSGLD
from tdabench.attributors.sampling.sgld import SGLD
from tdabench.attributors.sampling.walker import MarkovSampler

SAMPLERS = {"sgld": SGLD, "rmsprop_sgld": RMSpropSGLD, "baoab": BAOAB}


def make_sampler(settings: Any) -> MarkovSampler:
    """Make the sampler that ``settings.sampler`` names of those of the settings that it has; null is its default.

    A setting that still says ``auto`` is NaN: such a sampler can't step, but its other settings are checked.

    Raises:
        ValueError: If there is no such sampler, it does not have a setting that is given, or one is out of range.
    """
    name = settings.sampler
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {name!r}.")
    users: dict[str, list[str]] = {}
    for user, sampler in SAMPLERS.items():
        for field in dataclasses.fields(sampler):
            users.setdefault(field.name, []).append(user)
    given = {option: getattr(settings, option) for option in users if getattr(settings, option) is not None}
    for option, value in given.items():
        if name not in users[option]:
            raise ValueError(
                f"{option} is a setting of sampler {' and '.join(users[option])}, not of {name}; got {value!r}."
            )
    return SAMPLERS[name](**{option: math.nan if value == AUTO else value for option, value in given.items()})
