"""Settings: an experiment's YAML becomes frozen dataclasses. Imports no torch, so that the workflow plans quickly."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import yaml

from tdabench.components import Component, build, describe, require_mapping
from tdabench.settings import (
    BankSettings,
    DataSettings,
    EvaluationSettings,
    Recipe,
    RemovalSettings,
    require_at_least,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One YAML, one Snakemake target, one folder of results.

    What it asks: the LDS (``bank``), what removing examples does (``removal``), which labels are wrong
    (``data.mislabelled``). At least one of them.

    Attributes:
        repeats: Whole repetitions with other seeds (the paper's five).
        checkpoints: Models trained on the whole attribution set; the first is attributed, ensembles use all.
    """

    name: str
    seed: int
    data: DataSettings
    model: Component
    training: Recipe
    bank: BankSettings | None = None
    removal: RemovalSettings | None = None
    methods: dict[str, Component]
    repeats: int = 1
    checkpoints: int = 1
    evaluation: EvaluationSettings = dataclasses.field(default_factory=EvaluationSettings)

    def __post_init__(self) -> None:
        require_at_least("experiment", self, seed=0, repeats=1, checkpoints=1)
        for what, name in [("experiment", self.name), *(("method", key) for key in self.methods)]:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"A name of a {what} has only a-z, 0-9 and _, got {name!r}.")
        if not self.methods:
            raise ValueError("methods must name at least one method.")
        if self.evaluation.top >= min(self.data.train_sizes):
            raise ValueError(
                f"evaluation.top must be below the smallest of data.train_sizes ({min(self.data.train_sizes)}), "
                f"got {self.evaluation.top}."
            )
        if self.bank is None and self.removal is None and not self.data.mislabelled:
            raise ValueError("An experiment asks something: give it bank, removal or a data.mislabelled above 0.")
        if self.removal is not None:
            self._check_removal(self.removal)

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
        unknown = [method for method in removal.methods or () if method not in self.methods]
        if unknown:
            raise ValueError(
                f"There is no method {unknown[0]} for removal.methods; there are {', '.join(self.methods)}."
            )

    @property
    def removal_methods(self) -> tuple[str, ...]:
        """The methods whose most helpful examples are removed."""
        if self.removal is None:
            return ()
        return tuple(self.methods) if self.removal.methods is None else self.removal.methods

    def stage_settings(self, stage: str, method: str | None = None) -> str:
        """Give the settings that a stage's result depends on, as JSON; a change of them reruns that stage.

        Files of plug-ins count too: their hash is included, so that an edited method is run again.

        Raises:
            ValueError: If there is no such stage.
        """
        data = dataclasses.asdict(self.data)
        source = describe(Component(path=self.data.source))
        split = {"seed": self.seed, **{key: data[key] for key in ("queries", "tuning_queries", "warmup")}}
        if self.data.mislabelled:  # absent otherwise: splits made before there was this key stay valid
            split["mislabelled"] = self.data.mislabelled
        training = {
            "seed": self.seed,
            "model": describe(self.model),
            "training": dataclasses.asdict(self.training),
            "reference": self.data.reference,
        }
        evaluation = dataclasses.asdict(self.evaluation)
        top = evaluation.pop("top")
        slices: dict[str, Any] = {
            "dataset": source,
            "split": {"source": source, **split},
            "train": training,
            "retrain": {**training, "bank": dataclasses.asdict(self.bank) if self.bank else None},
            **self._question_slices(training),
            "evaluate": {"seed": self.seed, "evaluation": evaluation},
            "agree": {"seed": self.seed, "evaluation": evaluation, "top": top, "methods": list(self.methods)},
            "report": {"methods": list(self.methods), "sizes": list(self.data.train_sizes), "repeats": self.repeats},
        }
        if method is not None:
            slices["attribute"] = {
                "seed": self.seed,
                "reference": self.data.reference,
                "method": describe(self.methods[method]),
            }
            slices["properties"] = {
                "seed": self.seed,
                "checkpoints": self.checkpoints,
                "method": describe(self.methods[method]),
            }
        if stage not in slices:
            raise ValueError(f"There is no stage {stage!r} (with method {method!r}).")
        return json.dumps(slices[stage], sort_keys=True)

    def _question_slices(self, training: dict[str, Any]) -> dict[str, Any]:
        """Give the slices of the stages that remove examples and find wrong labels."""
        removal = dataclasses.asdict(self.removal) if self.removal else {}
        removal.pop("methods", None)  # another method is another job, not another result
        judged = {
            "seed": self.seed,
            "evaluation": dataclasses.asdict(self.evaluation),
            "sizes": list(self.data.train_sizes),
            "repeats": self.repeats,
        }
        return {
            "keep": {**training, "removal": {key: removal[key] for key in removal if key != "counts"}},
            "remove": {**training, "removal": removal},
            "contrast": {**judged, "methods": list(self.removal_methods)},
            "detect": {**judged, "methods": list(self.methods)},
        }


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
        "removal": RemovalSettings,
        "evaluation": EvaluationSettings,
    }
    for key, section in sections.items():
        if key in content and not (content[key] is None and key in ("bank", "removal")):
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
