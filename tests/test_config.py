"""Experiment files: what is read, what is refused, and which stage depends on what."""

import copy
import dataclasses
import json
import math
import pickle
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from tdabench.experiment.components import Component, MethodComponent, describe, instantiate
from tdabench.experiment.derived import models_of
from tdabench.experiment.plug_ins import hash_plug_in
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.experiment.sections import (
    BankSettings,
    DataSettings,
    EvaluationSettings,
    Recipe,
    RemovalSettings,
    VarianceSettings,
)
from tdabench.experiment.settings import build
from tdabench.experiment.slices import stage_settings
from tdabench.experiment.yaml_file import read_yaml, write_yaml
from tdabench.storage.records import load_record, save_json

REPOSITORY = Path(__file__).parents[1]
STAGES = ("dataset", "split", "train", "retrain", "sample", "attribute", "vary", "judge", "properties", "report")
EXPERIMENT: dict[str, Any] = {
    "seed": 3,
    "repeats": 2,
    "checkpoints": 2,
    "data": {"source": "tdabench.data.digits:Digits", "train_sizes": [100, 200], "queries": 20, "tuning_queries": 5},
    "model": {"builder": "tdabench.models.small_cnn:SmallCNN", "width": 4},
    "training": {
        "optimizer": "adamw",
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.01,
        "weight_decay": 0,
    },
    "bank": {"subsets": 6, "fraction": 0.5, "retrains": 2, "shards": 2},
    "methods": {
        "random": {"attributor": "tdabench.attributors.baselines:Random"},
        "gradsim": {"attributor": "tdabench.attributors.kronfluence:Kronfluence", "strategy": "identity"},
    },
    "evaluation": {"resamples": 100, "confidence": 0.9, "top": 20},
    "variance": {"checkpoints": 2, "runs": 3, "methods": ["gradsim"]},
}


