"""Sweeps: their settings and points, a whole one on digits, and that no choice sees a scored query."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from test_config import _changed, _without, _write
from test_workflow import EXPERIMENT, PLAIN, Place, make_place

from tdabench import cli
from tdabench.attributors.base import Unsupported
from tdabench.experiment.grids import SweepSettings
from tdabench.experiment.read import load_experiment
from tdabench.experiment.slices import stage_settings
from tdabench.runtime.machine import Machine
from tdabench.seeds import make_generator
from tdabench.stages.bench import Bench
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_table, load_tensors, save_tensors

pytestmark = pytest.mark.timeout(900)  # a busy machine is no failure
REPOSITORY = Path(__file__).parents[1]
SWEPT = (
    EXPERIMENT.replace(*PLAIN) + "sweep: {method: bif, grid: {step_size: [1e-4, 10], inverse_temperature: [10, 100]}}\n"
)
BEST_OF_TWO = "inverse_temperature=100,step_size=0.0001"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fickle:
    """A method that draws nothing, and that can't run at some settings."""

    mode: str = "well"

    def attribute(self, problem, *, generator):
        if self.mode == "unsupported":
            raise Unsupported("this mode needs a quiet day")
        if self.mode == "broken":
            raise RuntimeError("a fault of its own")
        shape = len(problem.query["label"]), len(problem.train["label"])
        return torch.randn(shape, generator=generator)


def _swept(grid: Any = None, method: str = "gradsim") -> dict[str, Any]:
    return _changed("sweep", {"method": method, "grid": {"damping": [1.0, 2.0]} if grid is None else grid})


# Settings


def test_the_settings_of_a_sweep_arrive_in_their_place_and_survive_being_written_again(tmp_path):
    experiment = load_experiment(_write(tmp_path, _swept({"damping": [1e-4, None], "strategy": ["ekfac", "kfac"]})))

    assert experiment.sweep == SweepSettings(
        method="gradsim", grid={"damping": [1e-4, None], "strategy": ["ekfac", "kfac"]}
    )
    written = json.loads(json.dumps(dataclasses.asdict(experiment.sweep)))
    assert SweepSettings(**written) == experiment.sweep
    assert load_experiment(_write(tmp_path, _changed("sweep", None))).sweep is None


def test_a_points_name_reads_as_its_settings_and_does_not_hang_on_the_order_of_the_grid_or_the_spelling():
    one = SweepSettings(method="bif", grid={"step_size": [1e-5, 0.25], "localization": [1000, 1e6], "on": [True, None]})
    other = SweepSettings(method="bif", grid={"on": [None], "localization": [1000.0], "step_size": [0.00001]})

    assert list(one.points)[:3] == [
        "localization=1000,on=true,step_size=1e-05",
        "localization=1000,on=null,step_size=1e-05",
        "localization=1e+06,on=true,step_size=1e-05",
    ]
    assert len(one.points) == 8
    assert set(other.points) < set(one.points)
    assert one.points["localization=1e+06,on=null,step_size=0.25"] == {
        "step_size": 0.25, "localization": 1e6, "on": None
    }  # fmt: skip


def test_values_that_differ_in_their_last_digits_have_different_names():
    values = [0.1, 0.1 + 1e-12, 1234567, 1234568]

    assert len(SweepSettings(method="bif", grid={"step_size": values}).points) == 4


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, r"sweep\.grid must name at least one setting with its values"),
        ({"damping": []}, r"sweep\.grid\.damping must be a list of different values, got \[\]"),
        ({"damping": 1.0}, r"sweep\.grid\.damping must be a list of different values, got 1\.0"),
        ({"damping": [1, 1.0]}, r"sweep\.grid\.damping must be a list of different values, got \[1, 1\.0\]"),
        ({"damping": [[1]]}, r"sweep\.grid\.damping may hold numbers, true, false, null and texts .*, got \[1\]"),
        ({"strategy": ["a b"]}, r"sweep\.grid\.strategy may hold .* of letters, digits and _\.\+-, got 'a b'"),
        ({"a/b": [1]}, r"sweep\.grid needs names of settings, got 'a/b'"),
        ({"3": [1]}, r"sweep\.grid needs names of settings, got '3'"),
        ([1], r"sweep\.grid must be a mapping of keys to values, got \[1\]"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, grid, message):
    with pytest.raises(ValueError, match=message):
        load_experiment(_write(tmp_path, _swept(grid)))


