"""The stages that measure how much methods agree, and what properties they have."""

import argparse
import dataclasses

import torch

from tdabench.experiment.components import instantiate
from tdabench.experiment.read import load_experiment
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record, load_tensors, make_record, open_matrices, save_json


def agree(arguments: argparse.Namespace) -> None:
    """Measure how much every two methods agree; a method without scores is left out and named."""
    from tdabench.questions.lds.agreement import compare_methods

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    statuses = {path.stem: load_record(path)["status"] for path in arguments.scores}
    left_out = {method: status for method, status in statuses.items() if status.startswith("unsupported")}
    scores = {path.stem: open_matrices(path)["scores"] for path in arguments.scores if path.stem not in left_out}
    stream = ("agreement", arguments.repeat, arguments.train_size)
    settings = experiment.evaluation
    record = make_record(
        {"evaluation": settings},
        inputs=[arguments.split, *arguments.scores],
        seed=experiment.seed,
        stream=stream,
    )
    pairs = []
    if len(scores) > 1:
        pairs = compare_methods(
            scores,
            settings,
            num_scored=len(load_tensors(arguments.split)["query"]),
            generator=make_generator(experiment.seed, *stream),
        )
    save_json(arguments.output, {"pairs": pairs, "methods": list(scores), "left_out": left_out}, record)


def properties(arguments: argparse.Namespace) -> None:
    """Find a method's properties on made-up problems; needs neither data nor a checkpoint."""
    from tdabench.questions.properties.checks import PROPERTIES, find_properties

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    if arguments.method not in experiment.methods:
        known = ", ".join(experiment.methods)
        raise ValueError(f"There is no method {arguments.method} in {arguments.experiment}; there are {known}.")
    component = experiment.methods[arguments.method]
    attributor = instantiate(component, f"methods.{arguments.method}")
    findings = find_properties(attributor, num_models=experiment.checkpoints, seed=experiment.seed)
    rows = [
        {"property": entry.key, "title": entry.title, **dataclasses.asdict(findings[entry.key]), "how": entry.how}
        for entry in PROPERTIES
    ]
    record = make_record({"method": component, "checkpoints": experiment.checkpoints}, seed=experiment.seed)
    save_json(arguments.output, {"method": arguments.method, "properties": rows}, record)