def _write(folder: Path, content: Any, name: str = "tiny.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else write_yaml(content))
    return path


def _changed(*place: Any) -> dict[str, Any]:
    """Return the valid experiment with one value replaced: ``_changed("bank", "fraction", 2)``."""
    *keys, last, value = place
    content = copy.deepcopy(EXPERIMENT)
    section = content
    for key in keys:
        section = section[key]
    section[last] = value
    return content


def _without(*place: str) -> dict[str, Any]:
    *keys, last = place
    content = copy.deepcopy(EXPERIMENT)
    section = content
    for key in keys:
        section = section[key]
    del section[last]
    return content


# What is read


def test_every_value_of_a_file_arrives_in_its_place(tmp_path):
    path = _write(tmp_path, EXPERIMENT)

    experiment = load_experiment(path)

    assert experiment == Experiment(
        name="tiny",
        seed=3,
        repeats=2,
        checkpoints=2,
        data=DataSettings(source="tdabench.data.digits:Digits", train_sizes=(100, 200), queries=20, tuning_queries=5),
        model=Component(path="tdabench.models.small_cnn:SmallCNN", settings={"width": 4}),
        training=Recipe(optimizer="adamw", epochs=2, batch_size=32, learning_rate=0.01, weight_decay=0.0),
        bank=BankSettings(subsets=6, fraction=0.5, retrains=2, shards=2),
        methods={
            "random": MethodComponent(path="tdabench.attributors.baselines:Random"),
            "gradsim": MethodComponent(
                path="tdabench.attributors.kronfluence:Kronfluence", settings={"strategy": "identity"}
            ),
        },
        evaluation=EvaluationSettings(resamples=100, confidence=0.9, top=20),
        variance=VarianceSettings(checkpoints=2, runs=3, methods=("gradsim",)),
    )


NAMES = st.from_regex(r"[a-z0-9][a-z0-9_]{0,9}", fullmatch=True)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@given(
    seed=st.integers(0, 2**63 - 1),
    sizes=st.lists(st.integers(2, 10**6), min_size=1, max_size=4, unique=True),
    fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
    subsets=st.integers(3, 1000),
    methods=st.dictionaries(NAMES, st.dictionaries(NAMES, PLAIN, max_size=3), min_size=1, max_size=4),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_experiment_comes_back_equal_from_its_record(tmp_path, seed, sizes, fraction, subsets, methods):
    content = {
        **_without("variance"),
        "seed": seed,
        "data": {**EXPERIMENT["data"], "train_sizes": sizes},
        "bank": {"subsets": subsets, "fraction": fraction},
        "methods": {name: {**values, "attributor": "mine:Mine"} for name, values in methods.items()},
        "evaluation": {"top": 1},
    }

    first = load_experiment(_write(tmp_path, content))
    save_json(tmp_path / "record.json", {}, {"experiment": first})
    second = load_experiment(_write(tmp_path, _as_file(load_record(tmp_path / "record.json")["experiment"])))

    assert second == first
    assert first.methods == {
        name: MethodComponent(path="mine:Mine", settings=values) for name, values in methods.items()
    }
    assert (first.seed, first.data.train_sizes, first.bank.fraction) == (seed, tuple(sizes), fraction)


def _as_file(record: dict[str, Any]) -> dict[str, Any]:
    """Write a recorded experiment as its file has it."""
    content = copy.deepcopy(record)
    del content["name"]
    for key, component in [("builder", content["model"]), *(("attributor", m) for m in content["methods"].values())]:
        component[key] = component.pop("path")
        component.update(component.pop("settings"))
    return content


@pytest.mark.parametrize(
    ("content", "varied"),
    [
        (_without("variance"), ()),
        (_changed("variance", None), ()),
        (EXPERIMENT, ("gradsim",)),
        (_changed("variance", "methods", None), ("random", "gradsim")),
    ],
    ids=["absent", "null", "one named", "none named"],
)
def test_the_methods_that_are_varied_are_those_that_are_named_or_all(tmp_path, content, varied):
    assert load_experiment(_write(tmp_path, content)).varied_methods == varied


def test_the_order_of_keys_changes_no_stage_settings(tmp_path):
    turned = {key: EXPERIMENT[key] for key in reversed(EXPERIMENT)}
    turned["training"] = {key: EXPERIMENT["training"][key] for key in reversed(EXPERIMENT["training"])}

    first, second = load_experiment(_write(tmp_path, EXPERIMENT)), load_experiment(_write(tmp_path, turned))

    for stage in STAGES:
        assert stage_settings(second, stage, "random") == stage_settings(first, stage, "random")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("1E5", 1e5),
        ("-2e3", -2000.0),
        ("'1e-4'", "1e-4"),
        ("e4", "e4"),
        ("4", 4),
        ("032", 32),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        *((text, text) for text in ("yes", "no", "on", "off", "y", "=")),
        ("true", True),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
    ],
)
def test_a_value_of_a_file_is_what_it_looks_like(text, value):
    read = read_yaml(f"key: {text}")["key"]

    assert read == value
    assert type(read) is type(value)


def test_merge_keys_share_settings_the_first_counts_and_a_key_beside_them_more():
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, z: 2}\nc: {<<: [*a, *b], z: 3}"

    assert read_yaml(text)["c"] == {"x": 1, "y": 1, "z": 3}


def test_what_is_written_is_read_back_in_its_order():
    content = {"b": ["yes", "1:30", "032", "1e-4", "~", "", "é"], "a": [1e-4, 1e300, None, True], "32": {"x": [{}]}}

    assert list(read_yaml(write_yaml(content)).items()) == list(content.items())


