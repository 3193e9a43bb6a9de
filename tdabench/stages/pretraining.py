"""The stage that makes the weights that every training starts from."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tdabench.cost import measure_cost
from tdabench.data.base import Data
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment
from tdabench.models.causal_lm import describe
from tdabench.models.states import read_state
from tdabench.runtime.devices import choose_device
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import build_random, load_data, require_room_for
from tdabench.stages.truth import require_finite
from tdabench.storage.cell import root_of
from tdabench.storage.records import make_record, save_tensors
from tdabench.training.recipe import train


def pretrain(experiment: Experiment, machine: Machine, data: Path = Path("data")) -> None:
    """Pretrain a model on the dataset's text for that, or take its published weights: only this job fetches them.

    Args:
        data: folder of the data (default: $TDABENCH_DATA, else data/).
    """
    torch.set_num_threads(machine.threads)
    if experiment.pretraining is None:
        raise ValueError(f"{experiment.name} has no section pretraining: there is nothing to do.")
    dataset = root_of(experiment) / "dataset.safetensors"
    loaded, builder, device = load_data(dataset), instantiate(experiment.model, "model"), choose_device(machine.device)
    with measure_cost(device) as cost:
        if experiment.pretraining == "published":
            model = builder.fetch(data)
            require_room_for(model, loaded)
        else:
            model = _train(experiment, loaded, builder, device)
    settings = {"data": experiment.data, "model": experiment.model, "pretraining": experiment.pretraining}
    details = {"seed": experiment.seed, "stream": ("pretrain",), "config": describe(model)}
    record = make_record(settings, inputs=[dataset], cost=cost, **details)
    save_tensors(root_of(experiment) / "pretrained.safetensors", read_state(model), record)


def _train(experiment: Experiment, data: Data, builder: Any, device: torch.device) -> nn.Module:
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
    require_finite(model, "Pretraining", "its learning_rate", experiment.pretraining.learning_rate)
    return model
