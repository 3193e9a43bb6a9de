"""Experiments that ask something else than the LDS: their settings, their files, and what a change reruns."""

import json
from pathlib import Path

import pytest
import torch
from places import EXPERIMENT, PLAIN, Place, jobs, make_place
from sklearn.metrics import roc_auc_score
from test_config import _changed, _without, _write

from tdabench import cli
from tdabench.experiment.components import instantiate
from tdabench.experiment.read import load_experiment
from tdabench.experiment.sections import RemovalSettings
from tdabench.experiment.slices import stage_settings
from tdabench.runtime.machine import Machine
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_tensors
from tdabench.training.losses import image_loss

pytestmark = pytest.mark.timeout(900)  # a busy machine is no failure
REPOSITORY = Path(__file__).parents[1]
METHODS = ("gradsim", "random", "trak")
STAGES = ("dataset", "split", "train", "retrain", "attribute", "judge", "keep", "remove", "contrast", "detect")
REMOVAL = {"counts": [1, 10], "queries": 4, "retrains": 2}
# Like test_workflow's, with a method that can't run on 120 examples in the place of BIF, and no bank.
ASKING = (
    EXPERIMENT[: EXPERIMENT.index("  bif:")]
    .replace(*PLAIN)
    .replace("tuning_queries: 10", "tuning_queries: 10, mislabelled: 0.1")
    .replace(
        "bank: {subsets: 6, fraction: 0.5, retrains: 1, shards: 2}",
        "removal: {counts: [1, 10], queries: 4, retrains: 2}",
    )
    + '  trak: {attributor: "tdabench.attributors.trak:TRAK", proj_dim: 512}\nevaluation: {resamples: 100}\n'
)


# Settings


def test_the_settings_of_a_removal_arrive_in_their_place(tmp_path):
    experiment = load_experiment(_write(tmp_path, _changed("removal", {**REMOVAL, "methods": ["random"]})))

    assert experiment.removal == RemovalSettings(counts=(1, 10), queries=4, retrains=2, methods=("random",))
    assert experiment.removal_methods == ("random",)
    assert experiment.bank is not None


def test_without_named_methods_all_are_asked(tmp_path):
    asked = load_experiment(_write(tmp_path, _changed("removal", {**REMOVAL, "methods": None})))

    assert asked.removal_methods == ("random", "gradsim")
    assert load_experiment(_write(tmp_path, _changed("seed", 3))).removal_methods == ()


@pytest.mark.parametrize("question", [{"removal": REMOVAL}, {"mislabelled": 0.1}])
def test_an_experiment_needs_no_bank_if_it_asks_something_else(tmp_path, question):
    content = _without("bank")
    del content["variance"]
    content["data"] |= {key: value for key, value in question.items() if key == "mislabelled"}
    content |= {key: value for key, value in question.items() if key == "removal"}

    assert load_experiment(_write(tmp_path, content)).bank is None


