"""The stage ``diagnose`` and its table, on files as methods leave them."""

import csv
import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from tdabench import cli
from tdabench.attributors.bif import BIF
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.drawing.words import drop_warning
from tdabench.experiment.read import load_experiment
from tdabench.questions.diagnostics.report import add_warning, write
from tdabench.report.page import list_warnings
from tdabench.seeds import make_generator
from tdabench.storage.records import (
    load_json,
    load_record,
    load_table,
    load_tensors,
    make_record,
    save_json,
    save_tensors,
)
from tdabench.testing import make_image_problem

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "lds_digits.yaml"
SETTINGS = {"step_size": 1e-4, "inverse_temperature": 100.0, "chains": 2}


def _save_scores(cell: Path, name: str = "mine", **record: object) -> Path:
    path = cell / "scores" / f"{name}.safetensors"
    save_tensors(path, {"scores": torch.zeros(5, 12)}, make_record({}, **record))
    return path


def _losses(chains: int = 2, draws: int = 200, examples: int = 12) -> torch.Tensor:
    return torch.randn(chains, draws, examples, generator=make_generator(0, "losses"))


def _save_traces(cell: Path, traces: dict[str, torch.Tensor], name: str = "mine", **record: object) -> Path:
    path = cell / "workspace" / name / "traces.safetensors"
    save_tensors(path, traces, record)
    return path


def _both(**shape: int) -> dict[str, torch.Tensor]:
    return {"train": _losses(**shape), "query": _losses(**{**shape, "examples": 5})}


def _diagnose(cell: Path, name: str = "mine") -> tuple[int, Path]:
    output = cell / "diagnose" / f"{name}.json"
    scores = cell / "scores" / f"{name}.safetensors"
    return cli.main(["diagnose", str(EXPERIMENT), "--scores", str(scores), "--output", str(output)]), output


def _result(cell: Path, name: str = "mine") -> dict:
    status, output = _diagnose(cell, name)
    assert status == 0
    return load_json(output)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    _save_scores(tmp_path, status="ok", attributor=SETTINGS)
    return tmp_path


def test_traces_beside_the_scores_are_diagnosed_with_the_methods_own_inverse_temperature(mine):
    traces = _save_traces(mine, _both(), settings=SETTINGS, markov=True)

    result = _result(mine)

    assert (result["method"], result["traces"], result["chains"], result["draws"]) == ("mine", True, 2, 200)
    assert result["effective_draws"]["median"] == pytest.approx(400, rel=0.2)
    assert result["fluctuation"]["mean"] == pytest.approx(100, rel=0.1)
    assert set(result["record"]["inputs"]) == {str(traces), str(mine / "scores/mine.safetensors")}


def test_a_method_without_traces_has_a_result_that_says_so(mine):
    result = _result(mine)

    assert (result["method"], result["traces"]) == ("mine", False)
    assert result["record"]["status"] == "no traces: mine keeps none"


def test_traces_of_another_method_are_not_taken(mine):
    _save_traces(mine, _both(), name="vary-mine")

    assert _result(mine)["traces"] is False


@pytest.mark.parametrize(("record", "is_chain"), [({}, True), ({"markov": True}, True), ({"markov": False}, False)])
def test_draws_are_a_chain_unless_the_traces_say_otherwise(mine, record, is_chain):
    _save_traces(mine, _both(), **record)

    result = _result(mine)

    assert result["markov"] is is_chain
    assert (result["rhat"] is not None) is is_chain


@pytest.mark.parametrize("attributor", [None, "a text", {}, {"inverse_temperature": "cold"}])
def test_a_method_without_an_inverse_temperature_has_no_fluctuation(tmp_path, attributor):
    _save_scores(tmp_path, status="ok", attributor=attributor)
    _save_traces(tmp_path, _both())

    assert _result(tmp_path)["fluctuation"] is None


def test_scores_for_planted_labels_may_have_traces_of_more_queries(mine):
    _save_traces(mine, {"train": _losses(), "query": _losses(examples=5 + 12)})

    assert _result(mine)["traces"] is True


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
def test_traces_of_another_shape_are_a_clear_error(mine, capsys, traces, message):
    path = _save_traces(mine, traces)

    status, output = _diagnose(mine)

    error = capsys.readouterr().err
    assert status == 1
    assert f"tdabench diagnose: {path}" in error
    assert message in error
    assert not output.exists()


def test_damaged_traces_are_a_clear_error(mine, capsys):
    path = _save_traces(mine, _both())
    path.write_bytes(path.read_bytes()[:-100])

    status, _ = _diagnose(mine)

    assert status == 1
    assert f"{path} is damaged" in capsys.readouterr().err


def test_scores_that_are_not_there_are_a_clear_error(tmp_path, capsys):
    assert _diagnose(tmp_path)[0] == 1
    assert "There is no result file" in capsys.readouterr().err


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


