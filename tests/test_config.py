"""Experiment files: what is read, what is refused, and which stage depends on what."""

import copy
import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdabench.experiment.components import Component, build, describe, instantiate
from tdabench.experiment.read import Experiment, load_experiment
from tdabench.experiment.scaling import models_of
from tdabench.experiment.sections import BankSettings, DataSettings, EvaluationSettings, Recipe, VarianceSettings
from tdabench.experiment.yaml_file import read_yaml
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
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
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
            "random": Component(path="tdabench.attributors.baselines:Random"),
            "gradsim": Component(
                path="tdabench.attributors.kronfluence:Kronfluence", settings={"strategy": "identity"}
            ),
        },
        evaluation=EvaluationSettings(resamples=100, confidence=0.9, top=20),
        variance=VarianceSettings(checkpoints=2, runs=3, methods=("gradsim",)),
    )


def test_an_experiment_survives_being_written_as_yaml_and_read_again(tmp_path):
    first = load_experiment(_write(tmp_path, EXPERIMENT))

    second = load_experiment(_write(tmp_path, _as_file(json.loads(json.dumps(dataclasses.asdict(first))))))

    assert second == first
    for stage in STAGES:
        assert second.stage_settings(stage, "gradsim") == first.stage_settings(stage, "gradsim")


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
    assert first.methods == {name: Component(path="mine:Mine", settings=values) for name, values in methods.items()}
    assert (first.seed, first.data.train_sizes, first.bank.fraction) == (seed, tuple(sizes), fraction)


def _as_file(record: dict[str, Any]) -> dict[str, Any]:
    """Write a recorded experiment as its file has it."""
    content = copy.deepcopy(record)
    del content["name"]
    for key, component in [("builder", content["model"]), *(("attributor", m) for m in content["methods"].values())]:
        component[key] = component.pop("path")
        component.update(component.pop("settings"))
    return content


@pytest.mark.parametrize("content", [_without("variance"), _changed("variance", None)], ids=["absent", "null"])
def test_without_a_section_variance_no_method_is_attributed_twice(tmp_path, content):
    experiment = load_experiment(_write(tmp_path, content))

    assert experiment.variance is None
    assert experiment.varied_methods == ()


def test_every_method_is_varied_unless_some_are_named(tmp_path):
    named = load_experiment(_write(tmp_path, EXPERIMENT))
    every = load_experiment(_write(tmp_path, _changed("variance", "methods", None)))

    assert named.varied_methods == ("gradsim",)
    assert every.varied_methods == ("random", "gradsim")


def test_the_order_of_keys_changes_no_stage_settings(tmp_path):
    turned = {key: EXPERIMENT[key] for key in reversed(EXPERIMENT)}
    turned["training"] = {key: EXPERIMENT["training"][key] for key in reversed(EXPERIMENT["training"])}

    first, second = load_experiment(_write(tmp_path, EXPERIMENT)), load_experiment(_write(tmp_path, turned))

    for stage in STAGES:
        assert second.stage_settings(stage, "random") == first.stage_settings(stage, "random")


def test_stage_settings_are_json():
    experiment = load_experiment(REPOSITORY / "experiments" / "lds_digits.yaml")

    parsed = {stage: json.loads(experiment.stage_settings(stage, "bif")) for stage in STAGES}

    assert parsed["attribute"]["method"]["settings"]["step_size"] == experiment.methods["bif"].settings["step_size"]
    assert parsed["retrain"]["bank"]["fraction"] == experiment.bank.fraction


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2e3", -2000.0),
        ("1.5e-3", 1.5e-3),
        ("1_0e2", 1000.0),
        ("1e", "1e"),
        ("e4", "e4"),
        ("'1e-4'", "1e-4"),
        ("4", 4),
    ],
)
def test_scientific_notation_is_a_number_with_or_without_a_dot(text, value):
    read = read_yaml(f"key: {text}")["key"]

    assert read == value
    assert type(read) is type(value)


