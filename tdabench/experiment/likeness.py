"""Checks of what is done with the scores of every method alike. Imports no torch."""

from typing import Any


def check_likeness(experiment: Any) -> None:
    """Check ``normalize`` and ``average`` of every method against the rest of the ``Experiment``.

    Raises:
        ValueError: If there are fewer checkpoints than a mean is over, or a method is asked for what neither reaches:
            its scores of tokens, and what its own scores cost at other sizes.
    """
    for name, method in experiment.methods.items():
        if method.average > experiment.checkpoints:
            raise ValueError(
                f"methods.{name}.average must be at most checkpoints ({experiment.checkpoints}), got {method.average}."
            )
        for key, value in method.likeness.items():
            if name in experiment.token_methods:
                raise ValueError(
                    f"tokens shows a method's scores as it makes them, and methods.{name} has {key}: {value}. Name "
                    "other methods in tokens.methods."
                )
            if experiment.scaling is not None:
                raise ValueError(
                    f"scaling measures what a method's own scores cost, and methods.{name} has {key}: {value}. Leave "
                    "the key out."
                )
