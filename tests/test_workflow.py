"""The workflow, as a user runs it: one whole run, shared by the tests that look at it; the others change copies of it.

Each job is a process: jobs are what these tests cost. They name the rules that make a result of their own, and call
what judges results by one name.
"""

import dataclasses
import html
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import torch
from places import EXPERIMENT, METHODS, PAUSING, PLAIN, Place, jobs, make_place

from tdabench import cli
from tdabench.attributors.estimates.estimators import loss_covariance
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record, load_tensors

pytestmark = pytest.mark.timeout(900)  # a busy machine is no failure
RICH_METHODS = ("trak", "chained", "whole", *METHODS)
FIGURES = ("lds", "lds_by_repeat", "cost", "frontier", "agreement", "pairs", "diagnostics")


# One whole run


@pytest.mark.slow
def test_a_run_makes_every_job_once_and_leaves_nothing_to_do(run):
    place, terminal = run

    started = re.findall(r"^    jobid: (\d+)$", terminal, re.MULTILINE)
    assert len(started) == len(set(started)) == int(re.findall(r"of (\d+) steps", terminal)[-1])
    assert place.plan() == set()


REPEAT = "experiment,repeat,train_size"
PAIR = f"{REPEAT},first,second"
TABLES = {
    "lds": (f"{REPEAT},method,lds,low,high,standard_error,queries,nan_queries,ceiling,status", 2 * 6),
    "cost": (
        f"{REPEAT},method,phase,seconds,cpu_seconds,peak_host_bytes,peak_device_bytes,disk_bytes,device,status,passes",
        9,
    ),
    "pairs": (f"{PAIR},difference,low,high,p_value,p_holm,bootstrap_low,bootstrap_high", 2 * 10),
    "reliability": (
        f"{REPEAT},retrains,subsets,agreement,agreement_low,agreement_high,ceiling,ceiling_low,ceiling_high,"
        "diverged_retrains,oracle,oracle_low,oracle_high",
        2,
    ),
    "null": (f"{REPEAT},method,null_low,null_high,p_value", 6),
    "variance": (f"{REPEAT},method,source,standard_deviation,share", 2 * 5 * 5),
    "ranking": (f"{REPEAT},method,lds,group,share_of_ceiling,share_low,share_high", 2 * 5),
    "agreement": (
        f"{PAIR},rank_correlation,rank_low,rank_high,overlap,overlap_low,overlap_high,top,queries,harmful_overlap,"
        "harmful_low,harmful_high,nan_queries",
        2 * 10,
    ),
    "properties": ("experiment,method,property,holds,measured,how,title", 6 * 6),
    "growth": (
        f"{REPEAT},method,chains,draws,passes,cpu_seconds,lds,low,high,standard_error,queries,nan_queries",
        2 * 2,
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_its_columns_and_every_row(finished, name):
    header, rows = TABLES[name]

    assert finished.read(f"results/tiny/tables/{name}.csv").splitlines()[0] == header
    assert len(finished.table(f"{name}.csv")) == rows


def test_a_method_that_cannot_run_says_why_and_has_no_number_and_no_part_in_a_comparison(finished):
    for row in finished.rows("trak"):
        assert row["lds"] == row["low"] == row["high"] == row["standard_error"] == ""
        assert re.match(r"unsupported: TRAK needs .*120", row["status"])
    for method in {*RICH_METHODS} - {"trak"}:
        one, over_repeats = finished.rows(method)
        assert float(one["low"]) <= float(one["lds"]) <= float(one["high"])
        assert over_repeats["lds"] == one["lds"]
    assert not [
        row for name in ("pairs", "agreement") for row in finished.table(f"{name}.csv") if "trak" in row.values()
    ]
    assert [row["p_value"] for row in finished.rows("trak", "null.csv")] == [""]
    assert "Not run, Hessian-free of TRAK: TRAK needs a proj_dim" in finished.read("results/tiny/tables/properties.md")


def test_retrains_that_diverge_are_kept_as_nan_and_counted(finished):
    shards = [load_tensors(finished.results / f"0/120/bank/{shard}.safetensors") for shard in range(2)]

    diverged = [shard["loss"].isnan().any(dim=2) for shard in shards]

    count = sum(int(one.sum()) for one in diverged)
    assert 0 < count < 6, "choose another seed for this test"
    for shard, one in zip(shards, diverged, strict=True):
        assert shard["loss"].isnan().all(dim=2).equal(one)
        assert shard["margin"].isnan().all(dim=2).equal(one)
    assert re.match(rf"ok; {count} (of 12 )?retrained models diverged", finished.rows("random")[0]["status"])
    assert {row["diverged_retrains"] for row in finished.table("reliability.csv")} == {str(count)}


def test_the_bank_has_every_subset_once(finished):
    shards = [load_tensors(finished.results / f"0/120/bank/{shard}.safetensors") for shard in range(2)]

    assert [tuple(shard["masks"].shape) for shard in shards] == [(3, 120)] * 2
    assert [tuple(shard["loss"].shape) for shard in shards] == [(3, 2, 40)] * 2
    masks = torch.cat([shard["masks"] for shard in shards])
    assert len(masks.unique(dim=0)) == 6
    assert masks.sum(dim=1).tolist() == [60] * 6


def test_a_chain_that_diverges_leaves_the_others_their_scores_and_one_warning(finished):
    cell = finished.results / "0/120"
    chains = [load_tensors(cell / f"chains/chained-{chain}.safetensors") for chain in range(2)]

    scores = load_tensors(cell / "scores/chained.safetensors")["scores"]

    assert not (chains[1]["train"].abs() < 1e6).all()
    torch.testing.assert_close(scores, loss_covariance(chains[0]["query"][None], chains[0]["train"][None]).float())
    assert re.match(
        r"ok; warning: BIF chains \[1\] of 2 diverged and are left out: lower step_size \(0\.0001\)\.; "
        r"warning: [a-z ,]*few effective draws[a-z ,]* \(see diagnostics\); \d",
        finished.rows("chained")[0]["status"],
    )


def test_a_method_with_chains_of_its_own_is_run_whole(finished):
    scores = load_tensors(finished.results / "0/120/scores/whole.safetensors")["scores"]

    generator = make_generator(0, "attribute", 0, 120, "whole")
    torch.testing.assert_close(scores, torch.rand(2, 40, 120, generator=generator).mean(dim=0))


def test_what_other_random_numbers_do_to_the_lds_stands_in_the_table_of_variances(finished):
    varied = load_tensors(finished.results / "0/120/vary/random.safetensors")
    scores = load_tensors(finished.results / "0/120/scores/random.safetensors")["scores"]

    rows = {row["source"]: row for row in finished.rows("random", "variance.csv") if row["repeat"] == "all"}
    runs = [scores, varied["scores-0-1"], varied["scores-0-2"]]
    assert len(varied) == 2
    assert len({tuple(values.flatten().tolist()) for values in runs}) == 3
    assert float(rows["sampler"]["standard_deviation"]) > 0
    assert rows["checkpoint"]["standard_deviation"] == rows["checkpoint"]["share"] == ""
    assert sum(float(row["share"] or 0) for row in rows.values()) == pytest.approx(1, abs=1e-5)


def test_the_cost_of_a_method_has_its_phases_and_is_that_of_its_chains_and_of_its_scores(finished):
    rows = {(row["method"], row["phase"]): row for row in finished.table("cost.csv") if row["phase"]}
    chains = [load_record(finished.results / f"0/120/chains/bif-{n}.safetensors")["cost"]["score"] for n in range(2)]

    phases = {("gradsim", "fit"), ("gradsim", "score"), ("bif", "score"), ("bank", "train"), ("checkpoints", "train")}
    assert phases <= set(rows)
    measured = [row for row in rows.values() if row["method"] != "trak"]
    assert all(float(row["seconds"]) >= 0 and float(row["peak_host_bytes"]) > 0 for row in measured)
    assert {row["device"] for row in measured} == {"cpu, 1 thread(s)"}
    assert float(rows["bif", "score"]["cpu_seconds"]) > sum(chain["cpu_seconds"] for chain in chains) > 0
    assert rows["gradsim", "score"]["passes"] == str(3 * (120 + 40))
    assert (rows["random", "score"]["passes"], rows["bank", "train"]["passes"]) == ("0", "")


def test_agreement_properties_growth_and_diagnostics_say_what_is_known_of_these_methods(finished):
    agreement = {(row["first"], row["second"]): row for row in finished.table("agreement.csv")}
    holds = {(row["method"], row["property"]): row["holds"] for row in finished.table("properties.csv")}
    growth = [row for row in finished.rows("bif", "growth.csv") if row["repeat"] == "0"]
    (diagnosed,) = finished.rows("bif", "diagnostics.csv")

    assert float(agreement["gradsim", "bif"]["rank_correlation"]) > 0.1
    assert abs(float(agreement["gradsim", "random"]["rank_correlation"])) < 0.1
    for name in ("higher_order", "architecture_agnostic"):
        assert (holds["bif", name], holds["gradsim", name]) == ("yes", "no")
    assert [row["draws"] for row in growth] == ["4", "5"]
    assert growth[-1].items() >= {name: finished.rows("bif")[0][name] for name in ("lds", "low", "high")}.items()
    assert (diagnosed["draws"], diagnosed["train_size"]) == ("5", "120")
    page = html.unescape(finished.read("results/tiny/report.html"))
    assert diagnosed["warning"].startswith("R-hat is above 1.05")
    assert "R-hat is above 1.05" in page  # grouped with the like warnings of other methods
    assert "BIF (repeat 0, n = 120): ok; warning" not in page


def test_a_run_prints_the_table_and_writes_figures_a_page_and_the_tables_for_a_paper(run):
    place, terminal = run
    markdown = place.read("results/tiny/tables/lds.md")
    page = place.read("results/tiny/report.html")

    starts = {path.name: path.read_bytes()[:4] for path in (place.results / "figures").iterdir()}

    assert markdown.strip() in terminal
    assert all(text in markdown for text in ("LDS, n = 120", *(f"| {method}" for method in RICH_METHODS)))
    kinds = ((".png", b"\x89PNG"), (".pdf", b"%PDF"))
    assert starts == {f"{name}{end}": start for name in FIGURES for end, start in kinds}
    assert page.count("data:image/png;base64,") == len(
        FIGURES
    )  # one repeat has no figure by repeat, but the images have
    assert all(label in page for label in ("GradSim", "random", "BIF", "Query 1: label 0"))
    assert len(page) < 3_000_000
    tables = {path.name for path in (place.results / "tables").iterdir()}
    assert {f"{name}.{suffix}" for name in ("lds", "cost", "properties") for suffix in ("csv", "md", "tex")} <= tables
    assert "\\textbf{" in place.read("results/tiny/tables/lds.tex")


def test_every_result_has_a_record_and_nothing_partial_is_left(finished):
    files = [path for path in finished.results.rglob("*") if path.is_file() and "workspace" not in path.parts]

    records = {
        path.relative_to(finished.results).as_posix(): load_record(path)
        for path in files
        if path.suffix in (".safetensors", ".json")
    }
    assert len(records) > 20
    assert all({"settings", "versions", "commit", "inputs"} <= set(record) for record in records.values())
    assert records["0/120/scores/bif.safetensors"]["settings"]["training"]["epochs"] == 2
    assert not [path for path in files if "partial" in path.name]


# What a change reruns

ONES = {
    "dataset",
    "split",
    "train",
    "retrain",
    "sample",
    "attribute",
    "properties",
    "vary",
    "tokens",
    "pages",
    "report",
}


def named(planned: set[str]) -> set[str]:
    """Call every job that judges, whatever its rule and its method, by one name."""
    return {job if job.split()[0] in ONES else "judge" for job in planned}


def each(rule: str, *names: str | int) -> set[str]:
    return {f"{rule} {name}" for name in names}


JUDGED = {"judge", "report"}
BANK = each("retrain", 0, 1)
CHAINS = each("sample", *(f"{method} {chain}" for method in ("chained", "whole", "bif") for chain in range(2)))
SCORED = {*CHAINS, *each("attribute", *RICH_METHODS), "vary random", *JUDGED}
MODELS = {"train 0", *BANK, *SCORED}
PROPERTIES = each("properties", *RICH_METHODS)
BIF = {"attribute bif", "properties bif"}
SECOND = 'methods:\n  second: {attributor: "tdabench.attributors.baselines:Random"}\n'


@pytest.fixture(scope="module")
def planned(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return finished.copy(tmp_path_factory.mktemp("planned") / "place")


@pytest.fixture
def place(planned: Place) -> Iterator[Place]:
    """Return a finished folder for dry runs; its experiment and model are put back afterwards."""
    names = ("experiments/tiny.yaml", "pausing.py")
    before = {name: planned.read(name) for name in names}
    yield planned
    for name in names:
        planned.write(name, before[name])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# Real digits, as few as possible.", "# Another comment, at another time.", set()),
        ("fraction: 0.5", "fraction: 0.4", BANK | JUDGED),
        ("epochs: 2", "epochs: 3", MODELS),
        ("step_size: 1e-4", "step_size: 2e-4", each("sample", "bif 0", "bif 1") | BIF | JUDGED),
        ("    chains: 2", "    chains: 3", {"sample bif 2"} | BIF | JUDGED),
        ("resamples: 100", "resamples: 200", JUDGED),
        ("resamples: 100", "resamples: 100, top: 5", JUDGED),
        (" queries: 30", " queries: 31", {"split"} | MODELS),
        ("digits:Digits", "cifar10:CIFAR10", {"dataset", "split"} | MODELS),
        ("checkpoints: 1\ndata", "checkpoints: 2\ndata", {"train 1"} | SCORED | PROPERTIES),
        ("[120]", "[120, 100]", {re.sub(r"^(\w+)", r"\1 100", job) for job in MODELS - JUDGED} | JUDGED),
        ("methods:\n  t", SECOND + "  t", {"attribute second", "properties second"} | JUDGED),
        ('  whole: {attributor: "whole:Whole", chains: 2}\n', "", JUDGED),
        ("evaluation: {", "tokens: {queries: 2, top: 3, methods: [bif]}\nevaluation: {", {"tokens bif", "pages"}),
    ],
    ids=lambda value: value.strip().partition("\n")[0][:40] if isinstance(value, str) else "",
)
def test_a_change_of_the_experiment_reruns_what_it_concerns_and_nothing_else(place, old, new, expected):
    place.change(old, new)

    assert named(place.plan()) == expected


def test_a_part_of_the_report_that_is_lost_is_made_again_from_the_results_and_an_edited_model_trained_again(place):
    content = (place.results / "report.html").read_bytes()
    (place.results / "report.html").unlink()
    lost = place.plan()
    (place.results / "report.html").write_bytes(content)
    place.write("pausing.py", PAUSING + "\n# Edited.\n")

    assert lost == {"report"}
    assert named(place.plan()) == MODELS


TEXT = """\
seed: 0
repeats: 1
checkpoints: 1
data:
  source: "tdabench.data.sources:TextFiles"
  options: {files: [story.txt], separator: "\\n", length: 8, vocabulary: 300}
  train_sizes: [120]
  queries: 20
model: {builder: "tdabench.models.gpt_neox:Pythia", hidden_size: 8, layers: 1, heads: 1, vocabulary: 300, positions: 8}
training: {optimizer: adamw, epochs: 1, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 6, fraction: 0.5, retrains: 1, shards: 2}
methods: {random: {attributor: "tdabench.attributors.baselines:Random"}}
"""


@pytest.mark.slow
def test_a_text_that_is_edited_is_tokenised_again(tmp_path):
    place = make_place(tmp_path / "place", TEXT)
    lines = [f"Line {number} of a story: {number**5} words, and no end.\n" for number in range(200)]
    place.write("data/story.txt", "".join(lines))
    done = place.snakemake("--cores", "1", "results/tiny/dataset.safetensors")
    assert done.returncode == 0, done.stderr
    (place.path / "data").rename(place.path / "elsewhere")  # as if TDABENCH_DATA had been forgotten
    before = place.plan()
    (place.path / "elsewhere").rename(place.path / "data")

    place.write("data/story.txt", "".join(lines).replace("Line 7 ", "Line seven "))

    assert place.plan() - before == {"dataset"}
    # One that is damaged is no reason not to plan: the job that reads it puts it aside.
    (place.results / "dataset.safetensors").write_bytes(b"cut")
    assert "train 0" in place.plan()


def test_a_clone_that_comes_with_tables_still_runs_the_experiment(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    shutil.rmtree(place.path / ".snakemake")
    for path in place.results.iterdir():
        if path.name not in ("tables", "figures", "report.html"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    assert named(place.plan()) == {"dataset", "split"} | MODELS | PROPERTIES


def test_results_that_were_copied_are_taken_as_they_are_once_they_are_touched(finished, tmp_path):
    place = Place(tmp_path / "place")
    shutil.copytree(finished.path, place.path, copy_function=shutil.copy, ignore=shutil.ignore_patterns(".snakemake"))
    names = [path for path in sorted(place.results.rglob("*.safetensors")) if "workspace" not in path.parts]
    for age, path in enumerate(names):  # in an order that is no order of making: cp's is the folder's
        os.utime(path, (1e9 + age, 1e9 + age))
    copied = place.plan()

    touched = place.snakemake("--touch", "--forceall", "tiny")
    planned = place.plan()
    place.change("localization: 1000", "localization: 999")

    assert "split" in copied
    assert touched.returncode == 0, touched.stderr
    assert planned == set()
    assert "attribute bif" in place.plan()
    assert "retrain 0" not in place.plan()


# Plug-ins: a method of one's own, and one with a fault

MINE = """\
import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine:
    "Similar images of one class help each other."
    scale: float = 1.0

    def attribute(self, problem, *, generator):
        query, train = (part["image"].flatten(1) for part in (problem.query, problem.train))
        same = problem.query["label"][:, None] == problem.train["label"]
        return self.scale * (query @ train.T) * same
"""
BROKEN = """\
class Broken:
    def attribute(self, problem, *, generator):
        raise RuntimeError("the plug-in has a fault")
"""


@dataclasses.dataclass(frozen=True)
class Extended:
    """A finished folder to which two methods were added: a run with the faulty one, then one without it."""

    place: Place
    with_fault: subprocess.CompletedProcess[str]
    without: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def extended(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Extended:
    place = finished.copy(tmp_path_factory.mktemp("extended") / "place")
    place.write("mine.py", MINE)
    place.write("broken.py", BROKEN)
    place.change(
        "methods:\n  t",
        'methods:\n  mine: {attributor: "mine:Mine", scale: 2}\n  broken: {attributor: "broken:Broken"}\n  t',
    )
    # The faulty one first: what comes after it shows that the others go on.
    first = ["--prioritize", "results/tiny/0/120/scores/broken.safetensors"]
    with_fault = place.snakemake("--cores", "1", *first, "--", "tiny")
    place.change('  broken: {attributor: "broken:Broken"}\n', "")
    return Extended(place, with_fault, place.snakemake("--cores", "1", "tiny"))


@pytest.mark.slow
def test_a_method_of_ones_own_is_a_file_and_a_line_and_reruns_no_other(extended, finished):
    ran = named(jobs(extended.with_fault.stdout + extended.with_fault.stderr))
    one, over_repeats = extended.place.rows("mine")
    record = load_record(extended.place.results / "0/120/scores/mine.safetensors")
    extended.place.write("mine.py", MINE + "\n# Edited.\n")
    edited = named(extended.place.plan())
    extended.place.write("mine.py", MINE)

    assert extended.without.returncode == 0
    assert ran - {"judge"} == each("attribute", "mine", "broken") | each("properties", "mine", "broken")
    assert named(jobs(extended.without.stdout + extended.without.stderr)) == JUDGED
    assert edited == {"attribute mine", "properties mine"} | JUDGED
    assert one["status"].startswith("ok")
    assert float(one["low"]) <= float(one["lds"]) <= float(one["high"])
    assert over_repeats["lds"] == one["lds"]
    assert record["method"].items() >= {"path": "mine:Mine", "settings": {"scale": 2}}.items()
    assert record["attributor"] == {"scale": 2.0}
    for method in RICH_METHODS:
        assert extended.place.rows(method) == finished.rows(method)


def test_a_method_with_a_fault_leaves_the_others_finished_and_names_its_error(extended):
    terminal = extended.with_fault.stdout + extended.with_fault.stderr
    log = "results/tiny/0/120/logs/attribute-broken.log"

    assert extended.with_fault.returncode != 0
    assert terminal.index("method=broken") < terminal.index("method=mine")
    assert {path.stem for path in (extended.place.results / "0/120/scores").iterdir()} == {*RICH_METHODS, "mine"}
    assert log in terminal
    assert "RuntimeError: the plug-in has a fault" in extended.place.read(log)
    assert "broken.py" in extended.place.read(log)


# Mistakes


def test_an_unknown_key_of_a_method_stops_the_run_before_anything_is_trained(tmp_path):
    place = make_place(tmp_path / "place", EXPERIMENT.replace("strategy: identity", "strategy: identity, dampening: 1"))

    done = place.snakemake("--cores", "1", "tiny")

    terminal = done.stdout + done.stderr
    assert done.returncode != 0
    assert "methods.gradsim.dampening" in terminal
    assert "Traceback" not in terminal
    assert not list(place.results.rglob("*.safetensors"))


def test_a_mistake_in_an_experiment_stops_its_plan_alone_and_names_the_file_and_the_key(place):
    place.write("experiments/another.yaml", "nonsense")
    other = place.plan()
    (place.path / "experiments/another.yaml").unlink()
    place.change("fraction: 0.5", "fraction: 5")

    done = place.snakemake("-n", "tiny")

    assert other == set()
    assert done.returncode != 0
    assert "experiments/tiny.yaml: bank.fraction must lie in (0, 1), got 5" in done.stdout + done.stderr


def test_a_checkpoint_that_diverges_is_a_clear_error(tmp_path):
    place = make_place(tmp_path / "place", EXPERIMENT.replace("adamw", "sgd"))
    place.change("learning_rate: 0.01", "learning_rate: 1e30")

    done = place.snakemake("--cores", "1", "results/tiny/0/120/checkpoints/0.safetensors")

    assert done.returncode != 0
    assert "Checkpoint 0 diverged: lower training.learning_rate (1e+30)" in done.stdout + done.stderr
    assert not list((place.results / "0/120").rglob("*.safetensors"))


def test_absent_data_without_a_network_names_the_folder_the_download_and_the_way_out(tmp_path, monkeypatch, capsys):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    experiment = tmp_path / "cifar.yaml"
    experiment.write_text(EXPERIMENT.replace("digits:Digits", "cifar10:CIFAR10").replace(*PLAIN))
    monkeypatch.chdir(tmp_path)

    status = cli.main(["dataset", str(experiment), "--data", str(tmp_path / "empty")])

    error = capsys.readouterr().err
    assert status == 1
    assert f"CIFAR-10 is not in {tmp_path}/empty/cifar-10-batches-py" in error
    assert "downloading it from https://www.cs.toronto.edu/" in error
    assert "--data or TDABENCH_DATA" in error
    assert "lds_digits needs no download" in error
    assert not (tmp_path / "results").exists()
