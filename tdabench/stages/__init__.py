"""One function a stage: where the rooms meet. Load, call one function of a room, save.

A stage's module is imported when it is asked for: a job pays for its own imports only.
"""

import argparse
import importlib
from collections.abc import Callable

STAGES = {
    "stages.agreement": ("agree", "properties"),
    "stages.attribution": ("attribute", "sample", "vary"),
    "stages.bank": ("bank",),
    "stages.calibration": ("calibrate",),
    "stages.choice": ("choose",),
    "stages.commands": ("check", "methods"),
    "stages.comparison": ("compare",),
    "questions.detection.stage": ("detect",),
    "stages.draws": ("diagnose", "grow"),
    "stages.judgement": ("evaluate",),
    "stages.measure": ("measure",),
    "stages.token_pages": ("pages",),
    "stages.plan": ("plan", "power"),
    "stages.projection": ("project",),
    "report.stage": ("report",),
    "questions.removal.stage": ("contrast", "keep", "remove"),
    "questions.scaling.stage": ("scale",),
    "questions.sweep.stage": ("sweep",),
    "questions.tokens.stage": ("tokens",),
    "stages.truth": ("dataset", "retrain", "split", "train"),
    "stages.pretraining": ("pretrain",),
}


def load_stage(name: str) -> Callable[[argparse.Namespace], None]:
    """Import a stage's function."""
    module = next(module for module, names in STAGES.items() if name in names)
    return getattr(importlib.import_module(f"tdabench.{module}"), name)
