"""An experiment's YAML as frozen dataclasses. Imports no torch, so that the workflow plans quickly."""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from tdabench.experiment.components import Component, MethodComponent, parse_component, parse_method
from tdabench.experiment.grids import ScalingSettings, SweepSettings
from tdabench.experiment.likeness import check_likeness
from tdabench.experiment.sections import (
    BankSettings,
    DataSettings,
    EvaluationSettings,
    Recipe,
    RemovalSettings,
    TokenSettings,
    VarianceSettings,
)
from tdabench.experiment.settings import Count, Natural, build, require_json, require_mapping, settings
from tdabench.experiment.yaml_file import read_yaml

# Names are parts of paths, and of the workflow's shell commands.
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
LONGEST_NAME = 100  # file systems allow 255 bytes, with what is added
MOST_JOBS = 1_000_000


@settings("")
class Experiment:
    """One YAML, one Snakemake target, one folder of results.

    What it asks: the LDS (``bank``), what removing examples does (``removal``), which labels are wrong
    (``data.mislabelled``), how cost grows with the model (``scaling``). At least one of them.

    Attributes:
        pretraining: What every training starts from: weights that are trained by this recipe on the data's text for
            pretraining, or with ``published`` the model's own; without it, random ones, each time others.
        repeats: Whole repetitions with other seeds (the paper's five).
        checkpoints: Models trained on the whole attribution set; the first is attributed, ensembles use all.
        variance: Further attributions, which tell how much of the LDS's spread is checkpoint and random numbers.
        sweep: A grid of one method's settings, judged on the tuning queries.
        tokens: Scores of tokens, of text, for a few queries.
        training: May be absent where nothing is trained, since cost alone is asked for.
    """

    name: str
    seed: Natural
    data: DataSettings
    model: Component
    training: Recipe | None = None
    bank: BankSettings | None = None
    removal: RemovalSettings | None = None
    methods: dict[str, MethodComponent]
    pretraining: Recipe | Literal["published"] | None = None
    repeats: Count = 1
    checkpoints: Count = 1
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)
    variance: VarianceSettings | None = None
    sweep: SweepSettings | None = None
    tokens: TokenSettings | None = None
    scaling: ScalingSettings | None = None

    def __post_init__(self) -> None:
        for what, name in [("experiment", self.name), *(("method", key) for key in self.methods)]:
            if not _NAME.fullmatch(name):
                raise ValueError(f"A name of a {what} has only a-z, 0-9 and _, got {name!r}.")
            if len(name) > LONGEST_NAME:
                raise ValueError(f"A name of a {what} has at most {LONGEST_NAME} characters, got {name!r}.")
        if not self.methods:
            raise ValueError("methods must name at least one method.")
        if not self.is_scored and self.scaling is None:
            raise ValueError(
                "An experiment asks something: give it bank, removal or a data.mislabelled above 0, or scaling."
            )
        if self.is_scored and self.training is None:
            raise ValueError("The key training is missing.")
        smallest = min(self.data.train_sizes)
        if self.evaluation.top >= smallest:
            raise ValueError(
                f"evaluation.top must be below the smallest of data.train_sizes ({smallest}), "
                f"got {self.evaluation.top}."
            )
        for section, check in _CHECKS.items():
            if getattr(self, section) is not None:
                check(self, getattr(self, section))
        check_likeness(self)
        if self.num_jobs > MOST_JOBS:
            raise ValueError(
                f"The experiment has about {self.num_jobs:,} jobs, more than could be planned ({MOST_JOBS:,}): lower "
                "repeats, checkpoints, bank.shards, or a method's chains."
            )

    @property
    def is_scored(self) -> bool:
        """Whether models are trained and methods asked for scores; else only what they cost is measured."""
        return self.bank is not None or self.removal is not None or self.data.mislabelled > 0

    @property
    def num_jobs(self) -> int:
        """About how many jobs there are: every checkpoint, shard of the bank, chain and score of each set."""
        shards = self.bank.shards if self.bank else 0
        shards = self.bank.subsets if shards == "auto" else shards  # at most
        methods = sum(1 + self.num_chains(method) for method in self.methods)
        scaled = len(self.scaling.sizes) * len(self.methods) if self.scaling else 0
        return scaled + self.repeats * len(self.data.train_sizes) * (self.checkpoints + shards + methods)

    @property
    def removal_methods(self) -> tuple[str, ...]:
        """The methods whose most helpful examples are removed."""
        return self._choose_methods("removal", self.removal)

    @property
    def varied_methods(self) -> tuple[str, ...]:
        """The methods that are attributed more than once."""
        return self._choose_methods("variance", self.variance)

    @property
    def token_methods(self) -> tuple[str, ...]:
        """The methods whose scores of tokens are shown."""
        return self._choose_methods("tokens", self.tokens)

    def _choose_methods(
        self, section: str, settings: RemovalSettings | VarianceSettings | TokenSettings | None
    ) -> tuple[str, ...]:
        """Return the methods that a section is about: those it names, or all; none without the section."""
        if settings is None:
            return ()
        unknown = [method for method in settings.methods or () if method not in self.methods]
        if unknown:
            raise ValueError(
                f"There is no method {unknown[0]} for {section}.methods; there are {', '.join(self.methods)}."
            )
        return tuple(self.methods) if settings.methods is None else settings.methods

    def num_chains(self, method: str) -> int:
        """Return how many chains of a method are jobs of their own: its setting ``chains``, or 0 if it has none."""
        chains = self.methods[method].settings.get("chains")
        return chains if type(chains) is int and chains > 0 else 0

    def has_calibration(self, method: str) -> bool:
        """Say whether a setting of a method says ``auto``, so that it is calibrated."""
        return "auto" in self.methods[method].settings.values()


