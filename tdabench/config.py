"""Settings: an experiment's YAML becomes frozen dataclasses. Imports no torch, so that the workflow plans quickly."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from tdabench.components import Component, build, describe, require_mapping

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is attributed.

    Attributes:
        source: Import path of the dataset's class.
        train_sizes: Sizes of the attribution set. Each is the start of one random order, so that they are nested.
        queries: Scored queries, drawn from the test set.
        tuning_queries: Further queries, for settings that are chosen by looking at the LDS.
        warmup: Held-out examples for the recipe's warm-up phase.
        reference: Examples that define the loss landscape (factors, SGLD's minibatches): the attribution set
            itself (``train``), or that many from the start of the random order.
    """

    source: str
    train_sizes: tuple[int, ...]
    queries: int
    tuning_queries: int = 0
    warmup: int = 0
    reference: int | str = "train"

    def __post_init__(self) -> None:
        Component(path=self.source)
        if not self.train_sizes or min(self.train_sizes) < 2 or len(set(self.train_sizes)) < len(self.train_sizes):
            raise ValueError(f"data.train_sizes must be different sizes of at least 2, got {list(self.train_sizes)}.")
        _require_at_least("data", self, queries=1, tuning_queries=0, warmup=0)
        if self.reference != "train" and (isinstance(self.reference, str) or self.reference < max(self.train_sizes)):
            raise ValueError(
                "data.reference must be 'train' or a number of examples that is at least the largest of "
                f"data.train_sizes ({max(self.train_sizes)}), got {self.reference!r}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run (the paper's Table 4).

    Attributes:
        optimizer: ``sgd`` (Nesterov; learning rate per 1,024 examples of summed loss and decoupled weight decay as in
            Jordan, 2024, independent of batch size and momentum) or ``adamw`` (PyTorch's meaning of every setting).
        epochs: Passes over the training set.
        batch_size: Most examples a step: an epoch is divided into equal batches. ``sgd`` counts each as a full one.
        learning_rate: Peak of the triangular schedule.
        weight_decay: Weight decay.
        momentum: Momentum of ``sgd``.
        bias_scaler: ``sgd``: learning rate of biases, relative to the others'.
        label_smoothing: In training only; the losses of attribution and bank have none.
        schedule_start: Learning rate of the first step, relative to the peak.
        schedule_peak: Where in training the peak is, in [0, 1).
        schedule_end: Learning rate after the last step, relative to the peak.
        warmup_steps: Steps on the held-out warm-up set before training, at the schedule's first learning rate.
        recalibrate_norm: Whether batch norm's statistics are measured anew on the whole training set at the end: the
            running ones of a short training lag behind the weights, which is noise in every loss.
        precision: ``float32``, or ``bfloat16`` (autocast; fast only on devices with bfloat16 arithmetic).
    """

    optimizer: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    momentum: float = 0.0
    bias_scaler: float = 1.0
    label_smoothing: float = 0.0
    schedule_start: float = 0.2
    schedule_peak: float = 0.25
    schedule_end: float = 0.07
    warmup_steps: int = 0
    recalibrate_norm: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require_choice("training", self, optimizer=("sgd", "adamw"), precision=("float32", "bfloat16"))
        _require_at_least(
            "training", self, epochs=1, batch_size=1, weight_decay=0, schedule_start=0, schedule_end=0, warmup_steps=0
        )
        for name in ("learning_rate", "bias_scaler"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"training.{name} must be positive and finite, got {getattr(self, name)}.")
        for name in ("momentum", "label_smoothing", "schedule_peak"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.{name} must lie in [0, 1), got {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BankSettings:
    """The ground truth: models retrained on subsets.

    Attributes:
        subsets: Number of subsets.
        fraction: Share of the attribution set in each, in (0, 1).
        sampling: ``fixed`` (subsets of equal size) or ``bernoulli`` (each example kept with that probability).
        retrains: Models a subset, with different seeds.
        shards: Jobs that the bank of one attribution set is divided into.
    """

    subsets: int
    fraction: float
    sampling: str = "fixed"
    retrains: int = 1
    shards: int = 1

    def __post_init__(self) -> None:
        _require_choice("bank", self, sampling=("fixed", "bernoulli"))
        _require_at_least("bank", self, subsets=3, retrains=1, shards=1)
        if not 0 < self.fraction < 1:
            raise ValueError(f"bank.fraction must lie in (0, 1), got {self.fraction}.")
        if self.shards > self.subsets:
            raise ValueError(f"bank.shards must be at most bank.subsets ({self.subsets}), got {self.shards}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How scores are compared with the bank.

    Attributes:
        resamples: Bootstrap resamples, over subsets and queries together.
        confidence: Of the intervals, in (0, 1).
    """

    resamples: int = 1000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _require_at_least("evaluation", self, resamples=100)
        if not 0 < self.confidence < 1:
            raise ValueError(f"evaluation.confidence must lie in (0, 1), got {self.confidence}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One YAML, one Snakemake target, one folder of results.

    Attributes:
        repeats: Whole repetitions with other seeds (the paper's five).
        checkpoints: Models trained on the whole attribution set; the first is attributed, ensembles use all.
    """

    name: str
    seed: int
    data: DataSettings
    model: Component
    training: Recipe
    bank: BankSettings
    methods: dict[str, Component]
    repeats: int = 1
    checkpoints: int = 1
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        _require_at_least("experiment", self, seed=0, repeats=1, checkpoints=1)
        for what, name in [("experiment", self.name), *(("method", key) for key in self.methods)]:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"A name of a {what} has only a-z, 0-9 and _, got {name!r}.")
        if not self.methods:
            raise ValueError("methods must name at least one method.")

    def stage_settings(self, stage: str, method: str | None = None) -> str:
        """Give the settings that a stage's result depends on, as JSON; a change of them reruns that stage.

        Files of plug-ins count too: their hash is included, so that an edited method is run again.

        Raises:
            ValueError: If there is no such stage.
        """
        data = dataclasses.asdict(self.data)
        source = describe(Component(path=self.data.source))
        split = {"seed": self.seed, **{key: data[key] for key in ("queries", "tuning_queries", "warmup")}}
        training = {
            "seed": self.seed,
            "model": describe(self.model),
            "training": dataclasses.asdict(self.training),
            "reference": self.data.reference,
        }
        slices: dict[str, Any] = {
            "dataset": source,
            "split": {"source": source, **split},
            "train": training,
            "retrain": {**training, "bank": dataclasses.asdict(self.bank)},
            "evaluate": {"seed": self.seed, "evaluation": dataclasses.asdict(self.evaluation)},
            "report": {"methods": list(self.methods), "sizes": list(self.data.train_sizes), "repeats": self.repeats},
        }
        if method is not None:
            slices["attribute"] = {
                "seed": self.seed,
                "reference": self.data.reference,
                "method": describe(self.methods[method]),
            }
        if stage not in slices:
            raise ValueError(f"There is no stage {stage!r} (with method {method!r}).")
        return json.dumps(slices[stage], sort_keys=True)


def load_experiment(path: Path | str) -> Experiment:
    """Read and check an experiment file; its name is the file's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, has unknown, missing or wrongly typed keys, or a value is out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no experiment file {path}; the built-in ones are in experiments/.")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    try:
        return _parse_experiment(content, name=path.stem)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def read_yaml(text: str) -> Any:
    """Read YAML safely, with 1e-4 as a number and no key twice.

    Raises:
        ValueError: If it is not valid.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _parse_experiment(content: Any, name: str) -> Experiment:
    content = dict(require_mapping(content, "The experiment"))
    if "name" in content:
        raise ValueError("Unknown key name: an experiment is named by its file.")
    sections = {
        "data": DataSettings,
        "training": Recipe,
        "bank": BankSettings,
        "evaluation": EvaluationSettings,
    }
    for key, section in sections.items():
        if key in content:
            content[key] = build(section, content[key], where=key)
    if "model" in content:
        content["model"] = _parse_component(content["model"], "builder", "model")
    if "methods" in content:
        methods = require_mapping(content["methods"], "methods")
        content["methods"] = {
            key: _parse_component(value, "attributor", f"methods.{key}") for key, value in methods.items()
        }
    return build(Experiment, {"name": name, **content}, where="")


def _parse_component(content: Any, key: str, where: str) -> Component:
    settings = dict(require_mapping(content, where))
    if key not in settings:
        raise ValueError(f"{where} needs the key {key}: an import path such as package.module:Class.")
    try:
        json.dumps(settings, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where} may hold numbers, texts, true, false, null, lists and mappings, as JSON can ({error})."
        ) from error
    return Component(path=settings.pop(key), settings=settings)


def _require_at_least(section: str, settings: Any, **lowest: int) -> None:
    for name, low in lowest.items():
        if not getattr(settings, name) >= low:
            raise ValueError(f"{section}.{name} must be at least {low}, got {getattr(settings, name)}.")


def _require_choice(section: str, settings: Any, **choices: tuple[str, ...]) -> None:
    for name, options in choices.items():
        if getattr(settings, name) not in options:
            raise ValueError(f"{section}.{name} must be {' or '.join(options)}, got {getattr(settings, name)!r}.")


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1 that also reads 1e-4 as a number (PyYAML's own takes it for text) and refuses a repeated key."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Compose a mapping whose keys are all different, before merge keys (<<) add theirs."""
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key[1]!r} stands twice{node.start_mark}")
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
