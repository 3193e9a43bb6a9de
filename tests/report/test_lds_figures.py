"""The figures of the LDS: what stands where, with several sizes and with one."""

import pandas as pd
import pytest
from made_up import make_lds
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from tdabench.questions.lds.figures import plot_lds, plot_lds_by_repeat

METHODS = ("ekfac", "bif", "trak")


def _points(axes) -> list[tuple[float, float]]:
    drawn = [bar.lines[0] for bar in axes.containers if isinstance(bar, ErrorbarContainer)]
    return [(float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def _rows(axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_every_repeat_has_its_panel_with_a_curve_a_method():
    panels = plot_lds_by_repeat(make_lds(METHODS, repeats=4)).axes

    assert [axes.get_title(loc="left") for axes in panels if axes.get_visible()] == [f"repeat {i}" for i in range(4)]
    assert all(len(axes.containers) == len(METHODS) for axes in panels[:4])
    assert sorted({x for x, _ in _points(panels[0])}) == [100, 400]


def test_with_one_size_a_repeat_has_a_row_a_method_by_their_mean_over_repeats():
    lds = make_lds(METHODS, sizes=(100,), repeats=2)
    first_in_one = (lds["repeat"] == "1") & (lds["method"] == "bif")
    lds.loc[first_in_one, ["lds", "low", "high"]] += 0.15  # above EK-FAC's 0.75 there, below it on average

    first, second = plot_lds_by_repeat(lds).axes

    assert _rows(first) == ["TRAK", "BIF", "EK-FAC"]  # from the bottom
    assert [axes.get_xlabel() for axes in (first, second)] == ["LDS at n = 100"] * 2
    for axes, repeat in ((first, "0"), (second, "1")):
        of_repeat = lds[lds["repeat"] == repeat].set_index("method")["lds"]
        drawn = {int(place): value for value, place in _points(axes)}
        assert drawn == pytest.approx(dict(enumerate(of_repeat[["trak", "bif", "ekfac"]])))


def test_a_method_that_could_not_run_has_no_row():
    figure = plot_lds_by_repeat(make_lds(METHODS, sizes=(100,), unsupported=("bif",)))

    assert _rows(figure.axes[0]) == ["TRAK", "EK-FAC"]


@pytest.mark.parametrize("plot", [plot_lds, plot_lds_by_repeat])
@pytest.mark.parametrize("sizes", [(100,), (100, 400)])
def test_where_no_method_could_run_there_still_is_a_figure(plot, sizes):
    lds: pd.DataFrame = make_lds(METHODS, sizes=sizes, unsupported=METHODS)

    assert isinstance(plot(lds), Figure)