@pytest.mark.parametrize("path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_class_of_a_built_in_experiment_can_be_instantiated(path):
    experiment = load_experiment(path)

    instances = [instantiate(component, f"methods.{key}") for key, component in experiment.methods.items()]
    builders = [instantiate(model, where) for where, model in models_of(experiment).items()]
    source = instantiate(experiment.data.component, "data.source")

    assert all(hasattr(instance, "attribute") for instance in instances)
    assert all(hasattr(builder, "build") for builder in builders)
    assert hasattr(source, "load")


# What is refused


@pytest.mark.parametrize(
    ("place", "known"),
    [
        (("epochs",), "seed, data, model, training, bank, removal, methods, pretraining, repeats, checkpoints"),
        (("data", "train_size"), "source, options, train_sizes, queries, tuning_queries, warmup, reference"),
        (("training", "lr"), "optimizer, epochs, batch_size, learning_rate"),
        (("bank", "alpha"), "subsets, fraction, sampling, retrains, shards"),
        (("evaluation", "bootstrap"), "resamples, confidence, top, memory_gib"),
    ],
)
def test_an_unknown_key_names_itself_and_the_known_ones(tmp_path, place, known):
    path = _write(tmp_path, _changed(*place, 1))

    with pytest.raises(ValueError, match=rf"tiny\.yaml: Unknown key {'.'.join(place)}; the known ones are: .*{known}"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("path", "known"),
    [("tdabench.attributors.kronfluence:Kronfluence", ".*damping"), ("tdabench.attributors.baselines:Random", "none")],
)
def test_an_unknown_key_of_a_method_names_itself_and_the_known_ones(path, known):
    with pytest.raises(ValueError, match=rf"Unknown key methods\.mine\.alpha; the known ones are: {known}"):
        instantiate(Component(path=path, settings={"alpha": 0.1}), "methods.mine")


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path):
    content = _changed("training", "epochs", 0)
    content["bank"] |= {"alpha": 1, "beta": 2}
    content["data"] |= {"lenght": 3}
    del content["seed"], content["bank"]["fraction"]

    with pytest.raises(ValueError, match=r"tiny\.yaml: ") as raised:
        load_experiment(_write(tmp_path, content))

    assert re.sub(r"the known ones are: [^.]*", "...", str(raised.value).partition("tiny.yaml: ")[2]) == (
        "Unknown key data.lenght; .... Unknown keys bank.alpha, bank.beta; .... "
        "The keys seed, bank.fraction are missing. training.epochs must be at least 1, got 0."
    )


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("seed",), "The key seed is missing"),
        (("data",), "The key data is missing"),
        (("methods",), "The key methods is missing"),
        (("training",), "The key training is missing"),
        (("data", "source"), r"The key data\.source is missing"),
        (("model", "builder"), "model needs the key builder: an import path"),
        (("methods", "random", "attributor"), r"methods\.random needs the key attributor: an import path"),
    ],
)
def test_a_missing_key_is_named(tmp_path, place, message):
    with pytest.raises(ValueError, match=message):
        load_experiment(_write(tmp_path, _without(*place)))