def test_anchors_and_merge_keys_share_settings_between_methods():
    text = "base: &base {strategy: kfac, damping: 0.1}\nother: {<<: *base, strategy: ekfac}"

    read = read_yaml(text)

    assert read["other"] == {"strategy": "ekfac", "damping": 0.1}


def test_whole_numbers_serve_as_floats(tmp_path):
    experiment = load_experiment(_write(tmp_path, _changed("training", "learning_rate", 1)))

    assert experiment.training.learning_rate == 1.0
    assert isinstance(experiment.training.learning_rate, float)


def test_config_imports_no_torch():
    code = "import sys, tdabench.experiment.read; assert 'torch' not in sys.modules, 'torch was imported'"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


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


def test_an_unknown_key_of_a_method_names_itself_and_the_known_ones(tmp_path):
    experiment = load_experiment(_write(tmp_path, _changed("methods", "gradsim", "dampening", 0.1)))

    with pytest.raises(ValueError, match=r"Unknown key methods\.gradsim\.dampening; the known ones are: .*damping"):
        instantiate(experiment.methods["gradsim"], "methods.gradsim")


def test_a_method_without_settings_says_that_it_knows_none():
    component = Component(path="tdabench.attributors.baselines:Random", settings={"alpha": 1})

    with pytest.raises(ValueError, match=r"Unknown key methods\.null\.alpha; the known ones are: none"):
        instantiate(component, "methods.null")


def test_the_name_is_the_files_and_no_key(tmp_path):
    path = _write(tmp_path, _changed("name", "other"))

    with pytest.raises(ValueError, match="an experiment is named by its file"):
        load_experiment(path)


