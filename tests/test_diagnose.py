"""What is said of how well a method drew, and its table, on files as methods leave them."""

import csv
import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from tdabench.attributors.bif import BIF
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.drawing.words import drop_warning
from tdabench.experiment.read import load_experiment
from tdabench.questions.diagnostics.report import add_warning, write
from tdabench.questions.diagnostics.stage import save_diagnosis
from tdabench.report.page import list_warnings
from tdabench.seeds import make_generator
from tdabench.storage.cell import Cell
from tdabench.storage.records import load_json, load_record, load_table, load_tensors, make_record, save_tensors
from tdabench.storage.seals import DamagedResult
from tdabench.testing import make_image_problem

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "lds_digits.yaml"
SETTINGS = {"step_size": 1e-4, "inverse_temperature": 100.0, "chains": 2}


def _losses(chains: int = 2, draws: int = 200, examples: int = 12) -> torch.Tensor:
    return torch.randn(chains, draws, examples, generator=make_generator(0, "losses"))


def _both(**shape: int) -> dict[str, torch.Tensor]:
    return {"train": _losses(**shape), "query": _losses(**{**shape, "examples": 5})}


def _save_scores(cell: Cell, name: str = "mine", attributor: object = SETTINGS) -> None:
    record = make_record({}, status="ok", attributor=attributor)
    save_tensors(cell.scores(name), {"scores": torch.zeros(5, 12)}, record)


def _diagnose(cell: Cell, name: str = "mine") -> dict:
    save_diagnosis(cell, name)
    return load_json(cell.diagnosis(name))


def _result(cell: Cell, traces: dict[str, torch.Tensor], **record: object) -> dict:
    """Keep traces, and diagnose them."""
    save_tensors(cell.traces("mine"), traces, record)
    return _diagnose(cell)


@pytest.fixture
def mine(tmp_path: Path) -> Cell:
    """Return a cell with the scores of a method ``mine``."""
    cell = Cell(tmp_path, 0, 120)
    _save_scores(cell)
    return cell


def test_traces_beside_the_scores_are_diagnosed_with_the_methods_own_inverse_temperature(mine):
    result = _result(mine, _both(), settings=SETTINGS, markov=True)

    assert (result["method"], result["traces"], result["chains"], result["draws"]) == ("mine", True, 2, 200)
    assert result["effective_draws"]["median"] == pytest.approx(400, rel=0.2)
    assert result["fluctuation"]["mean"] == pytest.approx(100, rel=0.1)
    assert set(result["record"]["inputs"]) == {str(mine.traces("mine")), str(mine.scores("mine"))}


def test_a_method_without_traces_of_its_own_has_a_result_that_says_so(mine):
    save_tensors(mine.traces("vary-mine"), _both(), {})

    result = _diagnose(mine)

    assert (result["method"], result["traces"]) == ("mine", False)
    assert result["record"]["status"] == "no traces: mine keeps none"
    assert load_tensors(mine.diagnosis("mine").with_suffix(".safetensors")) == {}


def test_traces_of_an_earlier_run_are_not_those_of_a_method_that_could_not_run(mine):
    save_tensors(mine.traces("mine"), _both(), {})
    save_tensors(mine.scores("mine"), {}, make_record({}, status="unsupported: too large"))

    assert _diagnose(mine)["traces"] is False


@pytest.mark.parametrize(("record", "is_chain"), [({}, True), ({"markov": True}, True), ({"markov": False}, False)])
def test_draws_are_a_chain_unless_the_traces_say_otherwise(mine, record, is_chain):
    result = _result(mine, _both(), **record)

    assert result["markov"] is is_chain
    assert (result["rhat"] is not None) is is_chain


@pytest.mark.parametrize("attributor", [None, "a text", {}, {"inverse_temperature": "cold"}])
def test_a_method_without_an_inverse_temperature_has_no_fluctuation(mine, attributor):
    _save_scores(mine, attributor=attributor)

    assert _result(mine, _both())["fluctuation"] is None