RECIPE = EXPERIMENT["training"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Types
        (("seed", "0"), "seed must be of type int, got '0'"),
        (("seed", True), "seed must be of type int, got True"),
        (("seed", 1.0), "seed must be of type int, got 1.0"),
        (("data", None), "data must be a mapping of keys to values, got None"),
        (("data", "source", 5), r"data\.source must be of type str, got 5"),
        (("data", "train_sizes", 100), r"data\.train_sizes must be a list, got 100"),
        (("data", "train_sizes", [100, "200"]), r"data\.train_sizes must be of type int, got '200'"),
        (("data", "reference", [1]), r"data\.reference must be of type int or 'train', got \[1\]"),
        (("training", "learning_rate", "fast"), r"training\.learning_rate must be of type float, got 'fast'"),
        (("training", "learning_rate", True), r"training\.learning_rate must be of type float, got True"),
        (("training", "epochs", 2.5), r"training\.epochs must be of type int, got 2\.5"),
        (("training", "recalibrate_norm", 1), r"training\.recalibrate_norm must be of type bool, got 1"),
        (("bank", [1]), r"bank must be a mapping of keys to values or null, got \[1\]"),
        (("pretraining", "hub"), "pretraining must be a mapping of keys to values or 'published' or null, got 'hub'"),
        (("model", "builder", 5), r"An import path has the form package\.module:Class, got 5"),
        (("model", "builder", "package.module.Class"), "An import path has the form"),
        (("model", "SmallCNN"), "model must be a mapping of keys to values, got 'SmallCNN'"),
        (("methods", ["random"]), r"methods must be a mapping of keys to values, got \['random'\]"),
        (("methods", "random", None), r"methods\.random must be a mapping of keys to values, got None"),
        (("name", "other"), "Unknown key name: an experiment is named by its file"),
        # Ranges
        (("seed", -1), "seed must be at least 0, got -1"),
        (("repeats", 0), "repeats must be at least 1, got 0"),
        (("checkpoints", 0), "checkpoints must be at least 1, got 0"),
        (("data", "train_sizes", []), r"data\.train_sizes must be different sizes of at least 2, got \[\]"),
        (("data", "train_sizes", [1]), r"data\.train_sizes must be different sizes of at least 2, got \[1\]"),
        (("data", "train_sizes", [9, 9]), r"data\.train_sizes must be different sizes of at least 2, got \[9, 9\]"),
        (("data", "queries", 0), r"data\.queries must be at least 1, got 0"),
        (("data", "tuning_queries", -1), r"data\.tuning_queries must be at least 0, got -1"),
        (("data", "warmup", -1), r"data\.warmup must be at least 0, got -1"),
        (("data", "reference", 199), r"data\.reference must be 'train' or a number .* \(200\), got 199"),
        (("data", "reference", "all"), r"data\.reference must be of type int or 'train', got 'all'"),
        (("training", "optimizer", "adam"), r"training\.optimizer must be 'sgd' or 'adamw', got 'adam'"),
        (("training", "precision", "float16"), r"training\.precision must be 'float32' or 'bfloat16', got 'float16'"),
        (("training", "epochs", 0), r"training\.epochs must be at least 1, got 0"),
        (("training", "batch_size", 0), r"training\.batch_size must be at least 1, got 0"),
        (("training", "microbatch", 0), r"training\.microbatch must be at least 1 or null, got 0"),
        (("training", "weight_decay", -0.1), r"training\.weight_decay must be at least 0 and finite, got -0\.1"),
        (("training", "weight_decay", math.inf), r"training\.weight_decay must be at least 0 and finite, got inf"),
        (("training", "schedule_start", math.nan), r"training\.schedule_start must be at least 0 and finite, got nan"),
        (("training", "schedule_end", -1), r"training\.schedule_end must be at least 0 and finite, got -1"),
        (("training", "warmup_steps", -1), r"training\.warmup_steps must be at least 0, got -1"),
        (("training", "learning_rate", 0), r"training\.learning_rate must be positive and finite, got 0"),
        (("training", "learning_rate", math.nan), r"training\.learning_rate must be positive and finite, got nan"),
        (("training", "bias_scaler", math.inf), r"training\.bias_scaler must be positive and finite, got inf"),
        (("training", "momentum", 1), r"training\.momentum must lie in \[0, 1\), got 1"),
        (("training", "label_smoothing", -0.1), r"training\.label_smoothing must lie in \[0, 1\), got -0\.1"),
        (("training", "schedule_peak", 1), r"training\.schedule_peak must lie in \[0, 1\), got 1"),
        (("pretraining", {**RECIPE, "momentum": 2}), r"tiny\.yaml: pretraining\.momentum must lie in \[0, 1\), got 2"),
        (("bank", "subsets", 2), r"bank\.subsets must be at least 3, got 2"),
        (("bank", "fraction", 0), r"bank\.fraction must lie in \(0, 1\), got 0"),
        (("bank", "fraction", 1), r"bank\.fraction must lie in \(0, 1\), got 1"),
        (("bank", "sampling", "poisson"), r"bank\.sampling must be 'fixed' or 'bernoulli', got 'poisson'"),
        (("bank", "retrains", 0), r"bank\.retrains must be at least 1, got 0"),
        (("bank", "shards", 0), r"bank\.shards must be at least 1 or 'auto', got 0"),
        (("bank", "shards", 7), r"bank\.shards must be at most bank\.subsets \(6\), got 7"),
        (("evaluation", "resamples", 99), r"evaluation\.resamples must be at least 100, got 99"),
        (("evaluation", "top", 0), r"evaluation\.top must be at least 1, got 0"),
        (("evaluation", "top", 100), r"evaluation\.top must be below .* data\.train_sizes \(100\), got 100"),
        (("evaluation", "memory_gib", 0), r"evaluation\.memory_gib must be positive and finite or null, got 0"),
        (("evaluation", "confidence", 1), r"evaluation\.confidence must lie in \(0, 1\), got 1"),
        (("methods", {}), "methods must name at least one method"),
        (("methods", "gradsim", "damping", math.inf), r"methods\.gradsim may hold finite numbers, .* JSON compliant"),
        (("model", "width", [math.nan]), r"model may hold finite numbers, .* JSON compliant"),
        (("data", "options", {"length": math.nan}), r"data\.options may hold finite numbers, .* JSON compliant"),
        (("variance", "checkpoints", 0), r"variance\.checkpoints must be at least 1, got 0"),
        (("variance", "checkpoints", 3), r"variance\.checkpoints must be at most checkpoints \(2\), got 3"),
        (("variance", "runs", 1), r"variance\.runs must be at least 2, got 1"),
        (("variance", "methods", []), r"variance\.methods must be different methods or null, got \[\]"),
        (("variance", "methods", ["random", "random"]), r"variance\.methods must be different methods or null"),
        (("variance", "methods", ["bif"]), r"There is no method bif for variance\.methods; there are random, gradsim"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_value_that_cannot_be_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_experiment(_write(tmp_path, _changed(*change)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 0\nseed: 1", "line 2, column 1: the key 'seed' stands twice"),
        ("data: {queries: 1, queries: 2}", "line 1, column 20: the key 'queries' stands twice"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, 'd': 2}", "line 2, column 19: the key 'd' stands twice"),
        ("a: 1\n3: 2", "line 2, column 1: a key must be text: put 3 in quotes"),
        ("[a]: 2", "line 1, column 1: a key must be text, and this one is a list"),
        ("a: [1", "line 1, column 6: expected ',' or ']'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
        ("a:\n\t- b", r"line 2, column 1: found character '\\t'"),
        ("a: 1\n---\nb: 2", "line 2, column 1: but found another document"),
        ("a: *b", "line 1, column 4: found undefined alias 'b'"),
        ("a: !!python/object:os.system {}", "line 1, column 4: the tag .*os.system is of no value that JSON has"),
        ("a: !!set {b, c}", "line 1, column 4: the tag .*set is of no value that JSON has"),
        ("a: !!bool maybe", "a tag does not fit its value"),
        ("a: " + "[" * 5000, "its lists and mappings lie too deep in each other"),
        ("seed: " + "9" * 5000, "Exceeds the limit"),
        ("seed: 0  # été".encode("latin-1"), "utf-8"),
    ],
)
def test_invalid_yaml_names_file_line_and_column(tmp_path, text, message):
    path = tmp_path / "tiny.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(ValueError, match=rf"tiny\.yaml is not valid YAML: .*{message}"):
        load_experiment(path)


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "42"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"tiny\.yaml: The experiment must be a mapping of keys to values"):
        load_experiment(_write(tmp_path, text))


@pytest.mark.parametrize("name", ["absent.yaml", ""], ids=["absent", "a folder"])
def test_an_absent_file_says_where_the_built_in_ones_are(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"There is no experiment file .*; .* in experiments/"):
        load_experiment(tmp_path / name)


# Settings of a class of somebody else's


@dataclasses.dataclass(frozen=True)
class Part:
    size: int
    rate: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    part: Part | None = None
    parts: tuple[Part, ...] = ()
    scale: float = 1.0
    widths: tuple[int, int] = (1, 2)
    kind: Literal["plain", "odd"] = "plain"
    options: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    copy: str = "a name that pydantic's own models have taken"

    def __post_init__(self) -> None:
        if self.scale == 13:
            raise ValueError("scale must not be 13.")


def test_a_plain_dataclass_is_built_from_values_that_fit_its_annotations():
    settings = {
        "part": {"size": 3, "rate": 1},
        "parts": [{"size": 4}],
        "scale": 2,
        "widths": [5, 6],
        "kind": "odd",
        "options": {"a": [7]},
    }

    built = build(Whole, settings, where="m")

    assert built == Whole(part=Part(3, 1.0), parts=(Part(4),), scale=2.0, widths=(5, 6), kind="odd", options={"a": [7]})
    assert (type(built), type(built.part), type(built.scale)) == (Whole, Part, float)
    assert pickle.loads(pickle.dumps(built)) == built


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 13}, "^scale must not be 13"),
        ({"scale": "1"}, "^m.scale must be of type float, got '1'"),
        ({"kind": "even"}, "^m.kind must be 'plain' or 'odd', got 'even'"),
        ({"widths": [1]}, r"^m.widths must have 2 entries, got \[1\]"),
        ({"widths": [1, 2, 3]}, r"^m.widths must have at most 2 entries, got \[1, 2, 3\]"),
        ({"options": {"a": ["b"]}}, "^m.options.a must be of type int, got 'b'"),
        ({"part": {"rate": 1}}, "^The key m.part.size is missing"),
        ({"part": {"size": 1, "sise": 2}}, "^Unknown key m.part.sise; the known ones are: size, rate"),
        ({"parts": [{"size": "x"}]}, "^m.parts.size must be of type int, got 'x'"),
        ({"rate": 2}, r"^m.rate must lie in \(0, 1\] or null, got 2"),
        ({"scale": {1, 2}}, "^m may hold finite numbers, texts"),
        ([1], r"^m must be a mapping of keys to values, got \[1\]"),
    ],
)
def test_settings_that_do_not_fit_a_plain_dataclass_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(Whole, settings, where="m")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"counts": (0,)}, r"removal\.counts must be different numbers of at least 1, got \(0,\)"),
        ({"counts": [1]}, r"removal\.counts must be a tuple, got \[1\]"),
        ({"retrains": 0}, r"removal\.retrains must be at least 1, got 0"),
    ],
)
def test_settings_that_are_built_in_python_are_checked_too(value, message):
    with pytest.raises(ValueError, match=message):
        RemovalSettings(**{"counts": (1,), "queries": 2, **value})


