"""What the rules ask for: the files of a pattern, and the settings that a job is planned with."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.io import flag
from snakemake.iocontainers import Wildcards

from tdabench.experiment.read import load_experiment
from tdabench.planning.costs import QUANTITIES, Costs
from tdabench.planning.settings import hash_settings
from tdabench.storage.records import save_json
from tdabench.workflow import inputs

REPOSITORY = Path(__file__).parents[2]
EXPERIMENT = """\
seed: 0
repeats: 2
checkpoints: 2
data: {source: "tdabench.data.digits:Digits", train_sizes: [60, 90], queries: 8, tuning_queries: 2}
model: {builder: "tdabench.models.small_cnn:SmallCNN", width: 4}
training: {optimizer: adamw, epochs: 1, batch_size: 32, learning_rate: 0.005, weight_decay: 0.01}
bank: {subsets: 4, fraction: 0.5, shards: 2}
sweep: {method: bif, grid: {step_size: [1e-4, 1e-5]}}
variance: {checkpoints: 1, runs: 2, methods: [random]}
methods:
  random: {attributor: "tdabench.attributors.baselines:Random"}
  bif: {attributor: "tdabench.attributors.bif:BIF", step_size: auto, chains: 2, draws: 3, localization: 1}
"""
WHERE = {"experiment": "tiny", "repeat": "1", "train_size": "60"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with the experiment ``tiny``; return a function that writes it, with a text replaced."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()

    def write(old: str = "", new: str = "") -> None:
        assert not old or EXPERIMENT.count(old) == 1
        Path("experiments/tiny.yaml").write_text(EXPERIMENT.replace(old, new) if old else EXPERIMENT)
        for function in (inputs.experiment_of, inputs._hash):  # a plan is a process of its own
            function.cache_clear()

    write()
    yield write
    write()


def _ask(function, **wildcards):
    return function(Wildcards(fromdict=wildcards))


def _shipped(names, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    inputs.experiment_of.cache_clear()
    return names


# Files


def test_a_pattern_ranges_over_all_that_the_job_leaves_open(here):
    scores = inputs.every("{experiment}/{repeat}/{train_size}/{method}")

    assert _ask(scores, **WHERE) == ["tiny/1/60/random", "tiny/1/60/bif"]
    assert _ask(scores, experiment="tiny", method="bif") == [
        f"tiny/{repeat}/{size}/bif" for repeat in (0, 1) for size in (60, 90)
    ]
    assert _ask(inputs.every("{checkpoint}"), experiment="tiny") == ["0", "1"]
    assert _ask(inputs.every("{point}"), experiment="tiny") == ["step_size=0.0001", "step_size=1e-05"]


def test_a_pattern_ranges_over_what_is_asked_for_and_over_nothing_where_it_is_not(here):
    varied = inputs.every("{repeat}/{method}", method=lambda experiment: experiment.varied_methods)

    assert _ask(varied, experiment="tiny", repeat="0") == ["0/random"]
    assert _ask(inputs.every("{method}", when=lambda experiment: experiment.repeats == 1), experiment="tiny") == []


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("lds_digits", []),
        ("removal_digits", ["removal"]),
        ("mislabelled_digits", ["detection"]),
        ("sweep_bif_text", ["sweep"]),
        ("scaling_pythia", ["scaling"]),
    ],
)
def test_a_page_waits_for_the_answers_to_what_its_experiment_asks(monkeypatch, name, answers):
    _shipped(name, monkeypatch)

    assert _ask(inputs.answers_of, experiment=name) == [f"results/{name}/tables/{answer}.csv" for answer in answers]


@pytest.mark.parametrize(
    ("name", "scores", "pages"), [("lds_digits", 3 * 2 * 9, 0), ("lds_text", 10, 1), ("scaling_pythia", 0, 0)]
)
def test_a_target_is_the_page_with_every_score_behind_it_and_the_pages_of_tokens(monkeypatch, name, scores, pages):
    _shipped(name, monkeypatch)

    page, *others = _ask(inputs.targets_of(name))

    assert page == f"results/{name}/report.html"
    assert sum("/scores/" in path for path in others) == scores
    assert [path for path in others if "/scores/" not in path] == [f"results/{name}/tokens/0-400"] * pages


def test_a_job_asks_for_the_parts_that_its_method_has(here):
    folder = "results/tiny/1/60"

    assert _ask(inputs.chains_of, **WHERE, method="bif") == [f"{folder}/chains/bif-{n}.safetensors" for n in (0, 1)]
    assert _ask(inputs.chains_of, **WHERE, method="random") == []
    assert _ask(inputs.calibration_of, **WHERE, method="bif") == [f"{folder}/calibrate/bif.json"]
    assert _ask(inputs.calibration_of, **WHERE, method="random") == []


def test_only_what_starts_from_pretrained_weights_asks_for_them(here):
    before = _ask(inputs.pretrained_of, experiment="tiny")

    recipe = "{optimizer: adamw, epochs: 1, batch_size: 8, learning_rate: 0.01, weight_decay: 0}"
    here("sweep:", f"pretraining: {recipe}\nsweep:")

    assert before == []
    assert _ask(inputs.pretrained_of, experiment="tiny") == ["results/tiny/pretrained.safetensors"]


# Banks


def test_a_bank_with_a_number_of_shards_is_not_measured(here):
    paths = inputs.bank_of(None)

    assert _ask(paths, **WHERE) == [f"results/tiny/1/60/bank/{shard}.safetensors" for shard in (0, 1)]
    assert len(_ask(paths, experiment="tiny")) == 2 * 2 * 2
    assert _ask(inputs.costs_of, **WHERE) == []


def test_a_bank_that_is_cut_by_its_cost_waits_for_what_is_measured(here):
    here("shards: 2", "shards: auto")
    waited = []
    measure = SimpleNamespace(get=lambda experiment: waited.append(experiment))
    constant = {
        kind: {name: {"one": seconds} for name in QUANTITIES} for kind, seconds in (("train", 200.0), ("loss", 0.0))
    }
    costs = Path("results/tiny/measure/costs.json")
    save_json(costs, dataclasses.asdict(Costs(3.0, "cpu", constant)), {})

    paths = _ask(inputs.bank_of(measure), **WHERE)
    _ask(inputs.settings_of("retrain", measure), **WHERE)

    assert [Path(path).stem for path in paths] == ["0", "1"]  # three subsets take ten minutes
    assert waited == ["tiny", "tiny"]
    assert _ask(inputs.costs_of, **WHERE) == flag(str(costs), "ancient")
    here("bank: {subsets: 4, fraction: 0.5, shards: 2}\nsweep: {method: bif, grid: {step_size: [1e-4, 1e-5]}}\n"
         "variance: {checkpoints: 1, runs: 2, methods: [random]}",
         "removal: {counts: [1], queries: 2, retrains: 1}")  # fmt: skip
    assert _ask(inputs.bank_of(measure), **WHERE) == []


# Settings


def test_the_settings_of_a_job_are_those_that_its_command_compares(here):
    experiment = load_experiment("experiments/tiny.yaml")

    planned = _ask(inputs.settings_of("attribute"), **WHERE, method="bif")

    assert planned == hash_settings(experiment, "attribute", method="bif", train_size=60)
    assert len(planned) == 16


@pytest.mark.parametrize(
    ("stage", "wildcards", "same", "other"),
    [
        ("attribute", {"method": "bif"}, ("fraction: 0.5", "fraction: 0.4"), ("draws: 3", "draws: 4")),
        ("attribute", {"method": "random"}, ("draws: 3", "draws: 4"), ("seed: 0", "seed: 1")),
        ("sample", {"method": "bif"}, ("chains: 2", "chains: 3"), ("draws: 3", "draws: 4")),
        (
            "sweep",
            {"point": "step_size=0.0001"},
            ("1e-4, 1e-5", "1e-4, 1e-6"),
            ("localization: 1}", "localization: 2}"),
        ),
        ("retrain", {}, ("draws: 3", "draws: 4"), ("fraction: 0.5", "fraction: 0.4")),
        ("judge", {}, ("fraction: 0.5", "fraction: 0.4"), ("seed: 0", "seed: 1")),
        ("report", {}, ("seed: 0", "seed: 1"), ("[60, 90]", "[60, 80]")),
    ],
)
def test_an_edit_changes_the_settings_of_the_jobs_that_it_concerns(here, stage, wildcards, same, other):
    found = []
    for change in ((), same, other):
        here(*change)
        found.append(_ask(inputs.settings_of(stage), **WHERE, **wildcards))

    before, unconcerned, concerned = found
    assert before == unconcerned != concerned


def test_the_experiment_of_a_stages_name_has_no_target_and_is_told_of(here, caplog):
    shutil.copy("experiments/tiny.yaml", "experiments/sweep.yaml")

    assert inputs.experiment_names() == ["tiny"]
    assert caplog.messages == ["experiments/sweep.yaml has no target: a stage has its name. Rename the file."]


@pytest.mark.parametrize("suffix", [".yml", ".YAML"])
def test_an_experiment_with_another_suffix_has_no_target_and_the_remedy_is_told(here, caplog, suffix):
    here()
    Path("experiments/mine").with_suffix(suffix).write_text(EXPERIMENT)
    shutil.copy("experiments/tiny.yaml", "experiments/tiny.yml")  # beside the one that counts: perhaps an old one
    Path("experiments/notes.txt").touch()

    assert inputs.experiment_names() == ["tiny"]
    assert caplog.messages == [f"experiments/mine{suffix} has no target: rename it to mine.yaml."]


def test_the_experiment_that_a_command_finds_as_yml_only_is_told_of(here):
    Path("experiments/mine.yml").write_text(EXPERIMENT)

    with pytest.raises(
        FileNotFoundError, match=r"experiments/mine\.yaml; rename experiments/mine\.yml to mine\.yaml\."
    ):
        load_experiment("experiments/mine.yaml")


def test_the_home_folder_of_the_datas_place_is_found(here, monkeypatch):
    text = EXPERIMENT.replace(
        '"tdabench.data.digits:Digits"', '"tdabench.data.sources:TextFiles", options: {files: [text.txt]}'
    )
    Path("experiments/tiny.yaml").write_text(text)
    Path("mine").mkdir()
    Path("mine/text.txt").write_text("a text")
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setenv("TDABENCH_DATA", "~/mine")

    assert list(inputs.named_files(SimpleNamespace(experiment="tiny"))) == ["text.txt"]
