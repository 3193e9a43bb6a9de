"""The stage that finds a method's properties."""

import dataclasses

import torch

from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment
from tdabench.questions.properties.checks import PROPERTIES, find_properties
from tdabench.stages.trial import find_method
from tdabench.storage.cell import root_of
from tdabench.storage.records import make_record, save_json


def properties(experiment: Experiment, method: str) -> None:
    """Find a method's properties on made-up problems; needs neither data nor a checkpoint.

    Args:
        method: its key in the experiment file.
    """
    torch.set_num_threads(1)
    component = find_method(experiment, method)
    attributor = instantiate(component, f"methods.{method}")
    findings = find_properties(attributor, num_models=experiment.checkpoints, seed=experiment.seed)
    rows = [
        {"property": entry.key, "title": entry.title, **dataclasses.asdict(findings[entry.key]), "how": entry.how}
        for entry in PROPERTIES
    ]
    record = make_record({"method": component, "checkpoints": experiment.checkpoints}, seed=experiment.seed)
    path = root_of(experiment) / "properties" / f"{method}.json"
    save_json(path, {"method": method, "properties": rows}, record)
