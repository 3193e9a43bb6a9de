"""One function a stage: where the rooms meet. Load, call one function of a room, save.

A stage's module is imported when it is asked for: a job pays for its own imports only.
"""

import argparse
import importlib
from collections.abc import Callable

STAGES = {
    "agreement": ("agree", "properties"),
    "attribution": ("attribute", "sample", "vary"),
    "banks": ("bank",),
    "calibration": ("calibrate",),
    "choice": ("choose",),
    "commands": ("check", "methods"),
    "comparison": ("compare",),
    "detection": ("detect",),
    "draws": ("diagnose", "grow"),
    "judgement": ("evaluate", "report"),
    "measurement": ("measure",),
    "token_pages": ("pages",),
    "planning": ("plan", "power"),
    "projection": ("project",),
    "removal": ("contrast", "keep", "remove"),
    "scaling": ("scale",),
    "sweep": ("sweep",),
    "tokens": ("tokens",),
    "truth": ("dataset", "retrain", "split", "train"),
    "pretraining": ("pretrain",),
}


def load_stage(name: str) -> Callable[[argparse.Namespace], None]:
    """Import a stage's function."""
    module = next(module for module, names in STAGES.items() if name in names)
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
