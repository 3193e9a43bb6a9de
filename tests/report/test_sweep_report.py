"""What a sweep shows: its table, its heat maps, its loss traces, and its section of the page."""

import itertools

import numpy as np
import pandas as pd
import pytest
from made_up import GRID, make_sweep

from tdabench.questions.sweep.figures import CUT, lay_out, plot_sweep_lds, plot_sweep_traces

KEYS = list(GRID)


def _traces(table: pd.DataFrame, draws=4, chains=2) -> pd.DataFrame:
    """Make traces that rise from 1 by 0.1 a draw; of the points that diverged, to 10 million."""
    rows = []
    for _, row in table[table["repeat"] != "all"].iterrows():
        step = 1e7 if row["status"].startswith("diverged") else 0.1
        for chain, draw in itertools.product(range(chains), range(draws + 1)):
            loss = 1 + step * draw if draw < 3 or step < 1 else np.nan
            place = {name: row[name] for name in ("experiment", "repeat", "train_size", "point")}
            rows.append({**place, "chain": chain, "draw": draw, "loss": loss})
    return pd.DataFrame(rows)


def _texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_table_has_the_settings_of_the_grid_after_the_point_and_rows_over_repeats():
    table = make_sweep(repeats=3)

    assert table.columns.tolist()[3:8] == ["point", *KEYS, "tuning_lds"]
    assert table["repeat"].tolist() == [repeat for repeat in ("0", "1", "2", "all") for _ in range(12)]
    row = table[(table["repeat"] == "all") & (table["point"] == "point 3")].iloc[0]
    assert (row["tuning_lds"], row["localization"], row["cpu_seconds"]) == (pytest.approx(0.031), 1e4, 3)
    assert table[table["repeat"] == "all"]["diverged_chains"].tolist() == [0] * 11 + [2]


def test_the_last_setting_goes_across_the_one_before_it_upwards_and_others_have_panels():
    layout = lay_out(make_sweep(), KEYS)

    assert layout.rows == ("inverse_temperature", (10, 100, 1000))
    assert layout.columns == ("localization", (1e3, 1e4))
    assert [layout.title(panel) for panel in layout.panels] == ["step size 0.0001", "step size 0.001"]
    cell = layout.cell(make_sweep(), layout.panels[1], 100, 1e4)
    assert tuple(cell[key] for key in KEYS) == (1e-3, 100, 1e4)


def test_a_grid_of_one_setting_is_a_single_row():
    table = make_sweep({"damping": (None, 0.5, True)})

    (axes, _) = plot_sweep_lds(table, ["damping"]).axes

    assert [label.get_text() for label in axes.get_xticklabels()] == ["null", "0.5", "true"]
    assert axes.get_xlabel() == "damping"
    assert _texts(axes) == ["0.000 •", "0.010", "diverged"]


def test_several_sizes_and_a_fourth_setting_have_panels_of_their_own():
    table = make_sweep({"draws": (50, 100), **GRID}, sizes=(100, 400))

    layout = lay_out(table, ["draws", *KEYS])

    assert len(layout.panels) == 8
    assert layout.title(layout.panels[-1]) == "n = 400, draws 100, step size 0.001"
    assert (layout.across, layout.down) == (3, 3)


def test_every_cell_of_the_heat_maps_has_its_number_or_the_reason_why_there_is_none():
    *panels, bar = plot_sweep_lds(make_sweep(), KEYS).axes

    assert [text for axes in panels for text in _texts(axes)] == [
        *(f"{0.01 * place:.3f}" for place in range(9)), "0.090 •", "0.100", "diverged"
    ]  # fmt: skip
    framed = [patch.get_xy() for axes in panels for patch in axes.patches if patch.get_gid() == "best"]
    assert framed == [(pytest.approx(-0.46), pytest.approx(1.54))]
    hatched = [patch.get_xy() for axes in panels for patch in axes.patches if patch.get_hatch()]
    assert hatched == [(0.5, 1.5)]
    assert bar.get_ylabel() == "tuning LDS"


def test_cells_of_equal_lds_have_one_colour_in_every_panel():
    table = make_sweep()
    table["tuning_lds"] = table["tuning_lds"].where(table["tuning_lds"].isna(), 0.25)

    *panels, _ = plot_sweep_lds(table, KEYS).axes

    faces = {
        patch.get_facecolor() for axes in panels for patch in axes.patches if patch.get_edgecolor() == (1, 1, 1, 1)
    }
    assert len(faces) == 1


def test_traces_stand_where_the_cells_of_the_heat_maps_do_with_the_checkpoints_loss():
    table = make_sweep()

    axes = plot_sweep_traces(table, _traces(table), KEYS).axes

    assert len(axes) == 12
    # The topmost row of the second panel: inverse temperature 1,000, of which the last diverged.
    diverged = [place for place, one in enumerate(axes) if "diverged" in _texts(one)]
    assert diverged == [7]
    first, dashed, *_ = axes[0].lines
    assert first.get_ydata().tolist() == pytest.approx([1, 1.1, 1.2, 1.3, 1.4])
    assert dashed.get_ydata() == [1, 1]
    assert _texts(axes[0]) == ["+0.100"]


def test_a_chain_that_diverged_is_cut_and_marked_and_does_not_stretch_the_scale():
    table = make_sweep()

    axes = plot_sweep_traces(table, _traces(table), KEYS).axes[7]

    low, high = axes.get_ylim()
    assert 0.8 < low < 1
    assert 1.4 < high < 2 < CUT
    line, mark = axes.lines[:2]
    assert line.get_ydata().tolist() == pytest.approx([1, high])
    assert (mark.get_marker(), mark.get_xdata()[0], mark.get_ydata()[0]) == ("x", 1, high)


def test_a_single_chain_that_diverged_beside_a_whole_one_does_not_stretch_the_scale():
    table, traces = make_sweep(), _traces(make_sweep())
    traces.loc[(traces["point"] == "point 2") & (traces["chain"] == 1) & (traces["draw"] > 1), "loss"] = 1e9

    high = plot_sweep_traces(table, traces, KEYS).axes[0].get_ylim()[1]

    assert high < 2