def _check_removal(experiment: Experiment, removal: RemovalSettings) -> None:
    smallest, most = min(experiment.data.train_sizes), max(removal.counts)
    if most >= smallest:
        raise ValueError(
            f"removal.counts must be below the smallest of data.train_sizes ({smallest}): "
            f"nothing is left to train on without {most}."
        )
    if removal.queries > experiment.data.queries:
        raise ValueError(
            f"removal.queries must be at most data.queries ({experiment.data.queries}), got {removal.queries}."
        )
    _ = experiment.removal_methods


def _check_variance(experiment: Experiment, variance: VarianceSettings) -> None:
    if experiment.bank is None:
        raise ValueError("variance divides the LDS's spread, and there is no LDS without bank: give it one.")
    if variance.checkpoints > experiment.checkpoints:
        raise ValueError(
            f"variance.checkpoints must be at most checkpoints ({experiment.checkpoints}), got {variance.checkpoints}."
        )
    _ = experiment.varied_methods


def _check_sweep(experiment: Experiment, sweep: SweepSettings) -> None:
    if sweep.method not in experiment.methods:
        raise ValueError(
            f"There is no method {sweep.method} for sweep.method; there are {', '.join(experiment.methods)}."
        )
    if experiment.bank is None:
        raise ValueError("A sweep is judged by the LDS, and there is none without bank: give it one.")
    if experiment.data.tuning_queries < 2:  # an interval over a single query says nothing
        raise ValueError(
            "A sweep is judged on the tuning queries, never on the scored ones: data.tuning_queries must be at least "
            f"2, got {experiment.data.tuning_queries}."
        )


def _check_tokens(experiment: Experiment, tokens: TokenSettings) -> None:
    if tokens.queries > experiment.data.queries:
        raise ValueError(
            f"tokens.queries must be at most data.queries ({experiment.data.queries}), got {tokens.queries}."
        )
    smallest = min(experiment.data.train_sizes)
    if 2 * tokens.top > smallest:
        raise ValueError(
            f"tokens.top must be at most half the smallest of data.train_sizes ({smallest}), so that none is "
            f"both most helpful and most harmful, got {tokens.top}."
        )
    _ = experiment.token_methods


def _check_scaling(experiment: Experiment, scaling: ScalingSettings) -> None:
    if len(experiment.data.train_sizes) > 1:
        sizes = list(experiment.data.train_sizes)
        raise ValueError(f"scaling is about a single attribution set: data.train_sizes must be one size, got {sizes}.")
    if experiment.pretraining not in (None, "published") and not experiment.is_scored:
        raise ValueError("scaling trains no model: leave pretraining out, or say pretraining: published.")
    auto = [method for method in experiment.methods if experiment.has_calibration(method)]
    if auto:
        raise ValueError(f"scaling needs every setting of a method: methods.{auto[0]} has one that says auto.")


_CHECKS = {
    "removal": _check_removal,
    "variance": _check_variance,
    "sweep": _check_sweep,
    "tokens": _check_tokens,
    "scaling": _check_scaling,
}


def load_experiment(path: Path | str) -> Experiment:
    """Read and check an experiment file; its name is the file's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, has unknown, missing or wrongly typed keys, or a value is out of range.
    """
    path = Path(path)
    if not path.is_file():
        other = path.with_suffix(".yml")
        remedy = f"rename {other} to {path.name}" if other.is_file() else "the built-in ones are in experiments/"
        raise FileNotFoundError(f"There is no experiment file {path}; {remedy}.")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    try:
        return _parse_experiment(content, name=path.stem)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_experiment(content: Any, name: str) -> Experiment:
    content = dict(require_mapping(content, "The experiment"))
    if "name" in content:
        raise ValueError("Unknown key name: an experiment is named by its file.")
    if isinstance(content.get("data"), dict):
        require_json(content["data"].get("options"), "data.options")
    if "model" in content:
        content["model"] = dataclasses.asdict(parse_component(content["model"], "builder", "model"))
    if "methods" in content:
        methods = require_mapping(content["methods"], "methods")
        content["methods"] = {key: parse_method(value, f"methods.{key}") for key, value in methods.items()}
    return build(Experiment, content, where="", name=name)
