"""The workflow, as a user runs it: a small experiment in a folder of its own.

One whole run (``finished``) is shared; the tests that change something work on copies of its folder, which keep times
and Snakemake's records. Each job is a process that imports torch, so that jobs are what these tests cost.
"""

import csv
import dataclasses
import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tdabench import cli
from tdabench.attributors.estimates.estimators import loss_covariance
from tdabench.experiment.read import load_experiment
from tdabench.questions.lds.tables import read_lds
from tdabench.seeds import make_generator
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_tensors, save_tensors

pytestmark = pytest.mark.timeout(900)  # a busy machine is no failure
REPOSITORY = Path(__file__).parents[1]
METHODS = ("gradsim", "random", "bif")
EXPERIMENT = """\
# Real digits, as few as possible.
seed: 0
repeats: 1
checkpoints: 1
data: {source: "tdabench.data.digits:Digits", train_sizes: [120], queries: 30, tuning_queries: 10}
model: {builder: "pausing:PausingCNN", width: 4}
training: {optimizer: adamw, epochs: 2, batch_size: 32, learning_rate: 0.01, weight_decay: 0.01}
bank: {subsets: 6, fraction: 0.5, retrains: 1, shards: 2}
methods:
  gradsim: {attributor: "tdabench.attributors.kronfluence:Kronfluence", strategy: identity}
  random: {attributor: "tdabench.attributors.baselines:Random"}
  bif:
    attributor: "tdabench.attributors.bif:BIF"
    step_size: 1e-4
    inverse_temperature: 100
    localization: 1000
    chains: 2
    draws: 5
evaluation: {resamples: 100}
"""
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
# A model of one's own, which waits in mid-bank as long as there is a file PAUSE: a test can stop a job right there.
PAUSING = """\
import dataclasses
import os
import time
from pathlib import Path

from tdabench.models.small_cnn import SmallCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class PausingCNN:
    width: int

    def build(self, images, *, generator):
        done = Path(f"built-by-{os.getpid()}")
        deadline = time.monotonic() + 60
        while Path("PAUSE").exists() and done.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if Path("PAUSE").exists():
            done.touch()
        return SmallCNN(width=self.width).build(images, generator=generator)
"""
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
# A method with chains, the second of which fails as it is told, until there is a file MENDED.
CHAINED = """\
import dataclasses
import os
import signal
from pathlib import Path

import torch

from tdabench.attributors.bif import BIF
from tdabench.attributors.sampling.chains import chain_generator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chained:
    chains: int
    fault: str

    def attribute(self, problem, *, generator):
        chains = [self.sample_chain(problem, chain, generator=generator) for chain in range(self.chains)]
        return self.score_chains(chains, problem)

    def sample_chain(self, problem, chain, *, generator):
        if chain == 1 and self.fault == "kill" and not Path("MENDED").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if chain == 1 and self.fault == "raise" and not Path("MENDED").exists():
            raise RuntimeError("the chain has a fault")
        step_size = 1e9 if chain == 1 and self.fault == "diverge" else 1e-4
        return self._bif(step_size).sample_chain(problem, chain, generator=generator)

    def score_chains(self, chains, problem):
        return self._bif(1e-4).score_chains(chains, problem)

    def _bif(self, step_size):
        settings = {"inverse_temperature": 100.0, "localization": 1000.0, "chains": self.chains, "draws": 5}
        return BIF(step_size=step_size, **settings)
"""
# A method with a number of chains that are no business of the workflow's.
WHOLE = """\
import dataclasses

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
    chains: int

    def attribute(self, problem, *, generator):
        shape = self.chains, len(problem.query["label"]), len(problem.train["label"])
        return torch.rand(shape, generator=generator).mean(dim=0)
"""
BROKEN = """\
class Broken:
    def attribute(self, problem, *, generator):
        raise RuntimeError("the plug-in has a fault")
"""
# A model of which some start as NaN: a stand-in for training runs that diverge now and then.
FRAGILE = """\
import dataclasses

import torch

from tdabench.models.small_cnn import SmallCNN


@dataclasses.dataclass(frozen=True, kw_only=True)
class FragileCNN:
    broken: float

    def build(self, images, *, generator):
        model = SmallCNN(width=4).build(images, generator=generator)
        if torch.rand((), generator=generator) < self.broken:
            torch.nn.init.constant_(model[0].weight, torch.nan)
        return model
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder with the Snakefile, the profiles and an experiment."""

    path: Path

    @property
    def results(self) -> Path:
        return self.path / "results" / "tiny"

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text, encoding="utf-8")

    def change(self, old: str, new: str, name: str = "experiments/tiny.yaml") -> None:
        text = self.read(name)
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        self.write(name, text.replace(old, new))

    def copy(self, path: Path) -> "Place":
        shutil.copytree(self.path, path)
        return Place(path)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["snakemake", *arguments], cwd=self.path, env=_environment(), capture_output=True, text=True, check=False
        )

    def plan(self) -> set[str]:
        """Return the jobs that would run now."""
        planned = self.snakemake("-n", "tiny")
        assert planned.returncode == 0, planned.stderr
        return jobs(planned.stdout)

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.results / "tables" / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def rows(self, method: str) -> list[dict[str, str]]:
        return [row for row in self.table("lds.csv") if row["method"] == method]


def make_place(path: Path, experiment: str = EXPERIMENT) -> Place:
    path.mkdir()
    shutil.copy(REPOSITORY / "Snakefile", path)
    shutil.copytree(REPOSITORY / "profiles", path / "profiles")
    place = Place(path)
    place.write("experiments/tiny.yaml", experiment)
    place.write("pausing.py", PAUSING)
    return place


def jobs(output: str) -> set[str]:
    """Read Snakemake's account of its jobs: ``retrain 2``, ``evaluate bif``; a size other than 120 is named too."""
    found = set()
    for rule, text in re.findall(r"^(?:local)?(?:rule|checkpoint) (\w+):\n((?:    .*\n)*)", output, re.MULTILINE):
        wildcards = dict(re.findall(r"(\w+)=(\w+)", "".join(re.findall(r"    wildcards: (.*)\n", text))))
        values = [v for k, v in wildcards.items() if k not in ("experiment", "repeat") and (k, v) != SIZE]
        found.add(" ".join([rule, *values]))
    return found - {"tiny"}


SIZE = ("train_size", "120")