def test_a_sweep_needs_a_method_of_the_experiment(tmp_path):
    with pytest.raises(ValueError, match=r"There is no method bif for sweep\.method; there are random, gradsim\."):
        load_experiment(_write(tmp_path, _swept(method="bif")))


def test_a_sweep_needs_a_bank(tmp_path):
    content = {**_without("bank"), "sweep": {"method": "gradsim", "grid": {"damping": [1]}}}
    del content["variance"]
    content["data"]["mislabelled"] = 0.1

    with pytest.raises(ValueError, match="A sweep is judged by the LDS, and there is none without bank: give it one"):
        load_experiment(_write(tmp_path, content))


@pytest.mark.parametrize("count", [0, 1])
def test_a_sweep_needs_tuning_queries(tmp_path, count):
    content = _swept()
    content["data"]["tuning_queries"] = count

    with pytest.raises(ValueError, match=rf"never on the scored ones: data\.tuning_queries must be .* 2, got {count}"):
        load_experiment(_write(tmp_path, content))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("{step_sizes: [1]}", "Unknown key sweep.grid.step_sizes; the known ones are: "),
        ("{step_size: [1, -1]}", "The point step_size=-1 of the sweep can't be: step_size must be positive"),
        ("{step_size: [fast]}", "The point step_size=fast of the sweep can't be: sweep.grid.step_size must be of type"),
        ("{status: [1]}", "sweep.grid can't have the key status: the table of the sweep has a column of that name."),
    ],
)
def test_every_point_is_checked_before_anything_is_run(tmp_path, monkeypatch, capsys, grid, message):
    monkeypatch.chdir(tmp_path)
    path = _write(tmp_path, re.sub(r"grid: \{.*?\}", f"grid: {grid}", SWEPT))

    status = cli.main(["dataset", str(path)])

    assert status == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_point_depends_on_its_own_settings_and_not_on_those_of_the_method_or_of_other_points(tmp_path):
    before = load_experiment(_write(tmp_path, SWEPT))
    changes = {
        "other base": SWEPT.replace("step_size: 1e-4\n", "step_size: 3e-4\n"),
        "more points": SWEPT.replace("[10, 100]", "[10, 30, 100]"),
        "more draws": SWEPT.replace("draws: 5", "draws: 6"),
    }
    after = {name: load_experiment(_write(tmp_path, text)) for name, text in changes.items()}

    def slice_of(experiment):
        return stage_settings(experiment, "sweep", None, BEST_OF_TWO)

    assert slice_of(after["other base"]) == slice_of(after["more points"]) == slice_of(before)
    assert slice_of(after["more draws"]) != slice_of(before)
    assert stage_settings(after["more points"], "choose") != stage_settings(before, "choose")
    assert stage_settings(after["other base"], "choose") == stage_settings(before, "choose")


def test_a_sweep_changes_no_settings_of_the_other_stages(tmp_path):
    before, after = (load_experiment(_write(tmp_path, text)) for text in (EXPERIMENT.replace(*PLAIN), SWEPT))

    for stage in ("dataset", "split", "train", "retrain", "sample", "attribute", "judge", "report"):
        assert stage_settings(after, stage, "bif") == stage_settings(before, stage, "bif")


