"""Benchmark of training-data attribution, judged by retraining.

The public face, loaded when it is asked for, so that importing the package stays quick:

    >>> import tdabench
    >>> tdabench.load_experiment("experiments/lds_digits.yaml").data.train_sizes
    (250, 500)
"""

import importlib
from typing import Any

_FACE = {
    "Attributor": "tdabench.attributors.base",
    "Problem": "tdabench.attributors.base",
    "Unsupported": "tdabench.attributors.base",
    "check_attributor": "tdabench.testing",
    "linear_datamodeling_score": "tdabench.evaluation.lds",
    "load_experiment": "tdabench.experiment.read",
    "make_generator": "tdabench.seeds",
    "phase": "tdabench.cost",
}
__all__ = ["Attributor", "Problem", "Unsupported", "check_attributor", "linear_datamodeling_score", "load_experiment"]
__all__ += ["make_generator", "phase"]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"tdabench has no {name}; its public names are {', '.join(_FACE)}.")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
