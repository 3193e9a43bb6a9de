"""Settings: an experiment's YAML becomes frozen dataclasses. Imports no torch, so that the workflow plans quickly."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

from tdabench.experiment.components import Component, build, parse_component, require_json, require_mapping
from tdabench.experiment.scaling import ScalingSettings, check_scaling
from tdabench.experiment.sections import (
    BankSettings,
    DataSettings,
    EvaluationSettings,
    Recipe,
    RemovalSettings,
    VarianceSettings,
    build_pretraining,
    require_at_least,
)
from tdabench.experiment.slices import slice_settings
from tdabench.experiment.sweeps import SweepSettings, check_sweep
from tdabench.experiment.tokens import TokenSettings, check_tokens
from tdabench.experiment.yaml_file import read_yaml

# Names are parts of paths, and of the workflow's shell commands.
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
LONGEST_NAME = 100  # file systems allow 255 bytes, with what is added
MOST_JOBS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    seed: int
    data: DataSettings
    model: Component
    training: Recipe | None = None
    bank: BankSettings | None = None
    removal: RemovalSettings | None = None
    methods: dict[str, Component]
    pretraining: Recipe | Literal["published"] | None = None
    repeats: int = 1
    checkpoints: int = 1
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)
    variance: VarianceSettings | None = None
    sweep: SweepSettings | None = None
    tokens: TokenSettings | None = None
    scaling: ScalingSettings | None = None

    def __post_init__(self) -> None:
        require_at_least("experiment", self, seed=0, repeats=1, checkpoints=1)
        for what, name in [("experiment", self.name), *(("method", key) for key in self.methods)]:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
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
        if self.removal is not None:
            self._check_removal(self.removal)
        if self.variance is not None:
            self._check_variance(self.variance)
        if self.sweep is not None:
            check_sweep(self.sweep, self)
        if self.tokens is not None:
            check_tokens(self.tokens, self)
        if self.scaling is not None:
            check_scaling(self.scaling, self)
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

    def _check_removal(self, removal: RemovalSettings) -> None:
        smallest, most = min(self.data.train_sizes), max(removal.counts)
        if most >= smallest:
            raise ValueError(
                f"removal.counts must be below the smallest of data.train_sizes ({smallest}): "
                f"nothing is left to train on without {most}."
            )
        if removal.queries > self.data.queries:
            raise ValueError(
                f"removal.queries must be at most data.queries ({self.data.queries}), got {removal.queries}."
            )
        self._choose_methods("removal", removal)

    def _check_variance(self, variance: VarianceSettings) -> None:
        if self.bank is None:
            raise ValueError("variance divides the LDS's spread, and there is no LDS without bank: give it one.")
        if variance.checkpoints > self.checkpoints:
            raise ValueError(
                f"variance.checkpoints must be at most checkpoints ({self.checkpoints}), got {variance.checkpoints}."
            )
        self._choose_methods("variance", variance)

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

    def stage_settings(
        self, stage: str, method: str | None = None, point: str | None = None, size: str | None = None
    ) -> str:
        """Return the settings that a stage's result depends on, as JSON; a change of them reruns that stage.

        Files of plug-ins count too: their hash is included, so that an edited method is run again.

        Raises:
            ValueError: If there is no such stage.
        """
        slices = slice_settings(self, method, point, size)
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


def _parse_experiment(content: Any, name: str) -> Experiment:
    content = dict(require_mapping(content, "The experiment"))
    if isinstance(content.get("data"), dict):
        require_json(content["data"].get("options"), "data.options")
    if "name" in content:
        raise ValueError("Unknown key name: an experiment is named by its file.")
    sections = {
        "data": DataSettings,
        "training": Recipe,
        "bank": BankSettings,
        "removal": RemovalSettings,
        "evaluation": EvaluationSettings,
        "variance": VarianceSettings,
        "sweep": SweepSettings,
        "tokens": TokenSettings,
        "scaling": ScalingSettings,
    }
    if isinstance(content.get("pretraining"), dict):
        content["pretraining"] = build_pretraining(content["pretraining"])
    for key in ("variance", "sweep", "tokens", "scaling"):
        if content.get(key, ...) is None:
            del content[key]
    for key, section in sections.items():
        if key in content and not (content[key] is None and key in ("bank", "removal", "training")):
            content[key] = build(section, content[key], where=key)
    if "model" in content:
        content["model"] = parse_component(content["model"], "builder", "model")
    if "methods" in content:
        methods = require_mapping(content["methods"], "methods")
        content["methods"] = {
            key: parse_component(value, "attributor", f"methods.{key}") for key, value in methods.items()
        }
    return build(Experiment, {"name": name, **content}, where="")