def test_scores_for_planted_labels_may_have_traces_of_more_queries(mine):
    assert _result(mine, {"train": _losses(), "query": _losses(examples=5 + 12)})["traces"] is True


# Mistakes


@pytest.mark.parametrize(
    ("traces", "message"),
    [
        ({"train": _losses()}, "must hold train and query, each (chain, draw, example)"),
        ({"other": _losses()}, "got neither: a file of another kind needs another name."),
        ({"train": _losses()[0], "query": _losses()[0]}, "got {'train': (200, 12), 'query': (200, 12)}"),
        ({"train": _losses(), "query": _losses(draws=199)}, "with the same chains and draws, got {'train': (2, 200,"),
        ({"train": _losses(), "query": _losses(chains=3)}, "with the same chains and draws"),
        ({"train": _losses(draws=0), "query": _losses(draws=0)}, "got {'train': (2, 0, 12), 'query': (2, 0, 12)}"),
        (_both() | {"train": _losses(examples=13)}, "has 13 training examples and "),
    ],
    ids=["no query", "neither", "two axes", "draws", "chains", "no draws", "another run"],
)
def test_traces_of_another_shape_are_a_clear_error(mine, traces, message):
    with pytest.raises(ValueError, match=f"{re.escape(str(mine.traces('mine')))} .*{re.escape(message)}"):
        _result(mine, traces)

    assert not mine.diagnosis("mine").exists()


def test_damaged_traces_and_missing_scores_are_clear_errors(mine):
    path = mine.traces("mine")
    save_tensors(path, _both(), {})
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(DamagedResult, match=f"{path} is damaged"):
        _diagnose(mine)
    with pytest.raises(FileNotFoundError, match=r"There is no result file .*other\.safetensors"):
        _diagnose(mine, "other")


# Of the checkpoint's neighbourhood


def _all_traces() -> dict[str, torch.Tensor]:
    """Make traces as they are kept now: from a checkpoint whose losses are 0.5 below the draws'."""
    steps = torch.arange(10, 2010, 10).repeat(2, 1)
    return {
        **_both(),
        "train_checkpoint": torch.full((12,), -0.5),
        "query_checkpoint": torch.full((5,), -0.5),
        "distance": 3.0 + 0.001 * _losses(examples=1)[..., 0],
        "step_loss": _losses(draws=2000, examples=1)[..., 0],
        "draw_step": steps,
    }


def test_traces_from_a_checkpoint_tell_distance_coefficients_and_series(mine):
    traces = _all_traces()

    result = _result(mine, traces)

    assert result["distance"]["median"] == pytest.approx(3, abs=0.001)
    assert abs(result["distance"]["growth"]) < 0.01
    # n beta is 100; the mean of 2 x 200 x 12 standard normal losses is known to 0.014.
    coefficient = result["learning_coefficient"]
    assert coefficient["mean"] == pytest.approx(50, abs=4 * 1.4)
    assert coefficient["error"] == pytest.approx(1.4, rel=0.3)
    assert result["short_warning"] == result["warning"] == ""
    found = _tensors(mine)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "mean_loss": (2, 200), "draw_step": (2, 200), "step_loss": (2, 2000), "distance": (2, 200),
        "checkpoint_loss": (), "train_learning_coefficient": (12,), "query_learning_coefficient": (5,),
        "train_singular_fluctuation": (12,), "query_singular_fluctuation": (5,),
    }  # fmt: skip
    expected = 100 * (traces["query"].double().mean(dim=(0, 1)) + 0.5)
    torch.testing.assert_close(found["query_learning_coefficient"], expected)
    torch.testing.assert_close(found["mean_loss"], traces["train"].mean(dim=2))