YAML_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8)
    | st.sampled_from(["train", "sgd", "a:B", "tdabench.models.small_cnn:SmallCNN", "../x"])
)
YAML_VALUES = st.recursive(
    YAML_SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.sampled_from(["builder", "attributor"]), inner)
    ),
    max_leaves=6,
)
PLACES = [
    *((key,) for key in EXPERIMENT),
    *(
        (section, key)
        for section in ("data", "training", "bank", "evaluation", "variance", "model")
        for key in EXPERIMENT[section]
    ),
    ("methods", "random"),
    ("methods", "random", "attributor"),
    ("methods", "gradsim", "strategy"),
]


@pytest.mark.usefixtures("unchecked_types")
@given(place=st.sampled_from(PLACES), value=YAML_VALUES)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_gives_an_experiment_or_a_value_error(tmp_path, place, value):
    path = _write(tmp_path, _changed(*place, value))

    try:
        experiment = load_experiment(path)
    except ValueError:
        return

    for stage in STAGES:
        json.loads(stage_settings(experiment, stage, next(iter(experiment.methods))))


@given(text=st.text(st.sampled_from("ab01:{}[]&*!<>-_.,'\"|%#?e \n\t\0é"), max_size=40))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_any_text_gives_a_value_error(tmp_path, text):
    path = tmp_path / "tiny.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ValueError, match=r"tiny\.yaml"):
        load_experiment(path)


