"""The settings that a job was planned with, as a hash: the workflow names it, the job compares. Imports no torch."""

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tdabench.experiment.derived import settle_bank
from tdabench.experiment.slices import stage_settings

if TYPE_CHECKING:
    from tdabench.experiment.read import Experiment


def hash_settings(
    experiment: "Experiment",
    stage: str,
    *,
    method: str | None = None,
    point: str | None = None,
    size: str | None = None,
    train_size: int | None = None,
) -> str:
    """Return a hash of the settings that a job's result depends on; another one reruns the job.

    Args:
        method: Its key in the experiment file, for the stages that run one.
        point: Of the sweep.
        size: Of the model, where an experiment scales it.
        train_size: Size of the attribution set; it says how many shards a bank is divided into.
    """
    if stage == "retrain" and experiment.bank is not None and train_size is not None:
        bank = settle_bank(experiment, Path("results") / experiment.name, train_size)
        experiment = dataclasses.replace(experiment, bank=bank)
    settings = stage_settings(experiment, stage, method, point, size)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]