def test_all_keys_of_a_mapping_that_are_missing_are_named_at_once():
    @dataclasses.dataclass
    class Settings:
        one: int
        two: int
        three: int = 3

    with pytest.raises(ValueError, match=r"^The keys m\.one, m\.two are missing\.$"):
        build(Settings, {}, where="m")
    with pytest.raises(ValueError, match=r"^Unknown keys m\.four, m\.five; the known ones are: one, two, three\.$"):
        build(Settings, {"four": 4, "five": 5}, where="m")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("seed",), "The key seed is missing"),
        (("data",), "The key data is missing"),
        (("methods",), "The key methods is missing"),
        (("data", "source"), r"The key data\.source is missing"),
        (("training", "learning_rate"), r"The key training\.learning_rate is missing"),
        (("bank", "fraction"), r"The key bank\.fraction is missing"),
        (("model", "builder"), "model needs the key builder: an import path"),
        (("methods", "random", "attributor"), r"methods\.random needs the key attributor: an import path"),
    ],
)
def test_a_missing_key_is_named(tmp_path, place, message):
    path = _write(tmp_path, _without(*place))

    with pytest.raises(ValueError, match=message):
        load_experiment(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed", "0"), "seed must be of type int, got '0'"),
        (("seed", True), "seed must be of type int, got True"),
        (("seed", 1.0), "seed must be of type int, got 1.0"),
        (("data", None), "data must be a mapping of keys to values, got None"),
        (("data", "source", 5), r"data\.source must be of type str, got 5"),
        (("data", "train_sizes", 100), r"data\.train_sizes must be a list, got 100"),
        (("data", "train_sizes", [100, "200"]), r"data\.train_sizes must be of type int, got '200'"),
        (("data", "reference", [1]), r"data\.reference must be of type int \| str, got \[1\]"),
        (("training", "learning_rate", "fast"), r"training\.learning_rate must be of type float, got 'fast'"),
        (("training", "learning_rate", True), r"training\.learning_rate must be of type float, got True"),
        (("training", "epochs", 2.5), r"training\.epochs must be of type int, got 2\.5"),
        (("bank", [1]), r"bank must be a mapping of keys to values, got \[1\]"),
        (("model", "builder", 5), r"An import path has the form package\.module:Class, got 5"),
        (("model", "builder", "package.module.Class"), "An import path has the form"),
        (("model", "SmallCNN"), "model must be a mapping of keys to values, got 'SmallCNN'"),
        (("methods", ["random"]), r"methods must be a mapping of keys to values, got \['random'\]"),
        (("methods", "random", None), r"methods\.random must be a mapping of keys to values, got None"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_value_of_the_wrong_type_is_refused(tmp_path, change, message):
    path = _write(tmp_path, _changed(*change))

    with pytest.raises(ValueError, match=message):
        load_experiment(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seed", -1), r"experiment\.seed must be at least 0, got -1"),
        (("repeats", 0), r"experiment\.repeats must be at least 1, got 0"),
        (("checkpoints", 0), r"experiment\.checkpoints must be at least 1, got 0"),
        (("data", "train_sizes", []), r"data\.train_sizes must be different sizes of at least 2, got \[\]"),
        (("data", "train_sizes", [1]), r"data\.train_sizes must be different sizes of at least 2, got \[1\]"),
        (("data", "train_sizes", [9, 9]), r"data\.train_sizes must be different sizes of at least 2, got \[9, 9\]"),
        (("data", "queries", 0), r"data\.queries must be at least 1, got 0"),
        (("data", "tuning_queries", -1), r"data\.tuning_queries must be at least 0, got -1"),
        (("data", "warmup", -1), r"data\.warmup must be at least 0, got -1"),
        (("data", "reference", 199), r"data\.reference must be 'train' or a number .* \(200\), got 199"),
        (("data", "reference", "all"), r"data\.reference must be 'train' or a number .*, got 'all'"),
        (("training", "optimizer", "adam"), r"training\.optimizer must be sgd or adamw, got 'adam'"),
        (("training", "precision", "float16"), r"training\.precision must be float32 or bfloat16, got 'float16'"),
        (("training", "epochs", 0), r"training\.epochs must be at least 1, got 0"),
        (("training", "batch_size", 0), r"training\.batch_size must be at least 1, got 0"),
        (("training", "weight_decay", -0.1), r"training\.weight_decay must be at least 0, got -0\.1"),
        (("training", "weight_decay", float("nan")), r"training\.weight_decay must be at least 0, got nan"),
        (("training", "schedule_start", -1), r"training\.schedule_start must be at least 0, got -1"),
        (("training", "schedule_end", -1), r"training\.schedule_end must be at least 0, got -1"),
        (("training", "warmup_steps", -1), r"training\.warmup_steps must be at least 0, got -1"),
        (("training", "learning_rate", 0), r"training\.learning_rate must be positive and finite, got 0"),
        (("training", "learning_rate", float("nan")), r"training\.learning_rate must be positive and finite, got nan"),
        (("training", "learning_rate", float("inf")), r"training\.learning_rate must be positive and finite, got inf"),
        (("training", "bias_scaler", -1), r"training\.bias_scaler must be positive and finite, got -1"),
        (("training", "momentum", 1), r"training\.momentum must lie in \[0, 1\), got 1"),
        (("training", "label_smoothing", -0.1), r"training\.label_smoothing must lie in \[0, 1\), got -0\.1"),
        (("training", "schedule_peak", 1), r"training\.schedule_peak must lie in \[0, 1\), got 1"),
        (("bank", "subsets", 2), r"bank\.subsets must be at least 3, got 2"),
        (("bank", "fraction", 0), r"bank\.fraction must lie in \(0, 1\), got 0"),
        (("bank", "fraction", 1), r"bank\.fraction must lie in \(0, 1\), got 1"),
        (("bank", "sampling", "poisson"), r"bank\.sampling must be fixed or bernoulli, got 'poisson'"),
        (("bank", "retrains", 0), r"bank\.retrains must be at least 1, got 0"),
        (("bank", "shards", 0), r"bank\.shards must be at least 1, got 0"),
        (("bank", "shards", 7), r"bank\.shards must be at most bank\.subsets \(6\), got 7"),
        (("evaluation", "resamples", 99), r"evaluation\.resamples must be at least 100, got 99"),
        (("training", "weight_decay", math.inf), r"training\.weight_decay must be finite, got inf"),
        (("training", "schedule_end", math.inf), r"training\.schedule_end must be finite, got inf"),
        (("evaluation", "top", 0), r"evaluation\.top must be at least 1, got 0"),
        (
            ("evaluation", "top", 100),
            r"evaluation\.top must be below the smallest of data\.train_sizes \(100\), got 100",
        ),
        (("evaluation", "memory_gib", 0), r"evaluation\.memory_gib must be positive and finite, or null .*, got 0"),
        (("evaluation", "memory_gib", math.inf), r"evaluation\.memory_gib must be positive and finite.*, got inf"),
        (("evaluation", "confidence", 1), r"evaluation\.confidence must lie in \(0, 1\), got 1"),
        (("evaluation", "confidence", 0), r"evaluation\.confidence must lie in \(0, 1\), got 0"),
        (("methods", {}), "methods must name at least one method"),
        (("methods", "gradsim", "damping", math.inf), r"methods\.gradsim may hold finite numbers, .* JSON compliant"),
        (("model", "width", [math.nan]), r"model may hold finite numbers, .* JSON compliant"),
        (("variance", "checkpoints", 0), r"variance\.checkpoints must be at least 1, got 0"),
        (("variance", "checkpoints", 3), r"variance\.checkpoints must be at most checkpoints \(2\), got 3"),
        (("variance", "runs", 1), r"variance\.runs must be at least 2, got 1"),
        (("variance", "methods", []), r"variance\.methods must be different methods, or null for all, got \[\]"),
        (("variance", "methods", ["random", "random"]), r"variance\.methods must be different methods"),
        (("variance", "methods", ["bif"]), r"There is no method bif for variance\.methods; there are random, gradsim"),
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path, change, message):
    path = _write(tmp_path, _changed(*change))

    with pytest.raises(ValueError, match=message):
        load_experiment(path)


def test_a_wrong_value_of_the_pretraining_is_not_blamed_on_the_training(tmp_path):
    path = _write(tmp_path, _changed("pretraining", {**EXPERIMENT["training"], "momentum": 2}))

    with pytest.raises(ValueError, match=r"tiny\.yaml: pretraining\.momentum must lie in \[0, 1\), got 2"):
        load_experiment(path)


@pytest.mark.parametrize("name", ["../evil", "a/b", "BIF", "bif-2", "_hidden", "", 3])
def test_a_name_of_a_method_that_could_leave_its_folder_is_refused(tmp_path, name):
    path = _write(tmp_path, _changed("methods", name, {"attributor": "tdabench.attributors.baselines:Random"}))

    with pytest.raises(ValueError, match="A name of a method has only a-z, 0-9 and _, got "):
        load_experiment(path)


@pytest.mark.parametrize("name", ["Tiny.yaml", "tiny-2.yaml", "tiny.old.yaml", "..yaml"])
def test_a_file_whose_name_can_name_no_folder_of_results_is_refused(tmp_path, name):
    path = _write(tmp_path, EXPERIMENT, name)

    with pytest.raises(ValueError, match="A name of a experiment has only a-z, 0-9 and _, got "):
        load_experiment(path)


@pytest.mark.parametrize("text", ["seed: 0\nseed: 1", "data: {queries: 1, queries: 2}", "a: [{b: 1, 'b': 2}]"])
def test_a_key_that_stands_twice_is_an_error(tmp_path, text):
    path = _write(tmp_path, text)

    with pytest.raises(ValueError, match=r"tiny\.yaml is not valid YAML: the key '\w+' stands twice.*line"):
        load_experiment(path)


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "a: !!python/object:os.system {}", "a: 2020-13-45"])
def test_invalid_yaml_names_the_file(tmp_path, text):
    path = _write(tmp_path, text)

    with pytest.raises(ValueError, match=r"tiny\.yaml is not valid YAML"):
        load_experiment(path)