def test_traces_from_a_checkpoint_tell_distance_coefficients_and_the_error_of_scores(mine):
    _save_traces(mine, _all_traces())

    result = _result(mine)

    assert result["distance"]["median"] == pytest.approx(3, abs=0.001)
    assert abs(result["distance"]["growth"]) < 0.01
    # n beta is 100; the mean of 2 x 200 x 12 standard normal losses is known to 0.014.
    coefficient = result["learning_coefficient"]
    assert coefficient["mean"] == pytest.approx(50, abs=4 * 1.4)
    assert coefficient["error"] == pytest.approx(1.4, rel=0.3)
    assert result["short_warning"] == result["warning"] == ""


def test_single_examples_coefficients_and_the_series_of_the_figure_are_kept_beside(mine):
    traces = _all_traces()
    _save_traces(mine, traces)

    _result(mine)

    found = load_tensors(mine / "diagnose/mine.safetensors")
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
    _save_traces(mine, traces)

    _result(mine)

    found = load_tensors(mine / "diagnose/mine.safetensors")
    torch.testing.assert_close(
        found["train_learning_coefficient"], 100 * (traces["train"][0].double().mean(dim=0) + 0.5)
    )
    assert found["mean_loss"][1, 50:].isnan().all()


def test_traces_of_an_older_version_have_the_fluctuation_and_no_learning_coefficient(mine):
    _save_traces(mine, _both())

    result = _result(mine)

    found = load_tensors(mine / "diagnose/mine.safetensors")
    assert set(found) == {"mean_loss", "train_singular_fluctuation", "query_singular_fluctuation"}
    assert (result["learning_coefficient"], result["distance"]) == (None, None)


def test_a_method_without_traces_has_an_empty_file_of_tensors(mine):
    _result(mine)

    assert load_tensors(mine / "diagnose/mine.safetensors") == {}


# What the built-in methods keep


@pytest.mark.parametrize(
    ("method", "is_chain"),
    [
        (BIF(step_size=1e-4, inverse_temperature=10.0, localization=100.0, chains=2, draws=6), True),
        (LaplaceBIF(draws=6, batch_size=4), False),
    ],
    ids=["BIF", "LaplaceBIF"],
)
def test_what_a_built_in_method_keeps_can_be_diagnosed(tmp_path, method, is_chain):
    workspace = tmp_path / "workspace" / "mine"
    workspace.mkdir(parents=True)
    problem = make_image_problem(workspace, num_train=12, num_query=5)
    method.attribute(problem, generator=make_generator(0, "draws"))
    _save_scores(tmp_path, status="ok", attributor=dataclasses.asdict(method))

    result = _result(tmp_path)

    assert load_record(workspace / "traces.safetensors")["markov"] is is_chain
    assert (result["markov"], result["draws"]) == (is_chain, 6)
    assert (result["rhat"] is not None) is is_chain
    assert result["loss_standard_deviation"]["median"] > 0


# The table


@pytest.fixture
def tiny(tmp_path: Path):
    """Return an experiment of one repeat, one size and two methods, and its folder of results."""
    experiment = load_experiment(EXPERIMENT)
    data = dataclasses.replace(experiment.data, train_sizes=(120,))
    methods = {name: experiment.methods[name] for name in ("random", "bif")}
    changes = {"name": "tiny", "repeats": 1, "data": data, "methods": methods, "variance": None, "removal": None}
    return dataclasses.replace(experiment, **changes), tmp_path


def _save_cell(folder: Path, train: torch.Tensor, **record: object) -> None:
    cell = folder / "0" / "120"
    for name in ("random", "bif"):
        _save_scores(cell, name, status="ok", attributor={})
    _save_traces(cell, {"train": train, "query": _losses(examples=5)}, name="bif", **record)
    for name in ("random", "bif"):
        _result(cell, name)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "tables" / "diagnostics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_its_columns_and_a_row_for_methods_with_traces_alone(tiny):
    experiment, folder = tiny
    _save_cell(folder, _losses())

    write(experiment, folder, pd.DataFrame())

    (row,) = _rows(folder)
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


def test_the_table_has_what_is_known_of_the_checkpoints_neighbourhood(tiny):
    experiment, folder = tiny
    cell = folder / "0" / "120"
    for name in ("random", "bif"):
        _save_scores(cell, name, status="ok", attributor=SETTINGS)
    _save_traces(cell, _all_traces(), name="bif")
    for name in ("random", "bif"):
        _result(cell, name)

    write(experiment, folder, pd.DataFrame())

    (row,) = _rows(folder)
    assert float(row["distance"]) == pytest.approx(3, abs=0.01)
    assert float(row["distance_growth"]) == pytest.approx(0, abs=0.01)
    assert float(row["learning_coefficient"]) == pytest.approx(50, abs=4 * 1.4)
    assert float(row["learning_coefficient_error"]) == pytest.approx(1.4, rel=0.3)
    assert float(row["singular_fluctuation"]) == pytest.approx(50, rel=0.1)
    # Losses that have nothing in common: the error is larger than the size.
    assert float(row["score_error_share"]) > 1