# Which stage depends on what


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (("seed", 4), set(STAGES) - {"dataset", "report"}),
        (("repeats", 3), {"report"}),
        (("checkpoints", 3), {"properties"}),
        (("data", "source", "tdabench.data.cifar10:CIFAR10"), {"dataset", "split"}),
        (("data", "train_sizes", [100, 300]), {"report"}),
        (("data", "queries", 21), {"split"}),
        (("data", "tuning_queries", 6), {"split"}),
        (("data", "warmup", 6), {"split"}),
        (("data", "reference", 250), {"train", "retrain", "sample", "attribute", "vary"}),
        (("model", "width", 5), {"train", "retrain"}),
        (("training", "epochs", 3), {"train", "retrain"}),
        (("bank", "fraction", 0.4), {"retrain"}),
        (("methods", "gradsim", "damping", 0.1), {"sample", "attribute", "vary", "properties"}),
        (("evaluation", "confidence", 0.8), {"judge"}),
        (("evaluation", "top", 5), {"judge"}),
        (("evaluation", "memory_gib", 4), set()),
        (("variance", "runs", 2), {"vary"}),
        (("variance", "checkpoints", 1), {"vary"}),
        (("variance", "methods", None), {"judge"}),
    ],
)
def test_a_change_concerns_exactly_the_stages_whose_result_depends_on_it(tmp_path, change, concerned):
    before, after = load_experiment(_write(tmp_path, EXPERIMENT)), load_experiment(_write(tmp_path, _changed(*change)))

    found = {s for s in STAGES if stage_settings(after, s, "gradsim") != stage_settings(before, s, "gradsim")}

    assert found == concerned


