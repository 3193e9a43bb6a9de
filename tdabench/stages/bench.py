"""What the stages with a model load: data, split, and how a model is made."""

import functools
import importlib
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tdabench.data.base import Data
from tdabench.data.restore import restore_data
from tdabench.examples import Examples, inputs_of
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import Experiment
from tdabench.runtime.devices import choose_device
from tdabench.runtime.machine import Machine
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_record, load_tensors, make_record


class Bench:
    """What the stages with a model load: data, split, and how a model is made."""

    def __init__(self, experiment: Experiment, cell: Cell, machine: Machine) -> None:
        torch.set_num_threads(machine.threads)
        self.experiment, self.cell, self.size = experiment, cell, cell.train_size
        self.device = choose_device(machine.device)
        self.data = load_data(cell.dataset)
        self.split = load_tensors(cell.split)
        # A size that is added later runs on the split that is there.
        pool, reference = len(self.split["pool"]), experiment.data.reference
        if pool < max(self.size, 0 if reference == "train" else reference):
            raise ValueError(
                f"The split has {pool} examples, too few for train_size {self.size} and reference {reference}."
            )

    @functools.cached_property
    def factory(self) -> "ModelFactory":
        """What makes the experiment's models."""
        return ModelFactory(self.experiment, self.cell.root)

    @functools.cached_property
    def train(self) -> Examples:
        """The attribution set, with the wrong labels that were planted in it."""
        return self._pool(self.size)

    @functools.cached_property
    def query(self) -> Examples:
        """The scored queries, then the tuning queries."""
        return self.data.examples("test", torch.cat([self.split["query"], self.split["tuning"]]), self.device)

    @functools.cached_property
    def tuning(self) -> Examples:
        """The tuning queries, without the scored ones: all that a choice of settings may see."""
        return self.data.examples("test", self.split["tuning"], self.device)

    @functools.cached_property
    def reference(self) -> Examples:
        """The data that defines the loss landscape."""
        if self.experiment.data.reference == "train":
            return self.train
        return self._pool(self.experiment.data.reference)

    def _pool(self, count: int) -> Examples:
        """Return the start of the pool; only what is in the attribution set has planted labels."""
        examples = self.data.examples("train", self.split["pool"][:count], self.device)
        planted = self.planted
        if planted is not None:
            labels = self.split["planted_labels"][: len(planted)]
            examples["label"][planted.to(self.device)] = labels.to(self.device)
        return examples

    @property
    def planted(self) -> Int[Tensor, " planted"] | None:
        """Places in the attribution set whose label is wrong on purpose; None if the experiment plants none."""
        if "planted" not in self.split:
            return None
        return self.split["planted"][self.split["planted"] < self.size]

    @functools.cached_property
    def warmup(self) -> Examples:
        """The held-out warm-up set."""
        return self.data.examples("train", self.split["warmup"], self.device)

    def retrain(self, examples: Examples, generator: torch.Generator, *, description: str | None = None) -> nn.Module:
        """Train a model from the start."""
        from tdabench.training.recipe import train as run_recipe

        model = self.factory.start(self.reference, generator=generator).to(self.device)
        if self.experiment.pretraining is None:  # else `pretrain` looked
            require_room_for(model, self.data)
        recipe = self.experiment.training
        run_recipe(model, examples, recipe, generator=generator, warmup=self.warmup, description=description)
        return model

    def load_model(self, path: Path) -> nn.Module:
        """Load a checkpoint, in eval mode."""
        return self.factory.load(path, self.reference).to(self.device).eval()

    def record(self, cost: Any, *inputs: Path, **details: Any) -> dict[str, Any]:
        """Describe a result of this bench.

        Args:
            cost: What was measured; None if nothing was.
            inputs: Files that it was made from, beside data, split and pretrained weights.
        """
        experiment = self.experiment
        settings = {
            "data": experiment.data,
            "model": experiment.model,
            "training": experiment.training,
            "pretraining": experiment.pretraining,
            "train_size": self.size,
        }
        files = [self.cell.dataset, self.cell.split, *inputs]
        files += [] if experiment.pretraining is None else [self.cell.pretrained]
        return make_record(settings, inputs=files, cost=cost, seed=experiment.seed, **details)


class ModelFactory:
    """Makes an experiment's models: as training starts from them, and as they were trained."""

    def __init__(self, experiment: Experiment, root: Path) -> None:
        self.experiment = experiment
        self.pretrained = None if experiment.pretraining is None else root / "pretrained.safetensors"

    @functools.cached_property
    def builder(self) -> Any:
        """The model's builder, with its settings."""
        return instantiate(self.experiment.model, "model")

    def start(self, examples: Examples, *, generator: torch.Generator) -> nn.Module:
        """Make the model that training starts from: pretrained, or freshly initialised.

        Args:
            examples: What the model is for: a builder may look at sizes, or measure statistics.
        """
        if self.pretrained is not None:
            return self.load(self.pretrained, examples)
        return build_random(self.builder, examples, generator=generator)

    def load(self, path: Path, examples: Examples) -> nn.Module:
        """Load a model that was trained, from its file."""
        from tdabench.models.states import write_state

        config = None if self.pretrained is None else load_record(self.pretrained)["config"]
        if config is None:
            model = self.builder.build(inputs_of(examples), generator=torch.Generator())
        else:
            model = importlib.import_module("tdabench.models.causal_lm").rebuild(config)
        write_state(model, load_tensors(path))
        return model


def build_random(builder: Any, examples: Examples, *, generator: torch.Generator) -> nn.Module:
    """Build a model with random weights.

    Raises:
        ValueError: If the builder's settings name published weights: they would be ignored.
    """
    weights = getattr(builder, "weights", "random")
    if hasattr(builder, "fetch") and weights != "random":
        raise ValueError(
            f"model.weights {weights!r} are loaded with 'pretraining: published' only: set that, or 'weights: random'."
        )
    return builder.build(inputs_of(examples), generator=generator)


def require_room_for(model: nn.Module, data: Data) -> None:
    """Check that a model knows every token of the tokenizer, and has positions for the longest row or query.

    Raises:
        ValueError: If it does not.
    """
    if hasattr(data, "tokenizer"):  # by name: an experiment of images imports nothing of text
        importlib.import_module("tdabench.data.text.room").require_room_for(model, data)


def load_data(path: Path) -> Data:
    """Load the file of the stage ``dataset``."""
    return restore_data(load_tensors(path), load_record(path))