def test_the_figure_is_drawn_of_traces_of_any_version(tiny):
    experiment, folder = tiny
    _save_cell(folder, _losses())

    write(experiment, folder, pd.DataFrame())

    assert (folder / "figures/diagnostics.png").read_bytes()[:4] == b"\x89PNG"
    assert (folder / "figures/diagnostics.pdf").read_bytes()[:4] == b"%PDF"


def test_a_warning_is_added_to_a_status_in_words_that_are_the_same_in_every_repeat(tiny):
    _, folder = tiny
    _save_cell(folder, _losses() + 9 * torch.arange(2)[:, None, None])

    status = add_warning("ok", folder / "0/120/diagnose/bif.json")

    assert status == "ok; warning: chains not settled, few effective draws (see diagnostics)"
    assert drop_warning(status) == "ok"
    assert add_warning("ok", folder / "0/120/diagnose/random.json") == "ok"
    assert add_warning("ok", folder / "0/120/diagnose/absent.json") == "ok"


def test_a_divergence_that_the_method_names_is_not_named_twice(tiny):
    _, folder = tiny
    losses = _losses()
    losses[1, -1] = torch.nan
    _save_cell(folder, losses)
    diagnosis = folder / "0/120/diagnose/bif.json"

    assert add_warning("ok", diagnosis) == "ok; warning: a chain diverged (see diagnostics)"
    assert (
        add_warning("ok; warning: a chain diverged: do this.", diagnosis) == "ok; warning: a chain diverged: do this."
    )


def test_a_page_lists_what_the_diagnostics_say_once(tiny):
    experiment, folder = tiny
    _save_cell(folder, _losses() + 9 * torch.arange(2)[:, None, None])
    write(experiment, folder, pd.DataFrame())
    place = {"experiment": "tiny", "repeat": "0", "train_size": 120, "method": "bif", "nan_queries": 0}
    lds = pd.DataFrame([{**place, "status": add_warning("ok", folder / "0/120/diagnose/bif.json")}])

    lines = list_warnings({"lds": lds, "diagnostics": load_table(folder / "tables/diagnostics.csv")}, {})

    assert len(lines) == 2  # a sentence each
    assert "R-hat is above" in lines[0]


def test_without_any_traces_there_is_no_table(tiny):
    experiment, folder = tiny
    for name in ("random", "bif"):
        _save_scores(folder / "0/120", name, status="ok")
        _result(folder / "0/120", name)

    write(experiment, folder, pd.DataFrame())

    assert not (folder / "tables").exists()


def test_draws_that_are_no_chain_have_a_row_with_gaps(tiny):
    experiment, folder = tiny
    _save_cell(folder, _losses(), markov=False)

    write(experiment, folder, pd.DataFrame())

    (row,) = _rows(folder)
    assert [row[name] for name in ("rhat_median", "rhat_high", "effective_draws", "drift", "warning")] == [""] * 5
    assert row["loss_standard_deviation"]


def test_a_warning_of_the_table_is_among_the_pages_warnings(tiny):
    experiment, folder = tiny
    _save_cell(folder, _losses() + 9 * torch.arange(2)[:, None, None])
    write(experiment, folder, pd.DataFrame())

    lines = list_warnings({"diagnostics": load_table(folder / "tables/diagnostics.csv")}, {})

    assert len(lines) == 2
    assert lines[0].startswith("bif (repeat 0, n = 120): R-hat is above 1.05 for 100% of the losses")


def test_a_table_without_warnings_adds_none_to_the_page(tiny):
    experiment, folder = tiny
    _save_cell(folder, _losses())
    write(experiment, folder, pd.DataFrame())

    assert list_warnings({"diagnostics": load_table(folder / "tables/diagnostics.csv")}, {}) == []


def test_numbers_that_are_infinite_become_gaps(tiny):
    experiment, folder = tiny
    _save_cell(folder, torch.arange(2.0)[:, None, None].expand(2, 200, 12))
    write(experiment, folder, pd.DataFrame())

    (row,) = _rows(folder)
    assert (row["rhat_median"], row["drift"]) == ("", "")
    assert "R-hat is above" in row["warning"]


def test_a_result_that_was_not_diagnosed_is_a_clear_error(tiny):
    experiment, folder = tiny
    save_json(folder / "0/120/diagnose/random.json", {"traces": False}, {})

    with pytest.raises(FileNotFoundError, match=r"bif\.json"):
        write(experiment, folder, pd.DataFrame())


def test_no_setting_changes_a_diagnosis():
    assert json.loads(load_experiment(EXPERIMENT).stage_settings("diagnose", "bif")) == {}
