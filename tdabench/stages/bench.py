"""What the stages with a model load: data, split, and how a model is made."""

import argparse
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tdabench.components import instantiate
from tdabench.config import Experiment, load_experiment
from tdabench.data.base import Examples, ImageData
from tdabench.devices import choose_device
from tdabench.records import load_record, load_tensors, make_record


class Bench:
    """What the stages with a model load: data, split, and how a model is made."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.set_num_threads(arguments.threads)
        self.experiment = load_experiment(arguments.experiment)
        self.device = choose_device(arguments.device)
        self.images = load_images(arguments.dataset)
        self.split = load_tensors(arguments.split)
        self.size = arguments.train_size
        if self.size not in self.experiment.data.train_sizes:
            sizes = ", ".join(map(str, self.experiment.data.train_sizes))
            raise ValueError(f"There is no train_size {self.size} in {arguments.experiment}; there are {sizes}.")
        # A size that is added later runs on the split that is there.
        pool, reference = len(self.split["pool"]), self.experiment.data.reference
        if pool < max(self.size, 0 if reference == "train" else reference):
            raise ValueError(
                f"The split has {pool} examples, too few for train_size {self.size} and reference {reference}."
            )

    @functools.cached_property
    def train(self) -> Examples:
        """The attribution set, with the wrong labels that were planted in it."""
        return self._pool(self.size)

    @functools.cached_property
    def query(self) -> Examples:
        """The scored queries, then the tuning queries."""
        return self.images.examples("test", torch.cat([self.split["query"], self.split["tuning"]]), self.device)

    @functools.cached_property
    def tuning(self) -> Examples:
        """The tuning queries, without the scored ones: all that a choice of settings may see."""
        return self.images.examples("test", self.split["tuning"], self.device)

    @functools.cached_property
    def reference(self) -> Examples:
        """The data that defines the loss landscape."""
        if self.experiment.data.reference == "train":
            return self.train
        return self._pool(self.experiment.data.reference)

    def _pool(self, count: int) -> Examples:
        """Give the start of the pool; only what is in the attribution set has planted labels."""
        examples = self.images.examples("train", self.split["pool"][:count], self.device)
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
        return self.images.examples("train", self.split["warmup"], self.device)

    @functools.cached_property
    def builder(self) -> Any:
        """The model's builder, with its settings."""
        return instantiate(self.experiment.model, "model")

    def retrain(self, examples: Examples, generator: torch.Generator, *, description: str | None = None) -> nn.Module:
        """Build a model and train it."""
        from tdabench.training.recipe import train as run_recipe

        model = self.builder.build(self.reference["image"], generator=generator).to(self.device)
        recipe = self.experiment.training
        run_recipe(model, examples, recipe, generator=generator, warmup=self.warmup, description=description)
        return model

    def load_model(self, path: Path) -> nn.Module:
        """Load a checkpoint, in eval mode."""
        model = self.builder.build(self.reference["image"], generator=torch.Generator())
        model.load_state_dict(load_tensors(path))
        return model.to(self.device).eval()

    def record(self, arguments: argparse.Namespace, cost: Any, **details: Any) -> dict[str, Any]:
        """Describe a result of this bench."""
        experiment: Experiment = self.experiment
        settings = {
            "data": experiment.data,
            "model": experiment.model,
            "training": experiment.training,
            "train_size": self.size,
        }
        calibration = getattr(arguments, "calibration", None)
        inputs = [arguments.dataset, arguments.split]
        inputs += [*getattr(arguments, "checkpoints", []), *getattr(arguments, "chains", [])]
        inputs += [calibration] if calibration else []
        return make_record(settings, inputs=inputs, cost=cost, seed=experiment.seed, **details)


def load_images(path: Path) -> ImageData:
    """Load the file of the stage ``dataset``."""
    return ImageData(**load_tensors(path), label_names=tuple(load_record(path).get("label_names", ())))