@pytest.mark.parametrize(
    ("text", "point", "message"),
    [
        (EXPERIMENT, "step_size=1", "tiny sweeps no settings: give it the key sweep."),
        (
            SWEPT,
            "step_size=1",
            "The sweep of tiny has no point 'step_size=1'; the first is 'inverse_temperature=10,step_",
        ),
    ],
)
def test_a_point_that_is_not_there_is_refused(tmp_path, text, point, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        stage_settings(load_experiment(_write(tmp_path, text)), "sweep", None, point)


def test_an_experiment_without_a_sweep_has_nothing_to_choose(tmp_path, capsys):
    assert cli.main(["choose", str(_write(tmp_path, EXPERIMENT))]) == 1
    assert "tiny sweeps no settings: give it the key sweep." in capsys.readouterr().err


# A whole sweep


def _run(stage: str, *arguments: str) -> None:
    assert cli.main([stage, "tiny", *arguments]) == 0


CELL = ("--repeat", "0", "--train-size", "120")


def _sweep(place: Place, point: str) -> Path:
    _run("sweep", *CELL, "--point", point)
    return place.results / f"0/120/sweep/{point}.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Run the sweep, stage by stage in this process; its folder is not to be changed."""
    place = make_place(tmp_path_factory.mktemp("sweep") / "place", SWEPT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.path)
        _run("dataset")
        _run("split", "--repeat", "0")
        _run("train", *CELL, "--checkpoint", "0")
        for shard in ("0", "1"):
            _run("retrain", *CELL, "--shard", shard)
        for point in load_experiment("experiments/tiny.yaml").sweep.points:
            _sweep(place, point)
        _run("choose")
    return place


@pytest.fixture
def place(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Work in a copy of the finished folder."""
    copy = finished.copy(tmp_path / "place")
    monkeypatch.chdir(copy.path)
    return copy


def _table(place: Place) -> pd.DataFrame:
    return load_table(place.results / "tables/sweep.csv")


def test_the_table_of_a_sweep_has_its_columns_and_a_row_for_each_point(finished):
    header = finished.read("results/tiny/tables/sweep.csv").splitlines()[0]

    table = _table(finished)
    assert header == (
        "experiment,repeat,train_size,point,step_size,inverse_temperature,tuning_lds,low,high,standard_error,"
        "tuning_queries,loss_change,diverged_chains,effective_draws,rhat_high,cpu_seconds,status,choice"
    )
    assert table["repeat"].tolist() == ["0"] * 4 + ["all"] * 4
    assert list(zip(table["step_size"], table["inverse_temperature"], strict=True))[:4] == [
        (1e-4, 10), (1e-4, 100), (10, 10), (10, 100)
    ]  # fmt: skip
    assert set(table["tuning_queries"]) == {10}
    assert (table["cpu_seconds"] > 0).all()


def test_the_tuning_lds_in_the_table_is_the_rank_correlation_with_the_tuning_losses(finished):
    shards = [load_tensors(finished.results / f"0/120/bank/{shard}.safetensors") for shard in range(2)]
    masks, losses = (torch.cat([shard[name] for shard in shards]) for name in ("masks", "loss"))

    for _, row in _table(finished).head(2).iterrows():
        scores = load_tensors(finished.results / f"0/120/sweep/{row['point']}.safetensors")["scores"]
        assert scores.shape == (10, 120)
        predicted = (masks.double() @ scores.double().T).T
        measured = -losses.double().mean(dim=1)[:, 30:].T
        expected = [spearmanr(*pair).statistic for pair in zip(predicted, measured, strict=True)]
        assert row["tuning_lds"] == pytest.approx(sum(expected) / 10, abs=1e-6)


def test_a_point_that_diverges_is_a_result_that_says_so(finished):
    table = _table(finished)

    lost = table[table["step_size"] == 10]
    assert lost["tuning_lds"].isna().all()
    assert set(lost["diverged_chains"]) == {2}
    assert set(lost["status"]) == {"diverged: Every BIF chain diverged: lower step_size (10.0)."}
    assert lost["choice"].isna().all()
    tensors = load_tensors(finished.results / f"0/120/sweep/{lost['point'].iloc[0]}.safetensors")
    assert "scores" not in tensors
    assert tensors["loss"].shape == (2, 5)


def test_a_point_keeps_the_mean_losses_of_its_chains_and_their_steps(finished):
    tensors = load_tensors(finished.results / f"0/120/sweep/{BEST_OF_TWO}.safetensors")

    change = (tensors["loss"][:, -1].mean() - tensors["checkpoint_loss"]).item()
    row = _table(finished).set_index("point").loc[BEST_OF_TWO].iloc[0]
    assert row["loss_change"] == pytest.approx(change, abs=1e-6)
    assert tensors["step_loss"].shape == tensors["distance"].shape == tensors["tuning_loss"].shape == (2, 5)
    traces = pd.read_csv(finished.results / "figures/sweep_traces.csv")
    drawn = traces[(traces["point"] == BEST_OF_TWO) & (traces["chain"] == 1)]["loss"].tolist()
    assert drawn == pytest.approx([tensors["checkpoint_loss"].item(), *tensors["loss"][1].tolist()], rel=1e-5)


def test_every_point_has_the_same_random_numbers_and_leaves_nothing_in_the_workspace(finished):
    records = [load_record(path) for path in (finished.results / "0/120/sweep").iterdir()]

    assert {tuple(record["stream"]) for record in records} == {("sweep", 0, 120)}  # not those of the attribution
    assert {record["status"].split(":")[0] for record in records} == {"ok", "diverged"}
    assert list((finished.results / "0/120/workspace").iterdir()) == []


def test_the_choice_says_what_was_chosen_on_which_queries_as_lines_for_an_experiment_file(finished, tmp_path):
    chosen = load_json(finished.results / "tables/sweep_choice.json")["choices"]
    text = finished.read("results/tiny/tables/sweep_choice.txt")

    table = _table(finished).head(2)
    best = table.loc[table["tuning_lds"].idxmax()]
    (choice,) = chosen
    assert (choice["point"], choice["train_size"], choice["tuning_queries"]) == (best["point"], 120, 10)
    assert choice["tuning_lds"] == pytest.approx(best["tuning_lds"], abs=1e-6)
    assert best["choice"] == "best"
    assert "Chosen by the LDS on the 10 tuning queries alone; no scored query was handed" in text
    assert choice["yaml"] in text
    indented = "\n".join(f"  {line}" for line in choice["yaml"].splitlines())
    again = load_experiment(_write(tmp_path, re.sub(r"  bif:\n(    .*\n)+", indented + "\n", SWEPT)))
    assert again.methods["bif"].settings["inverse_temperature"] == best["inverse_temperature"]


# No choice sees a scored query


def test_the_choice_stays_the_same_to_the_byte_whatever_the_bank_says_of_the_scored_queries(place):
    before = {name: (place.results / name).read_bytes() for name in ("tables/sweep.csv", "tables/sweep_choice.txt")}
    for shard in range(2):
        path = place.results / f"0/120/bank/{shard}.safetensors"
        tensors = load_tensors(path)
        tensors["loss"][..., :30] = torch.nan  # as if every retrained model had diverged
        save_tensors(path, tensors, load_record(path))

    _run("choose")

    assert {name: (place.results / name).read_bytes() for name in before} == before


def test_the_choice_changes_with_the_banks_tuning_queries(place):
    before = place.read("results/tiny/tables/sweep.csv")
    path = place.results / "0/120/bank/0.safetensors"
    tensors = load_tensors(path)
    tensors["loss"][..., 30:] = tensors["loss"][..., 30:].flip(0)
    save_tensors(path, tensors, load_record(path))

    _run("choose")

    assert place.read("results/tiny/tables/sweep.csv") != before


def test_a_points_scores_stay_the_same_to_the_byte_whatever_the_scored_queries_are(place):
    path = place.results / f"0/120/sweep/{BEST_OF_TWO}.safetensors"
    before = load_tensors(path)
    data = place.results / "dataset.safetensors"
    images, split = load_tensors(data), load_tensors(place.results / "0/split.safetensors")
    others = {name: images[name].clone() for name in ("test_images", "test_labels")}
    others["test_images"][split["query"]] = 255 - others["test_images"][split["query"]]
    others["test_labels"][split["query"]] = (others["test_labels"][split["query"]] + 1) % 10
    save_tensors(data, {**images, **others}, load_record(data))

    after = load_tensors(_sweep(place, BEST_OF_TWO))

    timed = {"cpu_seconds"}
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in set(before) - timed)


def test_the_tuning_queries_are_those_after_the_scored_ones_in_the_bank(finished):
    experiment = load_experiment(finished.path / "experiments/tiny.yaml")
    bench = Bench(experiment, Cell(finished.results, 0, 120), Machine(device="cpu"))

    assert torch.equal(bench.tuning["image"], bench.query["image"][30:])
    assert torch.equal(bench.tuning["label"], bench.query["label"][30:])


def test_a_bank_of_another_split_is_refused(place, capsys):
    path = place.results / "0/split.safetensors"
    split = load_tensors(path)
    save_tensors(path, {**split, "query": split["query"][:20]}, load_record(path))

    assert cli.main(["choose", "tiny"]) == 1
    assert "has losses of 40 queries, and" in capsys.readouterr().err


# Other methods, and points that can't run


@pytest.fixture
def fickle(place: Place) -> Place:
    """Return a sweep of a method that keeps no traces, with no point run yet."""
    place.change(
        '  bif:\n    attributor: "tdabench',
        '  fickle: {attributor: "test_sweep:Fickle"}\n  bif:\n    attributor: "tdabench',
    )
    place.change(
        "method: bif, grid: {step_size: [1e-4, 10], inverse_temperature: [10, 100]}",
        "method: fickle, grid: {mode: [well, unsupported, broken]}",
    )
    shutil.rmtree(place.results / "0/120/sweep")
    return place


def test_a_point_that_the_method_does_not_support_says_so_and_a_fault_fails_its_job_alone(fickle, capsys):
    well, unsupported = (_sweep(fickle, f"mode={mode}") for mode in ("well", "unsupported"))

    with pytest.raises(AssertionError):  # its exit status is not 0
        _sweep(fickle, "mode=broken")
    assert "tdabench sweep: RuntimeError: a fault of its own (test_sweep:Fickle, " in capsys.readouterr().err

    assert load_record(unsupported)["status"] == "unsupported: this mode needs a quiet day"
    assert not (fickle.results / "0/120/sweep/mode=broken.safetensors").exists()
    expected = torch.randn((10, 120), generator=make_generator(0, "sweep", 0, 120))
    assert torch.equal(load_tensors(well)["scores"], expected)


def test_a_sweep_of_a_method_without_draws_has_a_table_and_figures(fickle):
    fickle.change(", broken]", "]")
    for mode in ("well", "unsupported"):
        _sweep(fickle, f"mode={mode}")

    _run("choose")

    well, unsupported = (row for _, row in _table(fickle).head(2).iterrows())
    assert well["choice"] == "best"
    assert well[["loss_change", "diverged_chains", "effective_draws"]].isna().all()
    assert unsupported["status"].startswith("unsupported")
    assert (fickle.results / "figures/sweep_traces.pdf").read_bytes()[:4] == b"%PDF"


def test_a_sweep_without_any_lds_says_that_there_is_nothing_to_choose(fickle):
    fickle.change("[well, unsupported, broken]", "[unsupported]")
    _sweep(fickle, "mode=unsupported")

    _run("choose")

    assert "no point of the sweep has an LDS in every repeat" in fickle.read("results/tiny/tables/sweep_choice.txt")
    assert load_json(fickle.results / "tables/sweep_choice.json")["choices"][0]["point"] is None


# The workflow


def test_a_finished_point_is_never_run_again_a_lost_one_is_and_so_is_a_further_value(place):
    (place.results / f"0/120/sweep/{BEST_OF_TWO}.safetensors").unlink()
    place.change("inverse_temperature: [10, 100]}", "inverse_temperature: [5, 10, 100]}")
    (place.results / "tables/sweep.csv").unlink()

    planned = place.snakemake("-n", "results/tiny/tables/sweep.csv")

    assert planned.returncode == 0, planned.stderr
    points = set(re.findall(r"^    wildcards: .*point=(\S+)$", planned.stdout, re.MULTILINE))
    assert points == {BEST_OF_TWO, *(f"inverse_temperature=5,step_size={size}" for size in ("0.0001", "10"))}
    assert not re.search(r"^rule (train|retrain|split|dataset):", planned.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "least"), [("sweep_bif_cifar10", 36), ("sweep_bif_cifar10_paper", 36), ("sweep_bif_text", 18)]
)
def test_the_sweeps_that_are_shipped_can_be_run(name, least):
    from tdabench.questions.sweep.stage import check_points

    experiment = load_experiment(REPOSITORY / "experiments" / f"{name}.yaml")

    check_points(experiment)
    assert list(experiment.sweep.grid) == ["step_size", "inverse_temperature", "localization"]
    assert len(experiment.sweep.points) >= least
