"""A method's growth with its draws as the stage ``judge`` tells it, and its tables, on files as methods leave them."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.evaluation.intervals import over_repeats
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.experiment.read import load_experiment
from tdabench.experiment.sections import RemovalSettings
from tdabench.questions.lds.stage import judge
from tdabench.questions.lds.tables import EXTRAPOLATION, GROWTH, make_growth_tables
from tdabench.seeds import make_generator
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_tensors, make_record, save_json, save_tensors

DIGITS = load_experiment(Path(__file__).parents[1] / "experiments" / "lds_digits.yaml")
EXPERIMENT = dataclasses.replace(
    DIGITS,
    name="tiny",
    repeats=2,
    data=dataclasses.replace(DIGITS.data, train_sizes=(250,)),
    methods={name: DIGITS.methods[name] for name in ("bif", "trak")},
    variance=None,
    removal=None,
)
TRAIN, SCORED, TUNING, SUBSETS, CHAINS, DRAWS = 40, 6, 3, 12, 2, 20
BIF = {"burn_in": 10, "steps_between_draws": 2, "estimate": "covariance"}
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
def cell(tmp_path: Path, traces) -> Cell:
    """Return a cell with a split, a bank in two shards, a method with its traces, and one that could not run."""
    cell, generator = Cell(tmp_path, 0, 250), make_generator(0, "bank")
    save_tensors(cell.split, {"query": torch.arange(SCORED)}, make_record({}))
    bank = dataclasses.asdict(EXPERIMENT.bank) | {"subsets": 2 * SUBSETS}
    record = make_record({}, bank=bank, seed=0, stream=["bank", 0, 250])
    for path in cell.bank(2):
        masks = torch.rand(SUBSETS, TRAIN, generator=generator).argsort(dim=1) < TRAIN // 2
        sums = masks.float() @ loss_covariance(traces["query"], traces["train"]).float().T
        losses = -sums[:, None] + 0.5 * sums.std() * torch.randn(SUBSETS, 2, SCORED + TUNING, generator=generator)
        save_tensors(path, {"masks": masks, "loss": losses}, record)
    save_tensors(cell.scores("trak"), {}, make_record({}, status="unsupported: needs Linear layers"))
    _save(cell, traces, loss_covariance(traces["query"], traces["train"]))
    return cell


def _save(cell: Cell, traces: dict | None, scores: torch.Tensor, *, markov: bool = True, **record: object) -> None:
    kept = make_record({}) | {"status": "ok", "attributor": BIF, "cost": COST} | record
    save_tensors(cell.scores("bif"), {"scores": scores.float()}, kept)
    if traces is None:
        cell.traces("bif").unlink()
    else:
        save_tensors(cell.traces("bif"), traces, {"markov": markov})


def _growth(cell: Cell) -> dict:
    judge(EXPERIMENT, cell)
    return load_json(cell.judgement)["growth"]["bif"]


def test_the_last_point_is_the_lds_of_all_draws(cell):
    result = _growth(cell)

    judgement = load_json(cell.judgement)
    expected, last = judgement["lds"]["bif"], result["points"][-1]
    assert (result["growth"], result["traces"], result["status"]) == (True, True, "ok")
    assert (result["chains"], result["queries"]) == (CHAINS, SCORED)
    assert [point["draws"] for point in result["points"]] == [4, 5, 6, 7, 8, 10, 12, 14, 17, 20]
    for name in ("mean", "low", "high", "standard_error"):
        assert last[name] == pytest.approx(expected[name], abs=1e-5)
    assert result["limit"]["interval"]["mean"] >= last["mean"]
    paths = {cell.split, cell.scores("bif"), cell.scores("trak"), *cell.bank(2), cell.traces("bif")}
    assert set(judgement["record"]["inputs"]) == set(map(str, paths))


def test_a_method_that_cannot_run_says_why_in_a_judgement_of_the_others(cell):
    judge(EXPERIMENT, cell)

    judgement, why = load_json(cell.judgement), "unsupported: needs Linear layers"
    assert judgement["statuses"] == {"bif": "ok", "trak": why}
    assert judgement["lds"]["trak"] == {"mean": None}
    assert judgement["comparison"]["unsupported"] == {"trak": why}
    assert set(judgement["growth"]) == set(judgement["comparison"]["methods"]) == {"bif"}
    assert judgement["agreement"] == []


def test_scores_that_are_correlations_grow_as_correlations(cell, traces):
    _save(
        cell, traces, loss_correlation(traces["query"], traces["train"]), attributor=BIF | {"estimate": "correlation"}
    )

    points = _growth(cell)["points"]

    shards = [load_tensors(path) for path in cell.bank(2)]
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

    points = {point["draws"]: point for point in _growth(cell)["points"]}

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

    assert {point["passes"] for point in _growth(cell)["points"]} == {None}


def test_a_chain_that_diverged_is_left_out_as_the_scores_leave_it_out(cell, traces):
    scores = loss_covariance(traces["query"][:1], traces["train"][:1])
    traces["train"][1, 5:] = torch.nan
    _save(cell, traces, scores)

    assert all(np.isfinite(point["mean"]) for point in _growth(cell)["points"])


def test_without_a_bank_there_are_only_statuses_and_agreement(cell):
    judge(dataclasses.replace(EXPERIMENT, bank=None, removal=RemovalSettings(queries=2, counts=(1,))), cell)

    assert set(load_json(cell.judgement)) == {"statuses", "agreement", "record"}


# When there is no growth

NEITHER = "the scores are neither the covariance nor the correlation of the traces"


@pytest.mark.parametrize(
    ("has_traces", "markov", "attributor", "reason"),
    [
        (False, True, BIF, "bif keeps no traces"),
        (True, False, BIF, "the draws are laid out as a whole, so that the first of them are no smaller design"),
        (True, True, BIF | {"estimate": "mine"}, NEITHER),
        (True, True, BIF | {"estimate": "correlation", "level": "token"}, NEITHER),
        (True, True, "no settings", NEITHER),
    ],
)
def test_a_method_without_growth_says_why(cell, traces, has_traces, markov, attributor, reason):
    scores = loss_covariance(traces["query"], traces["train"])
    _save(cell, traces if has_traces else None, scores, markov=markov, attributor=attributor)

    assert _growth(cell) == {"status": f"no growth: {reason}", "traces": has_traces, "growth": False}


def test_traces_of_another_run_are_a_clear_error(cell, traces):
    _save(cell, {**traces, "train": traces["train"][..., 1:]}, torch.zeros(SCORED + TUNING, TRAIN))

    with pytest.raises(ValueError, match="they are of different runs"):
        judge(EXPERIMENT, cell)

    assert not cell.judgement.exists()


# The tables


def _point(draws: int, mean: float, passes: float | None) -> dict:
    return {"draws": draws, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "standard_error": 0.05,
            "nan_queries": 1, "cpu_seconds": 2.0 * draws, "passes": passes}  # fmt: skip


def _save_growth(folder: Path, repeat: int, mean: float, limit: float | None, note: str = "") -> None:
    """Keep a judgement in which ``bif`` has grown, and the other methods haven't."""
    interval = {"mean": limit, "low": limit and limit - 0.1, "high": limit and limit + 0.1, "standard_error": 0.04}
    grown = {
        "chains": 2, "queries": 6, "points": [_point(4, mean / 2, 40), _point(20, mean, 200)],
        "limit": {"interval": interval, "half_draws": 5.0, "reliability": 0.8, "monte_carlo_error": 0.01,
                  "limit_error": 0.02, "note": note},
    }  # fmt: skip
    growth = {
        "random": {"status": "no growth", "traces": False, "growth": False},
        "bif": {"status": "ok", "traces": True, "growth": True, **grown},
        "trak": {"status": "no growth: for a reason", "traces": True, "growth": False},
    }
    save_json(Cell(folder, repeat, 250).judgement, {"growth": growth}, make_record({}))


def _rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_growth_has_every_point_and_their_means_over_repeats(tmp_path):
    for repeat, mean in enumerate((0.4, 0.6)):
        _save_growth(tmp_path, repeat, mean, 0.7)

    table = make_growth_tables(EXPERIMENT, tmp_path)["growth"]
    GROWTH.write(tmp_path, table)

    rows = _rows(tmp_path, "growth")
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


def test_the_table_of_limits_has_a_row_for_methods_with_traces_and_the_reason_where_there_is_none(tmp_path):
    _save_growth(tmp_path, 0, 0.4, 0.7)
    _save_growth(tmp_path, 1, 0.6, None, "too few")

    EXTRAPOLATION.write(tmp_path, make_growth_tables(EXPERIMENT, tmp_path)["extrapolation"])

    rows = _rows(tmp_path, "extrapolation")
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


def test_without_any_traces_there_are_no_tables(tmp_path):
    for repeat in range(2):
        growth = {"bif": {"status": "no growth", "traces": False, "growth": False}}
        save_json(Cell(tmp_path, repeat, 250).judgement, {"growth": growth}, make_record({}))

    assert make_growth_tables(EXPERIMENT, tmp_path) == {}
