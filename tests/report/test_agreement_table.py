import itertools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from tdabench.questions.agreement.figure import plot_agreement
from tdabench.questions.lds.tables import AGREEMENT

METHODS = ("bif", "ekfac", "mine")
COLUMNS = (
    "experiment,repeat,train_size,first,second,rank_correlation,rank_low,rank_high,overlap,overlap_low,overlap_high,"
    "top,queries,harmful_overlap,harmful_low,harmful_high,nan_queries"
)


def _rows(repeats: int = 2, sizes: tuple[int, ...] = (100, 200)) -> list[dict[str, Any]]:
    """Return rows whose rank correlation says which repeat, size and pair they are of."""
    return [
        {
            "experiment": "tiny", "repeat": repeat, "train_size": size, "first": first, "second": second,
            "rank_correlation": 0.1 * (index + 1) + 0.01 * repeat + size / 10_000, "rank_low": 0.0, "rank_high": 0.5,
            "overlap": 0.3 + 0.1 * repeat, "overlap_low": 0.2, "overlap_high": 0.5, "top": 10, "queries": 20,
            "harmful_overlap": 0.25, "harmful_low": 0.2, "harmful_high": 0.3, "nan_queries": 1,
        }
        for repeat in range(repeats)
        for size in sizes
        for index, (first, second) in enumerate(itertools.combinations(METHODS, 2))
    ]  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return AGREEMENT.add_rows_over_repeats(rows, 0.9)


def _cells(figure: Figure, panel: int) -> dict[tuple[str, str], str]:
    """Read a matrix back: what is written in the cell of a row and a column."""
    axes = figure.axes[panel]
    rows, columns = (
        [label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())
    )
    return {
        (rows[round(text.get_position()[1])], columns[round(text.get_position()[0])]): text.get_text()
        for text in axes.texts
    }


def test_the_table_has_its_columns_and_a_row_over_repeats_for_each_size_and_pair():
    table = _table(_rows())

    assert ",".join(table.columns) == COLUMNS
    assert table["repeat"].tolist() == ["0"] * 6 + ["1"] * 6 + ["all"] * 6
    assert table["train_size"].tolist()[-6:] == [100, 100, 100, 200, 200, 200]


def test_the_figure_writes_the_values_at_the_largest_size_in_the_order_of_the_ranking():
    figure = plot_agreement(_table(_rows(repeats=1)), ["mine", "absent", "ekfac", "bif"])

    assert _cells(figure, 0) == {("EK-FAC", "mine"): "0.32", ("BIF", "mine"): "0.22", ("BIF", "EK-FAC"): "0.12"}
    assert _cells(figure, 1) == dict.fromkeys(_cells(figure, 0), "0.30")
    assert "n = 200" in figure.get_suptitle()
    assert "10 most helpful" in figure.axes[1].get_title(loc="left")
    assert "0.05" in figure.axes[1].get_xlabel()


def test_a_missing_value_is_a_dash_and_a_tiny_negative_one_is_no_minus_zero():
    rows = _rows(repeats=1, sizes=(100,))
    rows[0]["rank_correlation"], rows[1]["rank_correlation"] = None, -0.001

    cells = _cells(plot_agreement(_table(rows), METHODS), 0)

    assert cells["EK-FAC", "BIF"] == "—"
    assert cells["mine", "BIF"] == "0.00"


def test_a_negative_value_is_written_with_a_minus():
    rows = [{**row, "rank_correlation": -0.25} for row in _rows(repeats=1)]

    assert set(_cells(plot_agreement(_table(rows), METHODS), 0).values()) == {"−0.25"}


def test_without_a_pair_the_table_is_empty_and_the_figure_says_so():
    table = _table([])

    figure = plot_agreement(table, ["bif"])

    assert len(table) == 0
    assert ",".join(table.columns) == COLUMNS
    assert [text.get_text() for text in figure.texts] == ["fewer than two methods have scores"]
