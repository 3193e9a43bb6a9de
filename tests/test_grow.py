"""The stage ``grow`` and its tables, on files as methods leave them."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tdabench import cli
from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.evaluation.intervals import over_repeats
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.experiment.read import load_experiment
from tdabench.questions.lds.tables import EXTRAPOLATION, GROWTH, make_growth_tables
from tdabench.seeds import make_generator
from tdabench.storage.records import load_json, load_tensors, make_record, save_json, save_tensors

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "lds_digits.yaml"
TRAIN, SCORED, TUNING, SUBSETS, CHAINS, DRAWS = 40, 6, 3, 12, 2, 20
BIF = {"burn_in": 10, "steps_between_draws": 2}
COST = {"fit": {"cpu_seconds": 4.0, "passes": 100}, "score": {"cpu_seconds": 6.0, "passes": 5000}}


@pytest.fixture
def traces() -> dict[str, torch.Tensor]:
    generator = make_generator(0, "traces")
    modes = torch.randn(CHAINS, DRAWS, 3, generator=generator)
    return {
        name: modes @ torch.randn(3, count, generator=generator)
        + 0.3 * torch.randn(CHAINS, DRAWS, count, generator=generator)
        for name, count in (("train", TRAIN), ("query", SCORED + TUNING))
    }


@pytest.fixture
def cell(tmp_path: Path, traces) -> Path:
    """Return a folder with a split, a bank in two shards, and a method ``mine`` with its traces."""
    generator = make_generator(0, "bank")
    save_tensors(tmp_path / "split.safetensors", {"query": torch.arange(SCORED)}, make_record({}))
    for shard in range(2):
        masks = torch.rand(SUBSETS, TRAIN, generator=generator).argsort(dim=1) < TRAIN // 2
        sums = masks.float() @ loss_covariance(traces["query"], traces["train"]).float().T
        losses = -sums[:, None] + 0.5 * sums.std() * torch.randn(SUBSETS, 2, SCORED + TUNING, generator=generator)
        save_tensors(tmp_path / f"bank/{shard}.safetensors", {"masks": masks, "loss": losses}, make_record({}))
    _save(tmp_path, traces, loss_covariance(traces["query"], traces["train"]))
    return tmp_path


def _save(cell: Path, traces: dict | None, scores: torch.Tensor | None, name: str = "mine", **record: object) -> None:
    kept = {"status": "ok", "attributor": BIF, "cost": COST} | record
    tensors = {} if scores is None else {"scores": scores.float()}
    markov = kept.pop("markov", True)
    save_tensors(cell / "scores" / f"{name}.safetensors", tensors, {**make_record({}), **kept})
    if traces is not None:
        save_tensors(cell / "workspace" / name / "traces.safetensors", traces, {"markov": markov})


def _grow(cell: Path, name: str = "mine") -> tuple[int, Path]:
    output = cell / "growth" / f"{name}.json"
    arguments = ["--repeat", "0", "--train-size", "250", "--split", str(cell / "split.safetensors")]
    banks = [str(cell / f"bank/{shard}.safetensors") for shard in range(2)]
    scores = str(cell / f"scores/{name}.safetensors")
    return cli.main(
        ["grow", str(EXPERIMENT), *arguments, "--scores", scores, "--bank", *banks, "--output", str(output)]
    ), output


def _result(cell: Path, name: str = "mine") -> dict:
    status, output = _grow(cell, name)
    assert status == 0
    return load_json(output)


def test_the_last_point_is_the_lds_that_evaluate_gives(cell):
    result = _result(cell)
    arguments = ["--repeat", "0", "--train-size", "250", "--split", str(cell / "split.safetensors")]
    banks = [str(cell / f"bank/{shard}.safetensors") for shard in range(2)]
    scores, output = str(cell / "scores/mine.safetensors"), cell / "lds.json"
    cli.main(["evaluate", str(EXPERIMENT), *arguments, "--scores", scores, "--bank", *banks, "--output", str(output)])

    expected, last = load_json(output), result["points"][-1]
    assert (result["growth"], result["chains"], result["queries"]) == (True, CHAINS, SCORED)
    assert [point["draws"] for point in result["points"]] == [4, 5, 6, 7, 8, 10, 12, 14, 17, 20]
    for name in ("mean", "low", "high", "standard_error"):
        assert last[name] == pytest.approx(expected[name], abs=1e-5)
    assert result["limit"]["interval"]["mean"] >= last["mean"]
    assert result["record"]["status"] == "ok"
    assert len(result["record"]["inputs"]) == 5


def test_scores_that_are_correlations_grow_as_correlations(cell, traces):
    correlations = loss_correlation(traces["query"], traces["train"])
    _save(cell, traces, correlations)

    points = _result(cell)["points"]

    shards = [load_tensors(cell / f"bank/{shard}.safetensors") for shard in range(2)]
    masks = torch.cat([shard["masks"] for shard in shards])
    losses = torch.cat([shard["loss"] for shard in shards]).mean(dim=1)[:, :SCORED]
    first = loss_correlation(traces["query"][:, :4, :SCORED], traces["train"][:, :4])
    assert points[0]["mean"] == pytest.approx(linear_datamodeling_score(first, masks, losses).mean().item())


@pytest.mark.parametrize("known", ["cpu_seconds", "share of steps"])
def test_what_was_spent_grows_with_the_draws_to_the_whole_cost(cell, traces, known):
    if known == "cpu_seconds":
        clock = torch.arange(1.0, DRAWS + 1).expand(CHAINS, DRAWS).clone()
        clock[1, 9:] = torch.nan  # it diverged, and stopped
        _save(cell, {**traces, known: clock}, loss_covariance(traces["query"], traces["train"]))

    points = {point["draws"]: point for point in _result(cell)["points"]}

    measured = CHAINS * (TRAIN + SCORED + TUNING)
    steps = 5100 - DRAWS * measured
    for draws in (4, 10, 20):
        share = (10 + 2 * draws) / (10 + 2 * DRAWS)
        assert points[draws]["passes"] == pytest.approx(draws * measured + steps * share, abs=1)
        seconds = draws + min(draws, 9) if known == "cpu_seconds" else 10.0 * share
        assert points[draws]["cpu_seconds"] == pytest.approx(seconds)


def test_passes_of_older_results_are_unknown(cell, traces):
    cost = {"score": {"cpu_seconds": 6.0}}
    _save(cell, traces, loss_covariance(traces["query"], traces["train"]), cost=cost)

    assert {point["passes"] for point in _result(cell)["points"]} == {None}


# When there is no growth


def _no_growth(cell: Path, name: str = "mine") -> str:
    result = _result(cell, name)
    assert result["growth"] is False
    assert "points" not in result
    return result["record"]["status"]


def test_a_method_without_traces_says_so(cell):
    _save(cell, None, torch.zeros(SCORED, TRAIN), "other")

    assert _no_growth(cell, "other") == "no growth: other keeps no traces"
    assert load_json(cell / "growth/other.json")["traces"] is False


def test_a_design_whose_first_draws_are_no_design_says_so(cell, traces):
    _save(cell, traces, loss_covariance(traces["query"], traces["train"]), markov=False)

    status = _no_growth(cell)

    assert status == "no growth: the draws are laid out as a whole, so that the first of them are no smaller design"
    assert load_json(cell / "growth/mine.json")["traces"] is True


def test_scores_that_the_traces_do_not_give_have_no_growth(cell, traces):
    _save(cell, traces, loss_covariance(traces["query"], traces["train"]) ** 2)

    assert _no_growth(cell) == "no growth: the scores are neither the covariance nor the correlation of the traces"


def test_a_method_that_cannot_run_says_why(cell):
    _save(cell, None, None, "other", status="unsupported: needs Linear layers")

    assert _no_growth(cell, "other") == "unsupported: needs Linear layers"


def test_a_chain_that_diverged_is_left_out_as_the_scores_leave_it_out(cell, traces):
    scores = loss_covariance(traces["query"][:1], traces["train"][:1])
    traces["train"][1, 5:] = torch.nan
    _save(cell, traces, scores)

    points = _result(cell)["points"]

    assert all(np.isfinite(point["mean"]) for point in points)


def test_traces_of_another_run_are_a_clear_error(cell, traces, capsys):
    _save(cell, traces, torch.zeros(SCORED, TRAIN + 1))

    status, output = _grow(cell)

    assert status == 1
    assert "they are of different runs" in capsys.readouterr().err
    assert not output.exists()


# The tables


@pytest.fixture
def tiny(tmp_path: Path):
    experiment = load_experiment(EXPERIMENT)
    data = dataclasses.replace(experiment.data, train_sizes=(250,))
    methods = {name: experiment.methods[name] for name in ("random", "bif", "trak")}
    changes = {"name": "tiny", "repeats": 2, "data": data, "methods": methods, "variance": None, "removal": None}
    return dataclasses.replace(experiment, **changes), tmp_path


def _point(draws: int, mean: float, passes: float | None) -> dict:
    return {"draws": draws, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "standard_error": 0.05,
            "nan_queries": 1, "cpu_seconds": 2.0 * draws, "passes": passes}  # fmt: skip


def _save_growth(folder: Path, repeat: int, mean: float, limit: float | None, note: str = "") -> None:
    interval = {"mean": limit, "low": limit and limit - 0.1, "high": limit and limit + 0.1, "standard_error": 0.04}
    content = {
        "chains": 2, "queries": 6, "points": [_point(4, mean / 2, 40), _point(20, mean, 200)],
        "limit": {"interval": interval, "half_draws": 5.0, "reliability": 0.8, "monte_carlo_error": 0.01,
                  "limit_error": 0.02, "note": note},
    }  # fmt: skip
    record = make_record({}, status="ok")
    save_json(folder / f"{repeat}/250/growth/bif.json", {"traces": True, "growth": True, **content}, record)
    save_json(folder / f"{repeat}/250/growth/random.json", {"traces": False, "growth": False}, record)
    status = make_record({}, status="no growth: for a reason")
    save_json(folder / f"{repeat}/250/growth/trak.json", {"traces": True, "growth": False}, status)


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_growth_has_every_point_and_their_means_over_repeats(tiny):
    experiment, folder = tiny
    for repeat, mean in enumerate((0.4, 0.6)):
        _save_growth(folder, repeat, mean, 0.7)

    table = make_growth_tables(experiment, folder)["growth"]

    GROWTH.write(folder, table)
    rows = _rows(folder, "growth")
    assert list(rows[0]) == [
        "experiment", "repeat", "train_size", "method", "chains", "draws", "passes", "cpu_seconds", "lds", "low",
        "high", "standard_error", "queries", "nan_queries",
    ]  # fmt: skip
    assert [(row["repeat"], row["draws"]) for row in rows] == [
        ("0", "4"), ("0", "20"), ("1", "4"), ("1", "20"), ("all", "4"), ("all", "20"),
    ]  # fmt: skip
    last = rows[-1]
    assert [float(last[name]) for name in ("lds", "passes", "cpu_seconds", "queries")] == [0.5, 200, 40, 12]
    expected = over_repeats([0.4, 0.6], 0.95)
    assert float(last["low"]) == pytest.approx(expected.low, abs=1e-5)
    assert len(table) == 6


def test_the_table_of_limits_has_a_row_for_methods_with_traces_and_the_reason_where_there_is_none(tiny):
    experiment, folder = tiny
    _save_growth(folder, 0, 0.4, 0.7)
    _save_growth(folder, 1, 0.6, None, "too few")

    EXTRAPOLATION.write(folder, make_growth_tables(experiment, folder)["extrapolation"])

    rows = _rows(folder, "extrapolation")
    assert list(rows[0]) == [
        "experiment", "repeat", "train_size", "method", "chains", "draws", "lds", "monte_carlo_error", "lds_limit",
        "low", "high", "standard_error", "c", "reliability", "note",
    ]  # fmt: skip
    found = [(row["repeat"], row["method"], row["lds_limit"], row["note"]) for row in rows]
    assert found[:4] == [
        ("0", "bif", "0.700000", ""), ("0", "trak", "", "no growth: for a reason"), ("1", "bif", "", "too few"),
        ("1", "trak", "", "no growth: for a reason"),
    ]  # fmt: skip
    assert found[4] == ("all", "bif", "0.700000", "too few")
    assert found[5][2:] == ("", "no growth: for a reason")
    assert [rows[0][name] for name in ("draws", "lds", "monte_carlo_error", "c")] == [
        "20", "0.400000", "0.010000", "5.000000",
    ]  # fmt: skip


def test_without_any_traces_there_are_no_tables(tiny):
    experiment, folder = tiny
    for repeat in range(2):
        for name in experiment.methods:
            path = folder / f"{repeat}/250/growth/{name}.json"
            save_json(path, {"traces": False, "growth": False}, make_record({}, status="no growth"))

    assert make_growth_tables(experiment, folder) == {}


def test_a_growth_depends_on_how_it_is_evaluated_and_on_no_method():
    experiment = load_experiment(EXPERIMENT)

    grow, evaluate = (json.loads(experiment.stage_settings(stage, "bif")) for stage in ("grow", "evaluate"))
    assert grow == evaluate