def test_a_change_of_one_method_concerns_no_other(tmp_path):
    changed = load_experiment(_write(tmp_path, _changed("methods", "gradsim", "damping", 0.1)))
    before = load_experiment(_write(tmp_path, EXPERIMENT))

    for stage in ("attribute", "properties"):
        assert stage_settings(changed, stage, "random") == stage_settings(before, stage, "random")


def test_every_setting_of_an_experiment_is_in_some_stage(tmp_path):
    experiment = load_experiment(_write(tmp_path, _changed("data", "mislabelled", 0.1)))
    text = " ".join(stage_settings(experiment, stage, "gradsim") for stage in STAGES)

    for section in (DataSettings, Recipe, BankSettings, EvaluationSettings, VarianceSettings):
        for field in dataclasses.fields(section):
            if field.name in ("memory_gib", "microbatch"):  # how a result is computed, not what it is
                continue
            name = {"train_sizes": "sizes", "options": "settings"}.get(field.name, field.name)
            assert f'"{name}"' in text, f"a change of {section.__name__}.{field.name} would rerun nothing"


def test_an_unknown_stage_is_an_error(tmp_path):
    experiment = load_experiment(_write(tmp_path, EXPERIMENT))

    with pytest.raises(ValueError, match="There is no stage 'attribute' \\(with method None\\)"):
        stage_settings(experiment, "attribute")


@pytest.mark.parametrize(
    ("place", "stage"),
    [
        (("methods", "random", "attributor"), "attribute"),
        (("methods", "random", "attributor"), "properties"),
        (("model", "builder"), "train"),
        (("data", "source"), "dataset"),
    ],
)
def test_editing_a_plug_ins_file_changes_its_stage(tmp_path, monkeypatch, place, stage):
    plug_in = tmp_path / "edited_plug_in.py"
    plug_in.write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    experiment = load_experiment(_write(tmp_path, _changed(*place, "edited_plug_in:Mine")))
    before = stage_settings(experiment, stage, "random")

    plug_in.write_text("class Mine: '''Edited.'''\n")

    assert stage_settings(experiment, stage, "random") != before


@pytest.mark.parametrize("module", ["mine", "theirs.mine"])
def test_a_file_that_a_plug_in_imports_from_beside_it_counts_and_no_other(tmp_path, monkeypatch, module):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "theirs").mkdir()
    imports = {
        "mine.py": "from helper import score\nimport tdabench.cost\nclass Mine: ...",
        "theirs/mine.py": "from . import near\nfrom helper import score\nclass Mine: ...",
        "theirs/__init__.py": "",
        "theirs/near.py": "import helper",
        "helper.py": "def score():\n    import deeper",
        "deeper.py": "import json, helper",
        "other.py": "",
        "json.py": "(",
    }
    for name, text in imports.items():
        (tmp_path / name).write_text(text)
    before, changed = hash_plug_in(module), {}

    for name, text in imports.items():
        (tmp_path / name).write_text(f"{text}\n# Edited.")
        changed[name] = hash_plug_in(module) != before
        (tmp_path / name).write_text(text)

    beside = {"helper.py", "deeper.py", "json.py"}
    own = {"mine.py"} if module == "mine" else {"theirs/mine.py", "theirs/near.py", "theirs/__init__.py"}
    assert {name for name, differs in changed.items() if differs} == beside | own


def test_only_a_plug_in_that_is_there_has_a_hash_of_its_file():
    built_in, absent = (
        describe(Component(path=path)) for path in ("tdabench.cost:Cost", "no_such_package.module:Mine")
    )

    assert built_in == {"path": "tdabench.cost:Cost", "settings": {}}
    assert absent["source"] is None