def test_a_chain_that_diverged_is_left_out_of_the_coefficients_and_stays_in_the_series(mine):
    traces = _all_traces()
    traces["train"][1, 50:] = torch.nan

    _result(mine, traces)

    found, expected = _tensors(mine), 100 * (traces["train"][0].double().mean(dim=0) + 0.5)
    torch.testing.assert_close(found["train_learning_coefficient"], expected)
    assert found["mean_loss"][1, 50:].isnan().all()


def test_traces_of_an_older_version_have_the_fluctuation_and_no_learning_coefficient(mine):
    result = _result(mine, _both())

    assert set(_tensors(mine)) == {"mean_loss", "train_singular_fluctuation", "query_singular_fluctuation"}
    assert (result["learning_coefficient"], result["distance"]) == (None, None)


def _tensors(cell: Cell) -> dict[str, torch.Tensor]:
    return load_tensors(cell.diagnosis("mine").with_suffix(".safetensors"))


# What the built-in methods keep


@pytest.mark.parametrize(
    ("method", "is_chain"),
    [
        (BIF(step_size=1e-4, inverse_temperature=10.0, localization=100.0, chains=2, draws=6), True),
        (LaplaceBIF(draws=6, batch_size=4), False),
    ],
    ids=["BIF", "LaplaceBIF"],
)
def test_what_a_built_in_method_keeps_can_be_diagnosed(mine, method, is_chain):
    mine.workspace("mine").mkdir(parents=True)
    problem = make_image_problem(mine.workspace("mine"), num_train=12, num_query=5)
    method.attribute(problem, generator=make_generator(0, "draws"))
    _save_scores(mine, attributor=dataclasses.asdict(method))

    result = _diagnose(mine)

    assert load_record(mine.traces("mine"))["markov"] is is_chain
    assert (result["markov"], result["draws"]) == (is_chain, 6)
    assert (result["rhat"] is not None) is is_chain
    assert result["loss_standard_deviation"]["median"] > 0


# The table


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    """Return the cell of an experiment of one repeat, one size and two methods."""
    return Cell(tmp_path, 0, 120)


def _write(cell: Cell, traces: dict[str, torch.Tensor], attributor: object = SETTINGS, **record: object) -> list[str]:
    """Diagnose both methods, of which ``bif`` has traces; write the table, and return the page's warnings."""
    save_tensors(cell.traces("bif"), traces, record)
    for name in ("random", "bif"):
        _save_scores(cell, name, attributor)
        _diagnose(cell, name)
    _write_table(cell)
    return list_warnings({"diagnostics": load_table(cell.root / "tables/diagnostics.csv")}, {})


def _write_table(cell: Cell) -> None:
    experiment = load_experiment(EXPERIMENT)
    data = dataclasses.replace(experiment.data, train_sizes=(120,))
    methods = {name: experiment.methods[name] for name in ("random", "bif")}
    changes = {"name": "tiny", "repeats": 1, "data": data, "methods": methods, "variance": None, "removal": None}
    write(dataclasses.replace(experiment, **changes), cell.root, pd.DataFrame())


def _unsettled() -> dict[str, torch.Tensor]:
    return _both() | {"train": _losses() + 9 * torch.arange(2)[:, None, None]}


