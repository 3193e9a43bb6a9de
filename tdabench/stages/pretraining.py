"""The stage that makes the weights that every training starts from."""

import argparse
from typing import Any

import torch
from torch import nn

from tdabench.cost import measure_cost
from tdabench.data.base import Data
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.runtime.devices import choose_device
from tdabench.seeds import make_generator
from tdabench.stages.bench import build_random, load_data, require_room_for
from tdabench.storage.records import make_record, save_tensors


def pretrain(arguments: argparse.Namespace) -> None:
    """Pretrain a model on the dataset's text for that, or take its published weights: only this job fetches them."""
    from tdabench.models.causal_lm import describe
    from tdabench.models.states import read_state

    torch.set_num_threads(arguments.threads)
    experiment = load_experiment(arguments.experiment)
    if experiment.pretraining is None:
        raise ValueError(f"{arguments.experiment} has no section pretraining: there is nothing to do.")
    data = load_data(arguments.dataset)
    builder = instantiate(experiment.model, "model")
    with measure_cost(choose_device(arguments.device)) as cost:
        if experiment.pretraining == "published":
            model = builder.fetch(arguments.data)
            require_room_for(model, data)
        else:
            model = _train(experiment, data, builder, choose_device(arguments.device))
    settings = {"data": experiment.data, "model": experiment.model, "pretraining": experiment.pretraining}
    details = {"seed": experiment.seed, "stream": ("pretrain",), "config": describe(model)}
    record = make_record(settings, inputs=[arguments.dataset], cost=cost, **details)
    save_tensors(arguments.output, read_state(model), record)


def _train(experiment: Experiment, data: Data, builder: Any, device: torch.device) -> nn.Module:
    from tdabench.training.recipe import train

    count = data.sizes.get("pretraining", 0)
    if not count:
        raise ValueError(
            "The data have nothing for pretraining: give data.options a share for it (pretraining: 0.8), or set "
            "pretraining: published to start from the model's own weights."
        )
    examples = data.examples("pretraining", torch.arange(count), device)
    generator = make_generator(experiment.seed, "pretrain")
    model = build_random(builder, examples, generator=generator).to(device)
    require_room_for(model, data)
    train(model, examples, experiment.pretraining, generator=generator, description="pretrain")
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise ValueError(f"Pretraining diverged: lower its learning_rate ({experiment.pretraining.learning_rate}).")
    return model