def test_a_file_that_is_not_utf_8_names_itself(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_bytes("seed: 0  # été".encode("latin-1"))

    with pytest.raises(ValueError, match=r"tiny\.yaml is not valid YAML: .*utf-8"):
        load_experiment(path)


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b", "42"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, text):
    path = _write(tmp_path, text)

    with pytest.raises(ValueError, match=r"tiny\.yaml: The experiment must be a mapping of keys to values"):
        load_experiment(path)


def test_an_absent_file_says_where_the_built_in_ones_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no experiment file .*absent\.yaml; .* in experiments/"):
        load_experiment(tmp_path / "absent.yaml")


def test_a_folder_is_no_experiment_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no experiment file"):
        load_experiment(tmp_path)


@pytest.mark.parametrize("text", ["day: 2020-01-01", "mixed: {1: a, b: c}", "chosen: !!set {a, b}"])
def test_a_setting_that_no_record_could_hold_is_refused_before_planning(tmp_path, text):
    path = _write(tmp_path, EXPERIMENT)
    path.write_text(path.read_text() + f"\n# a plug-in's setting\nmodel:\n  builder: mine:Mine\n  {text}\n")
    path.write_text(path.read_text().replace("model:\n  builder: tdabench.models.small_cnn:SmallCNN\n  width: 4\n", ""))

    with pytest.raises(ValueError, match=r"tiny\.yaml: model\b.*(number|text)"):
        load_experiment(path)


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
        json.loads(experiment.stage_settings(stage, next(iter(experiment.methods))))


@pytest.mark.usefixtures("unchecked_types")
@given(content=YAML_VALUES)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_anything_gives_a_value_error(tmp_path, content):
    path = _write(tmp_path, yaml.safe_dump(content))

    with pytest.raises(ValueError, match=r"tiny\.yaml"):
        load_experiment(path)


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

    found = {s for s in STAGES if after.stage_settings(s, "gradsim") != before.stage_settings(s, "gradsim")}

    assert found == concerned


def test_a_change_of_one_method_concerns_no_other(tmp_path):
    changed = load_experiment(_write(tmp_path, _changed("methods", "gradsim", "damping", 0.1)))
    before = load_experiment(_write(tmp_path, EXPERIMENT))

    for stage in ("attribute", "properties"):
        assert changed.stage_settings(stage, "random") == before.stage_settings(stage, "random")


def test_every_setting_of_an_experiment_is_in_some_stage(tmp_path):
    experiment = load_experiment(_write(tmp_path, _changed("data", "mislabelled", 0.1)))
    text = " ".join(experiment.stage_settings(stage, "gradsim") for stage in STAGES)

    for section in (DataSettings, Recipe, BankSettings, EvaluationSettings, VarianceSettings):
        for field in dataclasses.fields(section):
            if field.name in ("memory_gib", "microbatch"):  # how a result is computed, not what it is
                continue
            name = {"train_sizes": "sizes", "options": "settings"}.get(field.name, field.name)
            assert f'"{name}"' in text, f"a change of {section.__name__}.{field.name} would rerun nothing"


def test_an_unknown_stage_is_an_error(tmp_path):
    experiment = load_experiment(_write(tmp_path, EXPERIMENT))

    with pytest.raises(ValueError, match="There is no stage 'attribute' \\(with method None\\)"):
        experiment.stage_settings("attribute")


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
    before = experiment.stage_settings(stage, "random")

    plug_in.write_text("class Mine: '''Edited.'''\n")

    assert experiment.stage_settings(stage, "random") != before


def test_a_built_in_class_has_no_hash_of_its_file():
    described = describe(Component(path="tdabench.attributors.baselines:Random"))

    assert described == {"path": "tdabench.attributors.baselines:Random", "settings": {}}


def test_a_plug_in_that_is_not_there_yet_can_be_described():
    described = describe(Component(path="no_such_package.module:Mine"))

    assert described["source"] is None