def _environment() -> dict[str, str]:
    """Return what a user has who activated the virtual environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    for name in ("PYTHONWARNINGS", "TDABENCH_DATA", "SNAKEMAKE_PROFILE"):
        environment.pop(name, None)
    return environment


def each(rule: str, *names: str | int) -> set[str]:
    return {f"{rule} {name}" for name in names}


BANK = each("retrain", 0, 1)
EVALUATION = {*each("evaluate", *METHODS), *each("grow", *METHODS), "compare", "report"}
JUDGED = {"evaluate bif", "grow bif", "compare", "report"}
CHAINS = each("sample", "bif 0", "bif 1")
MODELS = {"train 0", *BANK, *CHAINS, *each("attribute", *METHODS), *EVALUATION, "agree", *each("diagnose", *METHODS)}
PROPERTIES = each("properties", *METHODS)


# One whole run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, str]:
    """Run the experiment on one core; return its folder, not to be changed, and what was on the terminal."""
    place = make_place(tmp_path_factory.mktemp("workflow") / "finished")
    done = place.snakemake("--cores", "1", "tiny")
    assert done.returncode == 0, done.stdout + done.stderr
    return place, done.stdout + done.stderr


@pytest.fixture(scope="session")
def finished(run: tuple[Place, str]) -> Place:
    return run[0]


@pytest.mark.slow
def test_a_run_makes_every_job_once(run):
    _, terminal = run

    assert jobs(terminal) == {"dataset", "split", *MODELS, *PROPERTIES}


def test_the_lds_table_has_its_columns_and_a_row_for_each_repeat_size_and_method(finished):
    header = finished.read("results/tiny/tables/lds.csv").splitlines()[0]

    rows = finished.table("lds.csv")
    assert header == (
        "experiment,repeat,train_size,method,lds,low,high,standard_error,queries,nan_queries,ceiling,status"
    )
    assert [(row["repeat"], row["train_size"], row["method"]) for row in rows] == [
        (repeat, "120", method) for repeat in ("0", "all") for method in METHODS
    ]
    assert {(row["experiment"], row["queries"], row["nan_queries"]) for row in rows} == {("tiny", "30", "0")}
    assert {row["status"] for row in rows if row["method"] != "bif"} == {"ok"}
    assert all(-1 <= float(row["low"]) <= float(row["lds"]) <= float(row["high"]) <= 1 for row in rows[:3])


@pytest.mark.parametrize(
    ("name", "header", "rows"),
    [
        (
            "pairs",
            "experiment,repeat,train_size,first,second,difference,low,high,p_value,p_holm,bootstrap_low,bootstrap_high",
            6,
        ),
        (
            "reliability",
            "experiment,repeat,train_size,retrains,subsets,agreement,agreement_low,agreement_high,ceiling,ceiling_low,"
            "ceiling_high,diverged_retrains,oracle,oracle_low,oracle_high",
            2,
        ),
        ("null", "experiment,repeat,train_size,method,null_low,null_high,p_value", 3),
        ("variance", "experiment,repeat,train_size,method,source,standard_deviation,share", 2 * 3 * 5),
        ("ranking", "experiment,repeat,train_size,method,lds,group,share_of_ceiling,share_low,share_high", 6),
    ],
)
def test_the_tables_of_the_comparison_have_their_columns_and_every_row(finished, name, header, rows):
    assert finished.read(f"results/tiny/tables/{name}.csv").splitlines()[0] == header
    assert len(finished.table(f"{name}.csv")) == rows


def test_pairs_of_a_single_repeat_are_the_same_in_its_row_and_in_that_over_repeats(finished):
    rows = finished.table("pairs.csv")

    lds = {row["method"]: float(row["lds"]) for row in finished.table("lds.csv")}
    for one, over_repeats in zip(rows[:3], rows[3:], strict=True):
        assert {**one, "repeat": "all"} == over_repeats
        assert float(one["difference"]) == pytest.approx(lds[one["first"]] - lds[one["second"]], abs=2e-6)


def test_the_cost_table_has_its_columns_and_every_phase(finished):
    header = finished.read("results/tiny/tables/cost.csv").splitlines()[0]

    rows = finished.table("cost.csv")
    assert header == (
        "experiment,repeat,train_size,method,phase,seconds,cpu_seconds,peak_host_bytes,peak_device_bytes,disk_bytes,"
        "device,status,passes"
    )
    assert {(row["method"], row["phase"]) for row in rows} == {
        ("gradsim", "fit"), ("gradsim", "score"), ("random", "score"), ("bif", "score"), ("bank", "train"),
        ("checkpoints", "train"),
    }  # fmt: skip
    assert all(float(row["seconds"]) >= 0 and int(row["peak_host_bytes"]) > 0 for row in rows)
    assert {row["device"] for row in rows} == {"cpu, 1 thread(s)"}
    passes = {(row["method"], row["phase"]): row["passes"] for row in rows}
    assert passes["gradsim", "score"] == str(3 * (120 + 40))
    assert (passes["random", "score"], passes["bank", "train"]) == ("0", "")


def test_a_run_prints_the_table_and_keeps_it_as_markdown(run):
    place, terminal = run

    markdown = place.read("results/tiny/tables/lds.md")

    assert markdown.strip() in terminal
    assert "LDS, n = 120" in markdown
    assert all(f"| {method}" in markdown for method in METHODS)


FIGURES = ("lds", "lds_by_repeat", "cost", "frontier", "agreement", "pairs", "diagnostics")


def test_a_run_draws_every_figure_as_png_and_pdf(finished):
    starts = {path.name: path.read_bytes()[:4] for path in (finished.results / "figures").iterdir()}

    assert starts == {
        **{f"{name}.png": b"\x89PNG" for name in FIGURES},
        **{f"{name}.pdf": b"%PDF" for name in FIGURES},
    }


def test_a_run_makes_a_page_with_every_method_figure_and_some_images(finished):
    page = finished.read("results/tiny/report.html")

    # And the sheet of images; the figure of single repeats would show the only one twice.
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert all(label in page for label in ("GradSim", "random", "BIF", "Query 1: label 0"))
    assert len(page) < 3_000_000


def test_snakemakes_own_report_holds_tables_figures_and_page_with_captions(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    captions = Path("tdabench") / "report" / "captions"
    shutil.copytree(REPOSITORY / captions, place.path / captions)

    done = place.snakemake("tiny", "--report", "workflow.html")

    assert done.returncode == 0, done.stderr
    report = place.read("workflow.html")
    assert all(f"results/tiny/{name}" in report for name in ("report.html", "tables/lds.csv", "figures/cost.png"))
    assert "perfect predictor of the expected loss" in report


def test_every_result_has_a_record_and_nothing_partial_is_left(finished):
    files = [path for path in finished.results.rglob("*") if path.is_file() and "workspace" not in path.parts]

    records = {
        path.relative_to(finished.results).as_posix(): load_record(path)
        for path in files
        if path.suffix in (".safetensors", ".json")
    }
    assert len(records) == 1 + 1 + 1 + 2 + 2 + 3 + 3 + 1 + 1 + 3 + 3 + 3 + 3 + 1
    assert all({"settings", "versions", "commit", "inputs"} <= set(record) for record in records.values())
    assert records["0/120/scores/bif.safetensors"]["settings"]["training"]["epochs"] == 2
    assert not [path for path in files if "partial" in path.name]


def test_the_agreement_table_has_a_row_for_each_pair_of_methods(finished):
    header = finished.read("results/tiny/tables/agreement.csv").splitlines()[0]

    rows = finished.table("agreement.csv")
    assert header == (
        "experiment,repeat,train_size,first,second,rank_correlation,rank_low,rank_high,overlap,overlap_low,"
        "overlap_high,top,queries,harmful_overlap,harmful_low,harmful_high,nan_queries"
    )
    pairs = [("gradsim", "random"), ("gradsim", "bif"), ("random", "bif")]
    assert [(row["repeat"], row["first"], row["second"]) for row in rows] == [
        (repeat, *pair) for repeat in ("0", "all") for pair in pairs
    ]
    assert {(row["top"], row["queries"]) for row in rows} == {("10", "30")}
    found = {(row["first"], row["second"]): float(row["rank_correlation"]) for row in rows[:3]}
    assert found["gradsim", "bif"] > 0.1 > abs(found["gradsim", "random"])


def test_the_properties_table_has_an_answer_for_each_method_and_property(finished):
    rows = finished.table("properties.csv")

    assert list(rows[0]) == ["experiment", "method", "property", "holds", "measured", "how", "title"]
    assert [row["method"] for row in rows] == [method for method in METHODS for _ in range(6)]
    found = {(row["method"], row["property"]): row["holds"] for row in rows}
    assert (found["bif", "higher_order"], found["gradsim", "higher_order"]) == ("yes", "no")
    assert (found["bif", "architecture_agnostic"], found["gradsim", "architecture_agnostic"]) == ("yes", "no")
    assert all(row["measured"] and row["how"] for row in rows)


def test_the_diagnostics_table_has_a_row_for_the_method_that_draws(finished):
    (row,) = finished.table("diagnostics.csv")

    assert (row["repeat"], row["train_size"], row["method"], row["draws"]) == ("0", "120", "bif", "5")
    assert "fewer than 50" in row["warning"]
    assert load_json(finished.results / "0/120/diagnose/gradsim.json")["traces"] is False
    assert row["warning"] in html.unescape(finished.read("results/tiny/report.html"))


def test_what_is_wrong_with_the_draws_stands_in_the_status_of_the_lds_and_once_on_the_page(finished):
    (diagnosed,) = finished.table("diagnostics.csv")
    page = html.unescape(finished.read("results/tiny/report.html"))

    for row in finished.rows("bif"):
        assert re.fullmatch(r"ok; warning: [a-z ,]*few effective draws[a-z ,]* \(see diagnostics\)", row["status"])
    for sentence in re.split(r"(?<=\.) (?=[A-Z])", diagnosed["warning"]):
        assert page.count(f"BIF (repeat 0, n = 120): {sentence}") == 1
    assert "BIF (repeat 0, n = 120): ok; warning" not in page


def test_the_learning_coefficient_and_fluctuation_of_every_example_are_kept(finished):
    cell = finished.results / "0/120"

    found = load_tensors(cell / "diagnose/bif.safetensors")
    traces = load_tensors(cell / "workspace/bif/traces.safetensors")
    (row,) = finished.table("diagnostics.csv")
    learning = 100 * (traces["train"].double().mean(dim=(0, 1)) - traces["train_checkpoint"])
    torch.testing.assert_close(found["train_learning_coefficient"], learning)
    fluctuation = 50 * traces["query"].double().var(dim=1).mean(dim=0)
    torch.testing.assert_close(found["query_singular_fluctuation"], fluctuation)
    assert float(row["learning_coefficient"]) == pytest.approx(learning.mean().item(), abs=1e-6)
    assert float(row["singular_fluctuation"]) == pytest.approx(
        found["train_singular_fluctuation"].mean().item(), abs=1e-6
    )
    assert load_tensors(cell / "diagnose/gradsim.safetensors") == {}


def test_the_cost_of_a_method_is_that_of_its_chains_and_of_its_scores(finished):
    cell = finished.results / "0/120"
    chains = [load_record(cell / f"chains/bif-{chain}.safetensors")["cost"]["score"] for chain in range(2)]

    (row,) = (row for row in finished.table("cost.csv") if row["method"] == "bif")
    kept = load_record(cell / "scores/bif.safetensors")["cost"]["score"]
    for name in ("seconds", "cpu_seconds"):
        assert kept[name] > sum(chain[name] for chain in chains) > 0
        assert float(row[name]) == pytest.approx(kept[name], abs=1e-4)
    assert int(row["peak_host_bytes"]) >= max(chain["peak_host_bytes"] for chain in chains)


def test_scores_of_chains_that_are_jobs_are_those_of_the_method_in_one_process(finished, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(finished.path)
    output = tmp_path / "0/120/scores/bif.safetensors"
    files = ("dataset", "results/tiny/dataset.safetensors"), ("split", "results/tiny/0/split.safetensors")
    inputs = [part for name, path in files for part in (f"--{name}", str(finished.path / path))]
    checkpoint = str(finished.results / "0/120/checkpoints/0.safetensors")

    status = cli.main(
        ["attribute", str(finished.path / "experiments/tiny.yaml"), "--repeat", "0", "--train-size", "120", *inputs,
         "--method", "bif", "--checkpoints", checkpoint, "--output", str(output)]
    )  # fmt: skip
    sys.modules.pop("pausing", None)

    assert status == 0
    _assert_same(output, finished.results / "0/120/scores/bif.safetensors")


def _assert_same(first: Path, second: Path) -> None:
    """Compare the tensors of two result files, but the times."""
    one, other = (load_tensors(path) for path in (first, second))
    assert one.keys() == other.keys()
    for name in one.keys() - {"cpu_seconds"}:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, equal_nan=True)


def test_the_growth_of_the_method_that_draws_ends_at_its_lds(finished):
    rows = [row for row in finished.table("growth.csv") if row["repeat"] == "0"]

    (of_table, _) = finished.rows("bif")
    assert [(row["method"], row["draws"]) for row in rows] == [("bif", "4"), ("bif", "5")]
    assert [rows[-1][name] for name in ("lds", "low", "high")] == [of_table[name] for name in ("lds", "low", "high")]
    passes = [int(row["passes"]) for row in finished.table("cost.csv") if row["method"] == "bif"]
    assert float(rows[-1]["passes"]) == sum(passes)
    (limit, _) = finished.table("extrapolation.csv")
    assert (limit["lds_limit"], limit["note"]) == ("", "5 draws a chain are too few to extrapolate: 8 are needed.")
    assert load_json(finished.results / "0/120/growth/gradsim.json")["growth"] is False
    assert (finished.results / "figures/frontier.png").exists()


def test_a_run_writes_the_tables_for_a_paper(finished):
    tables = {path.name for path in (finished.results / "tables").iterdir()}

    assert {f"{name}.{suffix}" for name in ("lds", "cost", "properties") for suffix in ("csv", "md", "tex")} <= tables
    assert "\\textbf{" in finished.read("results/tiny/tables/lds.tex")


@pytest.mark.slow
def test_a_bank_that_is_divided_by_what_is_measured_is_the_same_bank(finished, tmp_path):
    divided = make_place(tmp_path / "divided", EXPERIMENT.replace("shards: 2", "shards: auto"))
    planned = divided.snakemake("-n", "tiny")

    done = divided.snakemake("--cores", "1", "results/tiny/0/120/lds/random.json")

    assert "measure" in jobs(planned.stdout)
    assert not any(job.startswith("retrain") for job in jobs(planned.stdout))  # their number is not known yet
    assert done.returncode == 0, done.stdout + done.stderr
    bank, parts = ([load_tensors(path) for path in _shards(place)] for place in (divided, finished))
    assert len(bank) == 1  # it takes less than ten minutes
    assert all(torch.equal(bank[0][name], torch.cat([part[name] for part in parts])) for name in bank[0])
    assert divided.plan() & {"measure", "retrain 0"} == set()


def _shards(place: Place) -> list[Path]:
    return sorted((place.results / "0" / "120" / "bank").iterdir())


def test_the_bank_has_every_subset_once(finished):
    shards = [load_tensors(finished.results / f"0/120/bank/{shard}.safetensors") for shard in range(2)]

    assert [tuple(shard["masks"].shape) for shard in shards] == [(3, 120)] * 2
    assert [tuple(shard["loss"].shape) for shard in shards] == [(3, 1, 40)] * 2
    assert len({tuple(mask.tolist()) for shard in shards for mask in shard["masks"]}) == 6
    assert {int(mask.sum()) for shard in shards for mask in shard["masks"]} == {60}


# What a change reruns


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
        ("fraction: 0.5", "fraction: 0.4", BANK | EVALUATION),
        ("epochs: 2", "epochs: 3", MODELS),
        (
            "step_size: 1e-4",
            "step_size: 2e-4",
            {*CHAINS, "attribute bif", "diagnose bif", "properties bif", "agree", *JUDGED},
        ),
        (
            "chains: 2",
            "chains: 3",
            {
                *("sample bif 2", "attribute bif", "diagnose bif", "properties bif", "agree"),
                *JUDGED,
            },
        ),
        ("resamples: 100", "resamples: 200", EVALUATION | {"agree"}),
        ("resamples: 100", "resamples: 100, top: 5", {"agree", "report"}),
        (" queries: 30", " queries: 31", {"split"} | MODELS),
        ("digits:Digits", "cifar10:CIFAR10", {"dataset", "split"} | MODELS),
        (
            "checkpoints: 1",
            "checkpoints: 2",
            {
                "train 1",
                *CHAINS,
                *each("attribute", *METHODS),
                *EVALUATION,
                "agree",
                *each("diagnose", *METHODS),
                *PROPERTIES,
            },
        ),
        (
            "train_sizes: [120]",
            "train_sizes: [120, 100]",
            {re.sub(r"^(\w+)", r"\1 100", job) for job in MODELS - {"report"}} | {"report"},
        ),
        (
            "methods:\n",
            'methods:\n  null_too: {attributor: "tdabench.attributors.baselines:Random"}\n',
            {
                *(
                    "attribute null_too",
                    "evaluate null_too",
                    "grow null_too",
                    "diagnose null_too",
                    "properties null_too",
                ),
                *("agree", "compare", "report"),
            },
        ),
        ('  random: {attributor: "tdabench.attributors.baselines:Random"}\n', "", {"agree", "compare", "report"}),
        (
            "evaluation: {",
            "variance: {checkpoints: 1, methods: [bif]}\nevaluation: {",
            {"vary bif", "compare", "report"},
        ),
        ("evaluation: {", "tokens: {queries: 2, top: 3, methods: [bif]}\nevaluation: {", {"tokens bif", "pages"}),
    ],
    ids=lambda value: value.strip().partition("\n")[0][:40] if isinstance(value, str) else "",
)
def test_a_change_of_the_experiment_reruns_what_it_concerns_and_nothing_else(place, old, new, expected):
    place.change(old, new)

    assert place.plan() == expected


@pytest.mark.slow
def test_a_text_that_is_edited_is_tokenised_again(tmp_path):
    place = make_place(tmp_path / "place", TEXT)
    place.write(
        "data/story.txt",
        "".join(f"Line {number} of a story: {number**5} words, and no end.\n" for number in range(200)),
    )
    done = place.snakemake("--cores", "1", "results/tiny/dataset.safetensors")
    assert done.returncode == 0, done.stderr
    before = place.plan()

    place.write("data/other.txt", "No setting names it.")
    assert place.plan() == before
    (place.path / "data").rename(place.path / "elsewhere")  # as if TDABENCH_DATA had been forgotten
    assert place.plan() == before
    (place.path / "elsewhere").rename(place.path / "data")
    place.write("data/story.txt", place.read("data/story.txt").replace("Line 7 ", "Line seven "))
    assert place.plan() - before == {"dataset"}
    # One that is damaged is no reason not to plan: the job that reads it puts it aside.
    (place.results / "dataset.safetensors").write_bytes(b"cut")
    assert "train 0" in place.plan()


@pytest.mark.parametrize("lost", ["report.html", "tables/lds.csv"])
def test_a_part_of_the_report_that_is_lost_is_made_again_from_the_results(place, lost):
    content = (place.results / lost).read_bytes()
    (place.results / lost).unlink()
    try:
        assert place.plan() == {"report"}
    finally:
        (place.results / lost).write_bytes(content)


def test_a_model_of_ones_own_that_is_edited_is_trained_again(place):
    place.write("pausing.py", PAUSING + "\n# Edited.\n")

    assert place.plan() == MODELS


# Plug-ins: a method of one's own, and one with a fault


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
        "methods:\n",
        'methods:\n  mine: {attributor: "mine:Mine", scale: 2}\n  broken: {attributor: "broken:Broken"}\n',
    )
    # The faulty one first: what comes after it shows that the others go on.
    first = ["--prioritize", "results/tiny/0/120/scores/broken.safetensors"]
    with_fault = place.snakemake("--cores", "1", *first, "--", "tiny")
    place.change('  broken: {attributor: "broken:Broken"}\n', "")
    return Extended(place, with_fault, place.snakemake("--cores", "1", "tiny"))


@pytest.mark.slow
def test_a_method_of_ones_own_is_a_file_and_a_line_and_reruns_nothing_else(extended, finished):
    ran = jobs(extended.with_fault.stdout + extended.with_fault.stderr)
    then = jobs(extended.without.stdout + extended.without.stderr)

    assert ran == {
        *each("attribute", "mine", "broken"), *each("properties", "mine", "broken"), "evaluate mine", "grow mine",
        "diagnose mine",
    }  # fmt: skip
    assert then == {"agree", "compare", "report"}
    assert len(MINE.splitlines()) == 12
    for method in METHODS:
        assert extended.place.rows(method) == finished.rows(method)


def test_a_method_of_ones_own_has_a_row_with_its_score_and_its_settings(extended):
    one, over_repeats = extended.place.rows("mine")

    record = load_record(extended.place.results / "0/120/scores/mine.safetensors")
    assert one["status"] == "ok"
    assert float(one["low"]) <= float(one["lds"]) <= float(one["high"])
    assert over_repeats["lds"] == one["lds"]
    assert record["method"] == {"path": "mine:Mine", "settings": {"scale": 2}}
    assert record["attributor"] == {"scale": 2.0}


def test_a_method_of_ones_own_that_is_edited_is_run_again_alone(extended):
    extended.place.write("mine.py", MINE + "\n# Edited.\n")

    planned = extended.place.plan()
    extended.place.write("mine.py", MINE)

    assert planned == {
        "attribute mine", "evaluate mine", "grow mine", "diagnose mine", "properties mine", "agree", "compare",
        "report",
    }  # fmt: skip


def test_a_method_with_a_fault_leaves_the_others_finished(extended):
    terminal = extended.with_fault.stdout + extended.with_fault.stderr
    scores = {path.stem for path in (extended.place.results / "0/120/scores").iterdir()}

    assert extended.with_fault.returncode != 0
    assert terminal.index("rule attribute:") < terminal.index("method=broken") < terminal.index("method=mine")
    assert scores == {*METHODS, "mine"}
    assert (extended.place.results / "0/120/lds/mine.json").exists()
    assert extended.without.returncode == 0


def test_a_method_with_a_fault_has_properties_that_say_so(extended):
    found = load_json(extended.place.results / "properties/broken.json")["properties"]

    assert {row["property"]: row["holds"] for row in found if row["holds"] is not None} == {"per_token": False}
    assert {row["measured"] for row in found if row["holds"] is None} == {"RuntimeError: the plug-in has a fault"}


def test_a_method_with_a_fault_names_its_error_in_its_log(extended):
    log = extended.place.read("results/tiny/0/120/logs/attribute-broken.log")

    assert "results/tiny/0/120/logs/attribute-broken.log" in extended.with_fault.stdout + extended.with_fault.stderr
    assert "broken.py" in log
    assert "RuntimeError: the plug-in has a fault" in log


# Interruptions


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A folder whose bank was killed midway on two cores, and then continued."""

    place: Place
    shard: int
    status: int
    second: subprocess.CompletedProcess[str]
    times: dict[str, int]
    continued: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def interrupted(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    place = finished.copy(tmp_path_factory.mktemp("interrupted") / "place")
    for name in ("bank", "lds"):
        shutil.rmtree(place.results / "0/120" / name)
    shutil.rmtree(place.results / "tables")
    place.write("PAUSE", "")
    command = ["snakemake", "--cores", "2", "tiny"]
    with (place.path / "terminal").open("w") as terminal:
        process = subprocess.Popen(
            command, cwd=place.path, env=_environment(), stdout=terminal, stderr=terminal, start_new_session=True
        )
    try:
        killed, shard = _wait_for_a_job_in_mid_bank(place)
        second = place.snakemake("--cores", "1", "tiny")
        os.kill(killed, signal.SIGKILL)
        (place.path / "PAUSE").unlink()
        status = process.wait(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    times = {path.name: path.stat().st_mtime_ns for path in (place.results / "0/120/bank").iterdir()}
    return Interrupted(place, shard, status, second, times, place.snakemake("--cores", "2", "tiny"))


def _wait_for_a_job_in_mid_bank(place: Place) -> tuple[int, int]:
    """Wait until a job has retrained one of its three models; return its process and its shard."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for path in place.path.glob("built-by-*"):
            process = int(path.name.rpartition("-")[2])
            stage, _, shard = Path(f"/proc/{process}/fd/2").readlink().stem.partition("-")  # its log
            if stage == "retrain":
                return process, int(shard)
        time.sleep(0.1)
    raise TimeoutError(place.read("terminal"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes through /proc")


@needs_proc
@pytest.mark.slow
def test_a_killed_job_fails_the_run_and_leaves_the_other_shards_and_no_partial_one(interrupted):
    other = 1 - interrupted.shard

    assert interrupted.status != 0
    assert set(interrupted.times) == {f"{other}.safetensors"}
    assert f"retrain, shard {interrupted.shard + 1}/2:   0%" in interrupted.place.read(
        f"results/tiny/0/120/logs/retrain-{interrupted.shard}.log"
    )


@needs_proc
def test_a_bank_that_was_killed_midway_goes_on_without_redoing_finished_shards(interrupted):
    bank = interrupted.place.results / "0/120/bank"

    assert interrupted.continued.returncode == 0, interrupted.continued.stderr
    ran = jobs(interrupted.continued.stdout + interrupted.continued.stderr)
    assert {job for job in ran if job.startswith("retrain")} == {f"retrain {interrupted.shard}"}
    assert {name: (bank / name).stat().st_mtime_ns for name in interrupted.times} == interrupted.times


@needs_proc
def test_neither_a_killed_job_nor_a_second_core_changes_a_byte_of_the_table(interrupted, finished):
    table = "results/tiny/tables/lds.csv"

    assert (interrupted.place.path / table).read_bytes() == (finished.path / table).read_bytes()


@needs_proc
def test_a_bank_made_on_two_cores_holds_the_same_numbers(interrupted, finished):
    for shard in ("0", "1"):
        first, second = (
            load_tensors(place.results / f"0/120/bank/{shard}.safetensors") for place in (finished, interrupted.place)
        )
        assert all(first[key].equal(second[key]) for key in first)


@needs_proc
@pytest.mark.slow
def test_a_result_that_was_cut_off_on_the_disk_is_found_put_aside_and_made_anew_alone(finished, tmp_path):
    place = finished.copy(tmp_path / "cut")
    shard, table = place.results / "0/120/bank/1.safetensors", place.read("results/tiny/tables/lds.csv")
    for name in ("0/120/lds", "0/120/growth", "0/120/compare", "tables"):  # a run that was not done yet
        shutil.rmtree(place.results / name)
    os.truncate(shard, shard.stat().st_size - 100)

    first, second = (place.snakemake("--cores", "2", "tiny") for _ in range(2))

    assert first.returncode != 0
    assert "1.safetensors is damaged" in first.stdout + first.stderr
    assert shard.with_name("1.safetensors.damaged").exists()
    assert second.returncode == 0, second.stdout + second.stderr
    redone = jobs(second.stdout + second.stderr)
    assert "retrain 1" in redone
    assert not redone & {"retrain 0", "train 0", "dataset", "split", *CHAINS, *each("attribute", *METHODS)}
    assert place.read("results/tiny/tables/lds.csv") == table


def test_a_second_run_in_the_same_folder_is_told_that_it_is_locked(interrupted):
    terminal = interrupted.second.stdout + interrupted.second.stderr

    assert interrupted.second.returncode != 0
    assert "Directory cannot be locked" in terminal
    assert "snakemake --unlock" in terminal.replace("\n", " ") or "--unlock" in terminal


# Chains, one by one


@dataclasses.dataclass(frozen=True)
class Resumed:
    """A folder in which a chain of one method was killed and one of another lost, then continued on two cores."""

    place: Place
    killed: subprocess.CompletedProcess[str]
    time: int
    continued: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def resumed(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    place = finished.copy(tmp_path_factory.mktemp("resumed") / "place")
    cell = place.results / "0/120"
    place.write("chained.py", CHAINED)
    place.change("methods:\n", 'methods:\n  chained: {attributor: "chained:Chained", chains: 2, fault: kill}\n')
    target = "results/tiny/0/120/scores/chained.safetensors"
    killed = place.snakemake(
        "--cores", "1", "--prioritize", "results/tiny/0/120/chains/chained-0.safetensors", "--", target
    )
    finished_chain = cell / "chains/chained-0.safetensors"
    time = finished_chain.stat().st_mtime_ns if finished_chain.exists() else 0
    (cell / "chains/bif-1.safetensors").unlink()
    (cell / "scores/bif.safetensors").unlink()
    place.write("MENDED", "")
    continued = place.snakemake("--cores", "2", target, "results/tiny/0/120/scores/bif.safetensors")
    return Resumed(place, killed, time, continued)


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_chain_goes_on_without_redoing_the_finished_one(resumed):
    chains = resumed.place.results / "0/120/chains"

    assert resumed.killed.returncode != 0
    assert resumed.continued.returncode == 0, resumed.continued.stderr
    ran = jobs(resumed.continued.stdout + resumed.continued.stderr)
    assert {job for job in ran if "chained" in job} == {"sample chained 1", "attribute chained"}
    assert (chains / "chained-0.safetensors").stat().st_mtime_ns == resumed.time
    assert not [path for path in chains.iterdir() if "partial" in path.name]


@pytest.mark.slow
def test_a_chain_that_is_lost_is_sampled_again_alone_and_gives_the_same_numbers(resumed, finished):
    ran = jobs(resumed.continued.stdout + resumed.continued.stderr)

    assert {job for job in ran if "bif" in job} == {"sample bif 1", "attribute bif"}
    for name in ("chains/bif-1", "scores/bif"):
        _assert_same(*(place.results / f"0/120/{name}.safetensors" for place in (resumed.place, finished)))


# Mistakes


def test_an_unknown_key_of_a_method_stops_the_run_before_anything_is_trained(tmp_path):
    place = make_place(tmp_path / "place", EXPERIMENT.replace("strategy: identity", "strategy: identity, dampening: 1"))

    done = place.snakemake("--cores", "1", "tiny")

    terminal = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Unknown key methods.gradsim.dampening; the known ones are: strategy, damping" in terminal
    assert "Traceback" not in terminal
    assert jobs(terminal) == {"dataset"}
    assert not list(place.results.rglob("*.safetensors"))


def test_a_mistake_in_the_experiment_stops_the_plan_and_names_the_file_and_the_key(place):
    place.change("fraction: 0.5", "fraction: 5")

    done = place.snakemake("-n", "tiny")

    assert done.returncode != 0
    assert "experiments/tiny.yaml: bank.fraction must lie in (0, 1), got 5" in done.stdout + done.stderr


def test_a_bad_experiment_does_not_stop_the_others(place):
    place.write("experiments/another.yaml", "nonsense")

    planned = place.plan()
    (place.path / "experiments/another.yaml").unlink()

    assert planned == set()


def test_absent_data_without_a_network_names_the_folder_the_download_and_the_way_out(tmp_path, monkeypatch, capsys):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    experiment = tmp_path / "cifar.yaml"
    experiment.write_text(EXPERIMENT.replace("digits:Digits", "cifar10:CIFAR10").replace(*PLAIN))
    output = tmp_path / "dataset.safetensors"

    status = cli.main(["dataset", str(experiment), "--data", str(tmp_path / "empty"), "--output", str(output)])

    error = capsys.readouterr().err
    assert status == 1
    assert f"CIFAR-10 is not in {tmp_path}/empty/cifar-10-batches-py" in error
    assert "downloading it from https://www.cs.toronto.edu/" in error
    assert "--data or TDABENCH_DATA" in error
    assert "lds_digits needs no download" in error
    assert not output.exists()


PLAIN = ("pausing:PausingCNN", "tdabench.models.small_cnn:SmallCNN")
DIVERGING = dict([PLAIN, ("adamw", "sgd"), ("learning_rate: 0.01", "learning_rate: 1e30")])


# Methods that cannot run and models that diverge, through the stages themselves


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the stages with a model that sometimes diverges and a method that can't run; return the folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = _enter(tmp_path_factory.mktemp("odd"), patch)
        changes = {
            '"pausing:PausingCNN", width: 4': '"fragile:FragileCNN", broken: 0.2',
            "methods:\n": "variance: {checkpoints: 1, runs: 3}\nmethods:\n"
            '  trak: {attributor: "tdabench.attributors.trak:TRAK", proj_dim: 512}\n',
        }
        _through_the_bank(folder, changes)
        checkpoint = f"{CELL}/checkpoints/0.safetensors"
        _must("train", checkpoint, *OF_A_SIZE, *DATASET, "--checkpoint", "0")
        for method in ("trak", "random"):
            scores = f"{CELL}/scores/{method}.safetensors"
            _must("attribute", scores, *OF_A_SIZE, *DATASET, "--method", method, "--checkpoints", checkpoint)
            _must("evaluate", f"{CELL}/lds/{method}.json", *OF_A_SIZE, *BANK_FILE, "--scores", scores)
            _must("grow", f"{CELL}/growth/{method}.json", *OF_A_SIZE, *BANK_FILE, "--scores", scores)
            _must("diagnose", f"{CELL}/diagnose/{method}.json", "--scores", scores)
            _must("properties", f"results/properties/{method}.json", "--method", method)
            varied = f"{CELL}/vary/{method}.safetensors"
            _must("vary", varied, *OF_A_SIZE, *DATASET, "--method", method, "--checkpoints", checkpoint)
        scores, varied = (
            [f"{CELL}/{stage}/{name}.safetensors" for name in ("trak", "random")] for stage in ("scores", "vary")
        )
        files = ("--scores", *scores, "--varied", *varied)
        _must("compare", f"{CELL}/compare/comparison.json", *OF_A_SIZE, *BANK_FILE, *files)
        _must("agree", f"{CELL}/agree/agreement.json", *OF_A_SIZE, "--scores", *scores)
        _must("report", "results")
    sys.modules.pop("fragile", None)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Run stages in an empty folder."""
    return _enter(tmp_path, monkeypatch)


def _enter(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    patch.chdir(folder)
    patch.syspath_prepend(folder)
    (folder / "fragile.py").write_text(FRAGILE)
    return folder


CELL = "results/0/120"
DATASET = ("--dataset", "results/dataset.safetensors")
OF_A_SIZE = ("--repeat", "0", "--train-size", "120", "--split", "results/0/split.safetensors")
BANK_FILE = ("--bank", f"{CELL}/bank/0.safetensors")


def _through_the_bank(folder: Path, changes: dict[str, str]) -> None:
    """Run dataset, split and bank of an experiment whose only method is random, with two retrains a subset."""
    text = re.sub(r"  gradsim: .*\n|  bif:\n(    .*\n)+", "", EXPERIMENT)
    for old, new in {"retrains: 1, shards: 2": "retrains: 2, shards: 1", **changes}.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "tiny.yaml").write_text(text)
    _must("dataset", "results/dataset.safetensors")
    _must("split", "results/0/split.safetensors", "--repeat", "0", *DATASET)
    _must("retrain", f"{CELL}/bank/0.safetensors", *OF_A_SIZE, *DATASET, "--shard", "0")


def _must(stage: str, output: str, *arguments: str) -> None:
    status = _stage(stage, output, *arguments)
    assert status == 0, f"{stage} failed"


def _stage(stage: str, output: str, *arguments: str) -> int:
    return cli.main([stage, "tiny.yaml", "--output", output, *arguments])


def _odd_rows(folder: Path, method: str) -> list[dict[str, str]]:
    with (folder / "results/tables/lds.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["method"] == method]


def _odd_table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / f"results/tables/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_method_that_cannot_run_has_a_row_that_says_why_and_no_number(odd):
    rows = _odd_rows(odd, "trak")

    assert [row["repeat"] for row in rows] == ["0", "all"]
    for row in rows:
        assert row["lds"] == row["low"] == row["high"] == row["standard_error"] == ""
        assert row["status"].startswith("unsupported: TRAK needs ")
        assert "120" in row["status"]
    assert "unsupported: TRAK needs" in (odd / "results/tables/lds.md").read_text()
    assert all(row["lds"] for row in _odd_rows(odd, "random"))


def test_a_method_that_cannot_run_is_left_out_of_the_agreement_and_named(odd):
    agreement = load_json(odd / CELL / "agree" / "agreement.json")

    assert agreement["pairs"] == []
    assert agreement["methods"] == ["random"]
    assert agreement["left_out"]["trak"].startswith("unsupported: TRAK needs ")
    assert (odd / "results/tables/agreement.csv").read_text().count("\n") == 1
    assert (odd / "results/figures/agreement.png").exists()


def test_a_check_that_cannot_run_is_a_dash_with_its_reason(odd):
    table = (odd / "results/tables/properties.md").read_text()

    assert "Not run, Hessian-free of TRAK: TRAK needs a proj_dim above 100" in table
    assert re.search(r"\| Hessian-free +\| — ", table)


def test_properties_of_a_method_that_is_not_there_are_a_clear_error(here, capsys):
    (here / "tiny.yaml").write_text(EXPERIMENT.replace(*PLAIN))

    assert _stage("properties", "absent.json", "--method", "absent") == 1
    assert "There is no method absent in tiny.yaml; there are gradsim, random, bif." in capsys.readouterr().err


def test_a_method_that_cannot_run_is_left_out_of_the_comparison_which_says_so(odd):
    comparison = load_json(odd / CELL / "compare/comparison.json")

    null = _odd_table(odd, "null")
    assert list(comparison["methods"]) == ["random"]
    assert comparison["unsupported"]["trak"].startswith("unsupported: TRAK needs")
    assert comparison["pairs"] == []
    assert [(row["method"], bool(row["p_value"])) for row in null] == [("random", True), ("trak", False)]
    assert load_tensors(odd / CELL / "vary/trak.safetensors") == {}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the stages with a chain that diverges, one that fails, and a method that keeps its chains to itself."""
    with pytest.MonkeyPatch.context() as patch:
        folder = _enter(tmp_path_factory.mktemp("uneven"), patch)
        (folder / "chained.py").write_text(CHAINED)
        (folder / "whole.py").write_text(WHOLE)
        methods = "".join(
            f'  {fault}: {{attributor: "chained:Chained", chains: 2, fault: {fault}}}\n'
            for fault in ("diverge", "raise")
        )
        methods += '  whole: {attributor: "whole:Whole", chains: 2}\n'
        _through_the_bank(folder, {PLAIN[0]: PLAIN[1], "methods:\n": f"methods:\n{methods}"})
        checkpoint = f"{CELL}/checkpoints/0.safetensors"
        _must("train", checkpoint, *OF_A_SIZE, *DATASET, "--checkpoint", "0")
        of_a_method = (*OF_A_SIZE, *DATASET, "--checkpoints", checkpoint, "--method")
        for method in ("diverge", "whole", "random"):
            chains = [] if method == "random" else [f"{CELL}/chains/{method}-{chain}.safetensors" for chain in range(2)]
            for chain, path in enumerate(chains):
                _must("sample", path, *of_a_method, method, "--chain", str(chain))
            scores = f"{CELL}/scores/{method}.safetensors"
            _must("attribute", scores, *of_a_method, method, "--chains", *chains)
            _must("evaluate", f"{CELL}/lds/{method}.json", *OF_A_SIZE, *BANK_FILE, "--scores", scores)
            _must("diagnose", f"{CELL}/diagnose/{method}.json", "--scores", scores)
        chains = [f"{CELL}/chains/raise-{chain}.safetensors" for chain in range(2)]
        _must("sample", chains[0], *of_a_method, "raise", "--chain", "0")
        with pytest.raises(RuntimeError, match="the chain has a fault"):
            _stage("sample", chains[1], *of_a_method, "raise", "--chain", "1")
    for name in ("fragile", "chained", "whole"):
        sys.modules.pop(name, None)
    return folder


def test_a_chain_that_diverges_leaves_the_others_their_scores_and_a_warning(uneven):
    chains = [load_tensors(uneven / f"{CELL}/chains/diverge-{chain}.safetensors") for chain in range(2)]
    record = load_record(uneven / f"{CELL}/scores/diverge.safetensors")

    assert chains[0]["train"].isfinite().all()
    assert not (chains[1]["train"].abs() < 1e6).all()
    assert record["status"] == ("ok; warning: BIF chains [1] of 2 diverged and are left out: lower step_size (0.0001).")
    scores = load_tensors(uneven / f"{CELL}/scores/diverge.safetensors")["scores"]
    torch.testing.assert_close(scores, loss_covariance(chains[0]["query"][None], chains[0]["train"][None]).float())
    assert load_json(uneven / f"{CELL}/diagnose/diverge.json")["warning"].startswith("1 of 2 chains diverged and are")


def test_a_chain_that_fails_leaves_the_finished_one_and_no_file_of_its_own(uneven):
    assert {path.name for path in (uneven / CELL / "chains").iterdir()} >= {"raise-0.safetensors"}
    assert not (uneven / CELL / "chains/raise-1.safetensors").exists()


def test_a_method_with_chains_of_its_own_is_run_whole(uneven):
    chains = [uneven / f"{CELL}/chains/whole-{chain}.safetensors" for chain in range(2)]

    scores = load_tensors(uneven / f"{CELL}/scores/whole.safetensors")["scores"]
    generator = make_generator(0, "attribute", 0, 120, "whole")
    assert all(load_tensors(path) == {} and load_record(path)["status"] == "whole" for path in chains)
    torch.testing.assert_close(scores, torch.rand(2, 40, 120, generator=generator).mean(dim=0))


def test_a_status_names_the_divergence_once_and_the_other_signs(uneven):
    row = read_lds(load_experiment(uneven / "tiny.yaml"), Cell(uneven / "results", 0, 120), "diverge")

    assert re.fullmatch(
        r"ok; warning: BIF chains \[1\] of 2 diverged and are left out: lower step_size \(0\.0001\)\.; "
        r"warning: [a-z ,]*few effective draws[a-z ,]* \(see diagnostics\)",
        row["status"],
    )


def test_what_other_random_numbers_do_to_the_lds_stands_in_the_table_of_variances(odd):
    varied = load_tensors(odd / CELL / "vary/random.safetensors")
    scores = load_tensors(odd / CELL / "scores/random.safetensors")["scores"]

    rows = {row["source"]: row for row in _odd_table(odd, "variance") if row["repeat"] == "all"}
    runs = [scores, varied["scores-0-1"], varied["scores-0-2"]]
    assert len(varied) == 2
    assert len({tuple(values.flatten().tolist()) for values in runs}) == 3
    assert {values.shape for values in runs} == {scores.shape}
    assert float(rows["sampler"]["standard_deviation"]) > 0
    assert rows["checkpoint"]["standard_deviation"] == rows["checkpoint"]["share"] == ""
    assert sum(float(row["share"] or 0) for row in rows.values()) == pytest.approx(1, abs=1e-5)


def test_a_plan_from_a_comparison_knows_what_a_model_costs(odd, capsys):
    status = cli.main(["power", str(odd / CELL / "compare/comparison.json"), "--half-width", "0.1", "--subsets", "20"])

    output = capsys.readouterr().out
    assert status == 0
    assert output.startswith("LDS of random, from ")
    assert "seconds" in output


def test_retrains_that_diverge_are_kept_as_nan_and_counted_in_the_table(odd):
    bank = load_tensors(odd / CELL / "bank/0.safetensors")
    diverged = bank["loss"].isnan().any(dim=2)
    count = int(diverged.sum())
    assert 0 < count < 8, "choose another seed for this test"

    statuses = [row["status"] for row in _odd_rows(odd, "random")]

    assert bank["loss"].isnan().all(dim=2).equal(diverged)
    assert bank["margin"].isnan().all(dim=2).equal(diverged)
    assert load_record(odd / CELL / "bank/0.safetensors")["diverged"] == count
    assert load_json(odd / CELL / "lds/random.json")["diverged_retrains"] == count
    assert all(re.match(rf"ok; {count} (of 12 )?retrained models diverged", status) for status in statuses)


def test_a_bank_of_which_every_model_diverged_is_a_clear_error(here, capsys):
    _through_the_bank(here, DIVERGING)
    save_tensors(f"{CELL}/scores/random.safetensors", {"scores": torch.ones(40, 120)}, {"status": "ok"})
    capsys.readouterr()

    scores = ("--scores", f"{CELL}/scores/random.safetensors")
    status = _stage("evaluate", f"{CELL}/lds/random.json", *OF_A_SIZE, *BANK_FILE, *scores)

    assert status == 1
    assert "12 of 12 retrained models diverged" in capsys.readouterr().err
    assert not Path(f"{CELL}/lds/random.json").exists()


def test_a_checkpoint_that_diverged_is_a_clear_error(here, capsys):
    _through_the_bank(here, DIVERGING)
    capsys.readouterr()

    status = _stage("train", "checkpoint.safetensors", *OF_A_SIZE, *DATASET, "--checkpoint", "0")

    assert status == 1
    assert "Checkpoint 0 diverged: lower training.learning_rate (1e+30)" in capsys.readouterr().err
    assert not Path("checkpoint.safetensors").exists()


# A bank that was made elsewhere


@pytest.fixture(scope="module")
def exported(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "bank.safetensors"
    shards = sorted(map(str, (finished.results / "0/120/bank").iterdir()))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(finished.path)
        assert cli.main(["bank", "export", *shards, "--output", str(path)]) == 0
    sys.modules.pop("pausing", None)
    return path


def _put_in_place(place: Place, bank: Path) -> None:
    done = subprocess.run(
        ["tdabench", "bank", "import", bank, "--into", CELL_OF_PLACE, "--experiment", "experiments/tiny.yaml"],
        cwd=place.path, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1].split()  # the one that it asks for
    assert command[:3] == ["snakemake", "--touch", "--force"]
    touched = place.snakemake(*command[1:])
    assert touched.returncode == 0, touched.stderr


CELL_OF_PLACE = "results/tiny/0/120"


@pytest.mark.slow
def test_an_exported_bank_that_is_put_back_gives_the_same_tables_and_retrains_nothing(finished, exported, tmp_path):
    place = finished.copy(tmp_path / "place")
    for folder in ("0/120/bank", "0/120/lds", "tables", "figures"):
        shutil.rmtree(place.results / folder)
    _put_in_place(place, exported)

    done = place.snakemake("--cores", "1", "tiny")

    assert done.returncode == 0, done.stderr
    assert jobs(done.stdout + done.stderr) == EVALUATION
    for name in ("lds.csv", "cost.csv", "lds.md"):
        table = place.results / "tables" / name
        assert table.read_bytes() == (finished.results / "tables" / name).read_bytes()


@pytest.mark.slow
def test_a_colleague_who_imports_a_bank_needs_no_retraining_until_its_settings_change(exported, tmp_path):
    place = make_place(tmp_path / "place")
    assert place.snakemake("--cores", "1", "results/tiny/0/split.safetensors").returncode == 0
    _put_in_place(place, exported)

    planned = place.plan()
    place.change("fraction: 0.5", "fraction: 0.4")
    then = place.plan()

    assert planned == MODELS - BANK | PROPERTIES
    assert then == MODELS | PROPERTIES


# A clone


def test_a_clone_that_comes_with_tables_still_runs_the_experiment(finished, tmp_path):
    place = finished.copy(tmp_path / "place")
    shutil.rmtree(place.path / ".snakemake")
    for path in place.results.iterdir():
        if path.name not in ("tables", "figures", "report.html"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    assert place.plan() == {"dataset", "split", *MODELS, *PROPERTIES}


# Form


def test_snakemakes_lint_finds_nothing(place):
    done = place.snakemake("--lint")

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_snakefile_is_formatted():
    command = [Path(sys.executable).parent / "snakefmt", "--check", "Snakefile"]

    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