def test_an_experiment_that_asks_nothing_is_refused(tmp_path):
    asked = r"give it bank, removal or a data\.mislabelled above 0, or scaling"
    with pytest.raises(ValueError, match=f"An experiment asks something: {asked}"):
        load_experiment(_write(tmp_path, _without("bank")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [0, 1]}, r"removal\.counts must be different numbers of at least 1, got \[0, 1\]"),
        ({"counts": [-5]}, r"removal\.counts must be different numbers of at least 1, got \[-5\]"),
        ({"counts": [3, 3]}, r"removal\.counts must be different numbers of at least 1, got \[3, 3\]"),
        ({"counts": []}, r"removal\.counts must be different numbers of at least 1, got \[\]"),
        ({"counts": [1, 100]}, r"removal\.counts must be below .* \(100\): nothing is left to train on without 100"),
        ({"counts": 3}, r"removal\.counts must be a list, got 3"),
        ({"counts": [2.5]}, r"removal\.counts must be of type int, got 2\.5"),
        ({"queries": 1}, r"removal\.queries must be at least 2, got 1"),
        ({"queries": 21}, r"removal\.queries must be at most data\.queries \(20\), got 21"),
        ({"retrains": 0}, r"removal\.retrains must be at least 1, got 0"),
        ({"methods": []}, r"removal\.methods must be different methods or null, got \[\]"),
        ({"methods": ["random", "random"]}, r"removal\.methods must be different methods or null, got \['random'"),
        ({"methods": ["bif"]}, r"There is no method bif for removal\.methods; there are random, gradsim"),
    ],
)
def test_a_removal_that_cannot_be_is_refused(tmp_path, change, message):
    path = _write(tmp_path, _changed("removal", {**REMOVAL, **change}))

    with pytest.raises(ValueError, match=message):
        load_experiment(path)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (-0.1, r"data\.mislabelled must lie in \[0, 1\), got -0\.1"),
        (1, r"data\.mislabelled must lie in \[0, 1\), got 1"),
        (float("nan"), r"data\.mislabelled must lie in \[0, 1\), got nan"),
        (0.009, r"A data\.mislabelled of 0\.009 of 100 examples is less than one"),
    ],
)
def test_a_share_of_wrong_labels_that_cannot_be_is_refused(tmp_path, share, message):
    path = _write(tmp_path, _changed("data", "mislabelled", share))

    with pytest.raises(ValueError, match=message):
        load_experiment(path)


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        ({"removal": {"counts": [1, 20]}}, {"remove"}),
        ({"removal": {"queries": 5}}, {"keep", "remove"}),
        ({"removal": {"retrains": 3}}, {"keep", "remove"}),
        ({"removal": {"methods": ["random"]}}, {"contrast"}),
        ({"data": {"mislabelled": 0.2}}, {"split"}),
        ({"data": {"reference": 200}}, {"train", "retrain", "attribute", "keep", "remove"}),
        ({"data": {"train_sizes": [100]}}, {"contrast", "detect"}),
        ({"training": {"epochs": 3}}, {"train", "retrain", "keep", "remove"}),
        ({"evaluation": {"resamples": 200}}, {"judge", "contrast", "detect"}),
        ({"seed": 4}, set(STAGES) - {"dataset"}),
        ({"repeats": 3}, {"contrast", "detect"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_a_change_concerns_exactly_the_stages_whose_result_depends_on_it(tmp_path, change, concerned):
    content = _changed("removal", {**REMOVAL, "methods": None})
    content["data"]["mislabelled"] = 0.1
    before = load_experiment(_write(tmp_path, content))
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    after = load_experiment(_write(tmp_path, content))

    found = {s for s in STAGES if stage_settings(after, s, "gradsim") != stage_settings(before, s, "gradsim")}

    assert found == concerned


def test_a_question_changes_no_settings_of_the_stages_that_were_there(tmp_path):
    before = load_experiment(_write(tmp_path, _changed("seed", 3)))
    after = load_experiment(_write(tmp_path, _changed("removal", REMOVAL)))

    for stage in ("dataset", "split", "train", "retrain", "attribute", "judge", "report"):
        assert stage_settings(after, stage, "random") == stage_settings(before, stage, "random")
    # Splits on disk were made before there was this key.
    assert "mislabelled" not in json.loads(stage_settings(before, "split"))


# One whole run without a bank


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    place = make_place(tmp_path_factory.mktemp("asking") / "place", ASKING)
    done = place.snakemake("--cores", "1", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done.stdout + done.stderr


@pytest.fixture(scope="module")
def asked(run: tuple[Place, str]) -> Place:
    return run[0]


def each(rule: str) -> set[str]:
    return {f"{rule} {method}" for method in METHODS}


ANSWERED = {"contrast", "detect", "report"}
SCORED = {*each("attribute"), "judge", *ANSWERED}
REMOVED = {"keep", *each("remove"), "contrast", "report"}


@pytest.mark.slow
def test_a_run_without_a_bank_makes_no_bank_and_every_job_once(run):
    place, terminal = run

    expected = {"dataset", "split", "train 0", *each("properties"), *SCORED, *REMOVED}
    assert jobs(terminal) == expected
    assert not list(place.results.rglob("lds*"))
    assert not (place.results / "0/120/bank").exists()
    judgement = load_json(place.results / "0/120/judgement.json")
    assert set(judgement) == {"record", "statuses", "agreement"}
    assert [(row["first"], row["second"]) for row in judgement["agreement"]] == [("gradsim", "random")]


def test_the_removal_table_has_its_columns_and_a_row_for_each_method_and_count(asked):
    header = asked.read("results/tiny/tables/removal.csv").splitlines()[0]

    rows = asked.table("removal.csv")
    assert header == (
        "experiment,repeat,train_size,method,count,effect,low,high,standard_error,effect_random,queries,retrains,status,"
        "overlap"
    )
    assert [(row["repeat"], row["method"], row["count"]) for row in rows] == [
        *(("0", method, count) for count in ("1", "10") for method in METHODS),
        *(("all", method, count) for count in ("1", "10") for method in METHODS),
    ]
    for row in rows:
        if row["method"] == "trak":
            assert row["effect"] == row["low"] == row["effect_random"] == ""
            assert row["status"].startswith("unsupported: TRAK needs")
        else:
            assert float(row["low"]) <= float(row["effect"]) <= float(row["high"])
            assert (row["queries"], row["retrains"], row["status"][:2]) == ("4", "2", "ok")


def test_the_removal_table_says_what_the_retrained_losses_say(asked):
    cell = asked.results / "0/120"
    losses, full = load_tensors(cell / "remove/gradsim.safetensors"), load_tensors(cell / "keep/all.safetensors")

    rows = [row for row in asked.table("removal.csv") if row["method"] == "gradsim" and row["repeat"] == "0"]

    effects = (losses["removed_loss"] - losses["matched_loss"]).double().mean(dim=(1, 2))
    random = (losses["matched_loss"] - full["loss"]).double().mean(dim=(1, 2))
    assert [float(row["effect"]) for row in rows] == pytest.approx(effects.tolist(), abs=2e-6)
    assert [float(row["effect_random"]) for row in rows] == pytest.approx(random.tolist(), abs=2e-6)
    assert losses["removed"].tolist() == [
        row.sort(descending=True, stable=True).indices[:10].tolist()
        for row in load_tensors(cell / "scores/gradsim.safetensors")["scores"][:4]
    ]


def test_pairs_of_methods_are_in_a_table_of_their_own(asked):
    rows = asked.table("removal_differences.csv")

    effects = {
        (row["repeat"], row["method"], row["count"]): float(row["effect"] or "nan")
        for row in asked.table("removal.csv")
    }
    assert [(row["repeat"], row["count"], row["method"], row["other"]) for row in rows] == [
        (repeat, count, "gradsim", "random") for repeat in ("0", "all") for count in ("1", "10")
    ]
    for row in rows:
        place = row["repeat"], row["count"]
        expected = effects[place[0], "gradsim", place[1]] - effects[place[0], "random", place[1]]
        assert float(row["difference"]) == pytest.approx(expected, abs=2e-6)
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])


def test_the_detection_table_has_its_columns_and_a_row_for_each_method_and_detector_and_the_loss(asked):
    header = asked.read("results/tiny/tables/detection.csv").splitlines()[0]

    rows = asked.table("detection.csv")
    assert header == (
        "experiment,repeat,train_size,method,detector,auc,low,high,standard_error,average_precision,mislabelled,status"
    )
    detectors = ("self_influence", "mean_helpfulness")
    expected = [*((method, detector) for method in METHODS for detector in detectors), ("loss", "loss")]
    assert [(row["method"], row["detector"]) for row in rows] == 2 * expected
    assert {row["mislabelled"] for row in rows} == {"12"}
    assert all((row["auc"] == "") == (row["method"] == "trak") for row in rows)
    assert all(row["status"].startswith("unsupported") == (row["method"] == "trak") for row in rows)


def test_self_influence_is_the_squared_length_of_each_examples_gradient_under_gradsim(asked, example_gradients):
    bench = _bench(asked)
    cell = asked.results / "0/120"
    scores = load_tensors(cell / "scores/gradsim.safetensors")

    gradients = example_gradients(bench.load_model(cell / "checkpoints/0.safetensors"), image_loss, bench.train)

    torch.testing.assert_close(scores["self_influence"].double(), gradients.square().sum(dim=1), rtol=1e-3, atol=1e-6)
    assert scores["scores"].shape == (40, 120)
    planted = torch.zeros(120, dtype=torch.bool)
    planted[bench.planted] = True
    row = next(row for row in asked.table("detection.csv") if row["method"] == "gradsim")
    area = roc_auc_score(planted.numpy(), scores["self_influence"].numpy())
    assert float(row["auc"]) == pytest.approx(area, abs=1e-6)


def test_scores_of_the_queries_are_those_of_a_method_that_sees_them_alone(asked, example_gradients):
    bench = _bench(asked)
    cell = asked.results / "0/120"
    model = bench.load_model(cell / "checkpoints/0.safetensors")

    query, train = (example_gradients(model, image_loss, part) for part in (bench.query, bench.train))

    scores = load_tensors(cell / "scores/gradsim.safetensors")["scores"]
    torch.testing.assert_close(scores.double(), query @ train.T, rtol=1e-3, atol=1e-4)


def test_a_run_draws_its_figures_and_says_where_its_tables_are(run):
    place, terminal = run
    names = {path.name for path in (place.results / "figures").iterdir()}

    figures = ("removal", "detection", "agreement", "cost")
    assert names == {f"{name}.{suffix}" for name in figures for suffix in ("png", "pdf")}
    for name in ("removal", "detection"):
        assert place.read(f"results/tiny/tables/{name}.md").strip() in terminal
        assert load_record(place.results / f"tables/{name}_record.json")["inputs"]
    assert "Page: results/tiny/report.html" in terminal


def test_the_cost_of_every_removal_is_in_the_cost_table(asked):
    rows = {(row["method"], row["phase"]): row for row in asked.table("cost.csv")}

    parts = [load_record(path)["cost"] for path in (asked.results / "0/120").glob("*/*.safetensors")
             if path.parent.name in ("keep", "remove") and path.stem != "trak"]  # fmt: skip
    assert set(rows) == {
        ("gradsim", "fit"), ("gradsim", "score"), ("random", "score"), ("trak", "score"), ("checkpoints", "train"),
        ("removal", "train"),
    }  # fmt: skip
    assert len(parts) == 3
    assert float(rows["removal", "train"]["seconds"]) == pytest.approx(
        sum(part["score"]["seconds"] for part in parts), abs=1e-3
    )
    jobs_recorded = load_json(asked.results / "tables/record.json")["jobs"]
    assert {"0/120/keep/all.safetensors", "0/120/remove/gradsim.safetensors"} <= set(jobs_recorded)


# What a change reruns


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# Real digits, as few as possible.", "# Another comment.", set()),
        ("counts: [1, 10]", "counts: [1, 20]", each("remove") | {"contrast", "report"}),
        ("retrains: 2}", "retrains: 3}", REMOVED),
        ("retrains: 2}", "retrains: 2, methods: [gradsim]}", {"contrast", "report"}),
        ("mislabelled: 0.1", "mislabelled: 0.2", {"split", "train 0", *SCORED, *REMOVED}),
        ("resamples: 100", "resamples: 200", {"judge", *ANSWERED}),
        ("proj_dim: 512", "proj_dim: 600", {"attribute trak", "properties trak", "remove trak", "judge", *ANSWERED}),
        ("removal: {", "bank: {subsets: 6, fraction: 0.5}\nremoval: {", {"retrain 0", "judge", "report"}),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_a_change_of_the_experiment_reruns_what_it_concerns_and_nothing_else(asked, old, new, expected):
    before = asked.read("experiments/tiny.yaml")
    asked.change(old, new)

    planned = asked.plan()
    asked.write("experiments/tiny.yaml", before)

    assert planned == expected


# Wrong labels and the data


def test_planted_labels_reach_the_attribution_set_and_not_the_rest_of_the_reference(asked, tmp_path):
    text = asked.read("experiments/tiny.yaml").replace("tuning_queries: 10", "tuning_queries: 10, reference: 300")
    (tmp_path / "tiny.yaml").write_text(text)
    bench = _bench(asked, tmp_path)
    pool = bench.split["pool"]

    wrong = (bench.reference["label"] != bench.data.train_labels[pool[:300]]).nonzero().flatten()

    assert wrong.tolist() == bench.planted.tolist()
    assert len(wrong) == 12
    assert bench.reference["label"][:120].equal(bench.train["label"])
    # The places go on beyond this attribution set, for larger ones.
    assert bench.split["planted"].max() > 120
    queries = torch.cat([bench.split["query"], bench.split["tuning"]])
    assert bench.query["label"].equal(bench.data.test_labels[queries])


@pytest.mark.parametrize(
    ("stage", "message"),
    [("contrast", "tiny asks for no removal: give it the key removal"), ("detect", "tiny plants no wrong")],
)
def test_a_question_that_is_not_asked_has_no_answer(tmp_path, capsys, stage, message):
    status = cli.main([stage, str(_write(tmp_path, _changed("seed", 3)))])

    assert status == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["removal_digits", "mislabelled_digits"])
def test_the_experiments_that_are_shipped_can_be_built(name):
    experiment = load_experiment(REPOSITORY / "experiments" / f"{name}.yaml")

    assert experiment.bank is None
    for key, method in experiment.methods.items():
        instantiate(method, f"methods.{key}")


def _bench(place: Place, folder: Path | None = None) -> Bench:
    experiment = load_experiment((folder or place.path / "experiments") / "tiny.yaml")
    return Bench(experiment, Cell(place.results, 0, 120), Machine(device="cpu"))