def _row(cell: Cell) -> dict[str, str]:
    with (cell.root / "tables" / "diagnostics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    return row


def test_the_table_and_the_figure_are_of_the_methods_with_traces_alone_of_any_version(cell):
    assert _write(cell, _both(), attributor={}) == []

    row = _row(cell)
    assert list(row) == [
        "experiment", "repeat", "train_size", "method", "chains", "draws", "diverged_chains", "effective_draws",
        "rhat_median", "rhat_high", "drift", "loss_standard_deviation", "warning", "distance", "distance_growth",
        "learning_coefficient", "learning_coefficient_error", "singular_fluctuation", "score_error_share",
    ]  # fmt: skip
    assert [row[name] for name in ("experiment", "repeat", "train_size", "method")] == ["tiny", "0", "120", "bif"]
    assert [row[name] for name in ("chains", "draws", "diverged_chains", "warning")] == ["2", "200", "0", ""]
    assert float(row["rhat_median"]) == pytest.approx(1, abs=0.02)
    assert float(row["effective_draws"]) == pytest.approx(400, rel=0.2)
    assert float(row["loss_standard_deviation"]) == pytest.approx(1, rel=0.1)
    assert 0 <= float(row["drift"]) < 4
    assert (cell.root / "figures/diagnostics.png").read_bytes()[:4] == b"\x89PNG"
    assert (cell.root / "figures/diagnostics.pdf").read_bytes()[:4] == b"%PDF"


def test_the_table_has_what_is_known_of_the_checkpoints_neighbourhood(cell):
    _write(cell, _all_traces())

    row = _row(cell)
    assert float(row["distance"]) == pytest.approx(3, abs=0.01)
    assert float(row["distance_growth"]) == pytest.approx(0, abs=0.01)
    assert float(row["learning_coefficient"]) == pytest.approx(50, abs=4 * 1.4)
    assert float(row["learning_coefficient_error"]) == pytest.approx(1.4, rel=0.3)
    assert float(row["singular_fluctuation"]) == pytest.approx(50, rel=0.1)
    # Losses that have nothing in common: the error is larger than the size.
    assert float(row["score_error_share"]) > 1


def test_a_warning_is_added_to_a_status_in_a_few_words_and_listed_on_the_page_once(cell):
    line, *others = _write(cell, _unsettled())

    diagnosis = cell.diagnosis("bif")
    status = add_warning("ok", diagnosis)
    assert status == "ok; warning: chains not settled, few effective draws (see diagnostics)"
    assert drop_warning(status) == "ok"
    assert add_warning("ok", cell.diagnosis("random")) == "ok"
    assert add_warning("ok", cell.diagnosis("absent")) == "ok"
    assert line.startswith("bif (repeat 0, n = 120): R-hat is above 1.05 for 100% of the losses")
    place = {"experiment": "tiny", "repeat": "0", "train_size": 120, "method": "bif", "nan_queries": 0}
    tables = {"diagnostics": load_table(cell.root / "tables/diagnostics.csv")}
    assert list_warnings({"lds": pd.DataFrame([{**place, "status": status}]), **tables}, {}) == [line, *others]


def test_a_divergence_that_the_method_names_is_not_named_twice(cell):
    traces = _both()
    traces["train"][1, -1] = torch.nan
    _write(cell, traces)
    named = "ok; warning: a chain diverged: do this."

    assert add_warning("ok", cell.diagnosis("bif")) == "ok; warning: a chain diverged (see diagnostics)"
    assert add_warning(named, cell.diagnosis("bif")) == named


def test_without_any_traces_there_is_no_table(cell):
    for name in ("random", "bif"):
        _save_scores(cell, name)
        _diagnose(cell, name)

    _write_table(cell)

    assert not (cell.root / "tables").exists()


def test_draws_that_are_no_chain_have_a_row_with_gaps(cell):
    _write(cell, _both(), markov=False)

    row = _row(cell)
    assert [row[name] for name in ("rhat_median", "rhat_high", "effective_draws", "drift", "warning")] == [""] * 5
    assert row["loss_standard_deviation"]


def test_numbers_that_are_infinite_become_gaps(cell):
    _write(cell, _both() | {"train": torch.arange(2.0)[:, None, None].expand(2, 200, 12)})

    row = _row(cell)
    assert (row["rhat_median"], row["drift"]) == ("", "")
    assert "R-hat is above" in row["warning"]


def test_a_result_that_was_not_diagnosed_is_a_clear_error(cell):
    _save_scores(cell, "random")
    _diagnose(cell, "random")

    with pytest.raises(FileNotFoundError, match=r"bif\.json"):
        _write_table(cell)
