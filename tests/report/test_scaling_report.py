"""Figures and tables of cost against model size, from made-up costs that are exact power laws."""

import io

import pandas as pd
import pytest
from made_scaling import SETTINGS, UNSEEN, make_run, make_scaling
from matplotlib.figure import Figure

from tdabench.questions.scaling.costs import break_evens, fit_costs, predict_costs
from tdabench.questions.scaling.figures import plot_break_even, plot_scaling
from tdabench.questions.scaling.report import SCALING, make_scaling_table, summarise_scaling

TABLE, FITS, PREDICTIONS, CROSSINGS = make_scaling().values()


def _law(method: str, phase: str, quantity: str, draws: float | None = None) -> pd.Series:
    rows = FITS[(FITS["method"] == method) & (FITS["phase"] == phase) & (FITS["quantity"] == quantity)]
    rows = rows[(rows["against"] == "parameters") & (rows["draws"].isna() if draws is None else rows["draws"] == draws)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_exponents_are_found_by_phase_and_a_run_without_cost_is_no_point():
    fit = _law("ekfac", "fit", "seconds")

    assert fit["exponent"] == pytest.approx(1.5)
    assert (fit["sizes"], fit["held_out"]) == (3, "160m")
    assert fit["predicted"] == pytest.approx(fit["measured"])
    assert _law("ekfac", "score", "seconds")["exponent"] == pytest.approx(1)
    assert 1 < _law("ekfac", "total", "seconds")["exponent"] < 1.5


def test_a_method_with_one_phase_is_fitted_once_and_a_cost_of_nothing_not_at_all():
    assert set(FITS.loc[FITS["method"] == "bif", "phase"]) == {"total"}
    assert _law("bif", "total", "host_bytes", 20)["exponent"] == pytest.approx(1)  # above what was there before
    assert "peak_device_bytes" not in set(FITS["quantity"])


def test_more_draws_than_were_made_cost_a_draw_each():
    made, more = (_law("bif", "total", "seconds", draws) for draws in (20, 2000))

    at_14m = [law["coefficient"] * 14e6 ** law["exponent"] for law in (made, more)]
    assert at_14m == pytest.approx([20 * 1.18, 2000 * 1.18])


def test_sizes_that_were_not_run_are_predicted_by_either_count_of_parameters():
    rows = PREDICTIONS[(PREDICTIONS["method"] == "ekfac") & (PREDICTIONS["phase"] == "fit")]
    seconds = rows[rows["quantity"] == "seconds"].set_index("against")["predicted"]

    assert seconds["parameters"] == pytest.approx(40 * (1e9 / 14e6) ** 1.5)
    assert seconds["tracked_parameters"] == pytest.approx(40 * (8e8 / 7e6) ** 1.5)


def test_a_fit_pays_for_itself_between_two_numbers_of_queries():
    rows = CROSSINGS[CROSSINGS["quantity"] == "seconds"].set_index("draws")

    # 41 + q/100 against 20 + q/5, at 14m.
    assert rows.loc[20, "predicted"] == pytest.approx(21 / 0.19)
    assert rows.loc[20, "measured"] == pytest.approx(21 / 0.19)
    assert (rows.loc[20, "low"], rows.loc[20, "high"]) == (18, 200)
    assert rows.loc[2000, "verdict"] == "cheaper from the first query on"
    assert pd.isna(rows.loc[2000, "measured"])


def test_the_text_has_seconds_by_size_and_the_exponent_with_its_interval():
    text = summarise_scaling(TABLE, FITS).set_index(["method", "phase"])

    assert list(text.columns) == ["14m (s)", "31m (s)", "70m (s)", "160m (s)", "exponent"]
    assert text.loc[("ekfac", "fit"), "14m (s)"] == "40"
    assert text.loc[("ekfac", "score"), "70m (s)"] == "out of memory"
    assert text.loc[("ekfac", "fit"), "exponent"] == "1.50 (1.50 to 1.50)"


def test_the_table_has_its_columns_even_where_nothing_was_measured():
    lost = make_scaling_table([make_run("ekfac", "14m", phase="score", queries=18, status="out of time: ...")])

    assert list(lost.columns) == SCALING.names
    assert fit_costs(lost, **SETTINGS).empty
    assert predict_costs(lost, UNSEEN, **SETTINGS).empty
    assert break_evens(lost, draws=2000).empty
    _draw(plot_scaling(lost, fit_costs(lost, **SETTINGS), predict_costs(lost, UNSEEN, **SETTINGS), 18))


def test_the_figure_has_a_panel_for_each_cost_and_hollow_marks_for_what_is_predicted():
    figure = plot_scaling(TABLE, FITS, PREDICTIONS, 18)

    assert [axes.get_ylabel() for axes in figure.axes] == [
        "wall-clock (s)", "memory of the model and method (GiB)", "disk (GiB)",
    ]  # fmt: skip
    time = figure.axes[0]
    assert (time.get_xscale(), time.get_yscale()) == ("log", "log")
    hollow = [line for line in time.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 3  # EK-FAC, BIF, and BIF with 2,000 draws
    assert all(line.get_xdata() == [10**9] for line in hollow)
    measured = [line for line in time.lines if line.get_linestyle() == "None" and line not in hollow]
    assert max(max(line.get_xdata()) for line in measured) == 162e6
    _draw(figure)


def test_a_fit_of_next_to_nothing_is_not_drawn():
    def small(method, phase):
        return (table["method"] == method) & (table["phase"] == phase)

    table = TABLE.copy()
    table.loc[small("ekfac", "fit"), "seconds"] = 0.001
    fits = fit_costs(table, **SETTINGS)
    dotted = [
        [line for line in plot_scaling(*shown, PREDICTIONS, 18).axes[0].lines if line.get_linestyle() == ":"]
        for shown in ((TABLE, FITS), (table, fits))
    ]

    assert [len(lines) > 0 for lines in dotted] == [True, False]
    assert ":" not in [
        line.get_linestyle() for line in plot_scaling(table, fits, PREDICTIONS, 18).legends[0].get_lines()
    ]


def test_an_interval_without_end_does_not_flatten_what_is_measured():
    wide = PREDICTIONS.assign(
        predicted_low=PREDICTIONS["predicted"] / 1e9, predicted_high=PREDICTIONS["predicted"] * 1e9
    )

    for shown, plain in zip(
        plot_scaling(TABLE, FITS, wide, 18).axes, plot_scaling(TABLE, FITS, PREDICTIONS, 18).axes, strict=True
    ):
        assert shown.get_ylim() == plain.get_ylim()


def test_the_break_even_figure_has_a_panel_a_size_and_a_line_where_the_costs_cross():
    figure = plot_break_even(TABLE, CROSSINGS)

    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "14m"
    vertical = [line for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert [line.get_xdata()[0] for line in vertical] == pytest.approx([21 / 0.19])
    _draw(figure)


def test_what_more_draws_would_cost_is_drawn_once_however_many_methods_it_is_set_against():
    crossings = pd.concat([CROSSINGS, CROSSINGS.assign(method="bif")])

    (legend,) = plot_break_even(TABLE, crossings).legends
    names = [text.get_text() for text in legend.get_texts()]

    assert names.count("BIF, 2,000 draws (predicted)") == 1
    assert any(name.endswith(" draws") for name in names)


def _draw(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png")
