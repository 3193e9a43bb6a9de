"""The figure of quality against cost: what is drawn where, which points are joined, and names that cover nothing."""

import itertools

import numpy as np
import pandas as pd
import pytest
from made_up import make_compared, make_cost, make_growth, make_lds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from tdabench.drawing.labels import Label, place_labels
from tdabench.drawing.style import COLOURS, find_base, method_styles
from tdabench.experiment.components import Component
from tdabench.questions.lds.frontier import find_lines, make_frontier_table, plot_frontier, short_labels

METHODS = ("bif", "trak_1x500", "trak_3x500", "trak_10x500", "trak_3x128", "trak_3x900", "ekfac", "random")


def _trak(checkpoints: int, proj_dim: int) -> Component:
    return Component(path="room:TRAK", settings={"checkpoints": checkpoints, "proj_dim": proj_dim})


COMPONENTS = {
    "bif": Component(path="room:BIF", settings={"draws": 100}),
    **{f"trak_{a}x{b}": _trak(a, b) for a, b in ((1, 500), (3, 500), (10, 500), (3, 128), (3, 900))},
    "ekfac": Component(path="room:Kronfluence", settings={"strategy": "ekfac", "damping": 0.1}),
    "kfac": Component(path="room:Kronfluence", settings={"strategy": "kfac", "damping": 0.1}),
    "random": Component(path="room:Random", settings={}),
}


@pytest.fixture
def cost() -> pd.DataFrame:
    cost = make_cost(methods=METHODS)
    places = {method: place for place, method in enumerate(METHODS)}
    cost["passes"] = [
        0 if method == "random" else 1000 * (1 + places.get(method, 0)) if phase == "score" else 500
        for method, phase in zip(cost["method"], cost["phase"], strict=True)
    ]
    return cost


def _plot(cost: pd.DataFrame, **options) -> Figure:
    growth = options.pop("growth", make_growth()["growth"])
    lds = make_lds(methods=METHODS, **options)
    return plot_frontier(lds, cost, growth, make_compared(methods=METHODS)["null"], COMPONENTS)


def _points(axes) -> set[tuple[float, float]]:
    """Return the places of the methods' markers: those with bars."""
    return {
        (round(float(container.lines[0].get_xdata()[0]), 3), round(float(container.lines[0].get_ydata()[0]), 4))
        for container in axes.containers
    }


# The figure


def test_there_is_a_row_of_panels_a_size_with_cpu_seconds_and_passes(cost):
    figure = _plot(cost)

    panels = np.array(figure.axes).reshape(2, 2)
    assert [axes.get_title(loc="left") for axes in panels[:, 0]] == ["n = 100", "n = 400"]
    assert [axes.get_xlabel() for axes in panels[1]] == [
        "CPU time, fit and score (s)", "forward passes of one example (a gradient is 3)",
    ]  # fmt: skip
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}


def test_a_point_is_a_methods_mean_over_repeats_at_its_whole_cost(cost):
    seconds, passes = _plot(cost).axes[2:]

    lds = make_lds(methods=METHODS)
    over = lds[(lds["repeat"] == "all") & (lds["train_size"] == 400)].set_index("method")["lds"].astype(float)
    # Half of 10 and of 11 s of fitting, and of 1,000 s a place of scoring.
    expected = {(round(5.25 + 500.0 * place, 3), round(over[method], 4)) for place, method in enumerate(METHODS[:-1])}
    assert _points(seconds) == expected
    assert {x for x, _ in _points(passes)} == {1500.0 + 1000 * place for place in range(7)}


@pytest.mark.parametrize("above", [False, True])
def test_a_method_that_makes_no_pass_is_a_line_if_it_is_above_chance_and_left_out_otherwise(cost, above):
    lds, null = make_lds(methods=METHODS), make_compared(methods=METHODS)["null"]
    of_random = lds["method"] == "random"
    lds.loc[of_random, ["lds", "low", "high", "standard_error"]] = [0.3, 0.28, 0.32, 0.01] if above else [0.01] * 4
    null.loc[null["method"] == "random", "null_high"] = 0.05

    for axes in plot_frontier(lds, cost, None, null, COMPONENTS).axes:
        named = [text.get_text() for text in axes.texts if "random" in text.get_text()]
        assert named == (["random, no pass"] if above else [])
        assert len(axes.containers) == len(METHODS) - 1
        levels = {float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "--"}
        assert levels == ({0.3} if above else set())
        # The best that is to be had at each price is at least what costs nothing.
        steps = next(line for line in axes.lines if line.get_drawstyle() == "steps-post")
        assert steps.get_ydata().min() >= (0.3 if above else 0)


def test_without_counted_passes_there_is_one_panel_a_size(cost):
    figure = _plot(cost.assign(passes=pd.array([None] * len(cost), dtype="Int64")))

    assert len(figure.axes) == 2
    assert "random" in [text.get_text() for text in figure.axes[0].texts]


def test_a_method_of_which_one_phase_counts_nothing_has_no_passes(cost):
    cost["passes"] = cost["passes"].astype(float)
    cost.loc[(cost["method"] == "ekfac") & (cost["phase"] == "fit"), "passes"] = np.nan

    table = make_frontier_table(make_lds(methods=METHODS), cost).set_index(["method", "train_size"])

    assert table.loc[("ekfac", 400), "passes"] != table.loc[("ekfac", 400), "passes"]
    assert table.loc[("bif", 400), "passes"] == 1500


def test_draws_that_grow_are_one_line_and_methods_that_differ_in_a_number_another(cost):
    axes = _plot(cost).axes[3]

    lines = [np.round(line.get_xydata(), 4).tolist() for line in axes.lines]
    assert [[4000, 0.3], [20000, 0.4], [100000, 0.5]] in lines
    x = {method: 1500 + 1000 * place for place, method in enumerate(METHODS)}
    joined = [[point[0] for point in line] for line in lines]
    assert [x["trak_1x500"], x["trak_3x500"], x["trak_10x500"]] in joined
    assert [x["trak_3x128"], x["trak_3x500"], x["trak_3x900"]] in joined


def test_the_best_of_a_line_has_its_whole_name_and_the_others_what_differs(cost):
    texts = [text.get_text() for text in _plot(cost).axes[3].texts]

    lds = make_lds(methods=METHODS)
    over = lds[(lds["repeat"] == "all") & (lds["train_size"] == 400)].set_index("method")["lds"].astype(float)
    best = over[[name for name in METHODS if name.startswith("trak")]].idxmax()
    assert f"TRAK {best.removeprefix('trak_')}" in texts
    assert {"10x500", "3x900", "BIF, 100 draws", "4 draws", "EK-FAC", "ceiling", "chance"} <= set(texts)


@pytest.mark.parametrize("growth", [None, pd.DataFrame()])
def test_a_figure_needs_no_method_that_draws(cost, growth):
    figure = _plot(cost, growth=None if growth is None else make_growth()["growth"].head(0))

    assert "BIF" in [text.get_text() for text in figure.axes[0].texts]


# Names


def _boxes(axes) -> list:
    renderer = FigureCanvasAgg(axes.get_figure()).get_renderer()
    return [text.get_window_extent(renderer) for text in axes.texts if isinstance(text, Annotation)]


def test_names_of_crowded_points_cover_neither_each_other_nor_a_point_and_stay_inside():
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    generator = np.random.Generator(np.random.PCG64(0))
    places = 0.5 + 0.12 * generator.standard_normal((17, 2))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)

    labels = [Label(text=f"method {place}", x=x, y=y, colour="#0072b2") for place, (x, y) in enumerate(places)]
    place_labels(axes, labels, [])

    boxes, frame = _boxes(axes), axes.get_window_extent()
    assert len(boxes) == 17
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
    points = axes.transData.transform(places)
    assert not [1 for box in boxes for x, y in points if box.x0 <= x <= box.x1 and box.y0 <= y <= box.y1]
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)


def test_a_name_stands_beside_its_point_where_there_is_room():
    figure = Figure(figsize=(5, 4))
    axes = figure.subplots()
    axes.set_xlim(1, 100)
    axes.set_xscale("log")

    place_labels(axes, [Label(text="alone", x=10.0, y=0.5, colour="#0072b2")], [np.array([[10.0, 0.2], [10.0, 0.8]])])

    (box,), at = _boxes(axes), axes.transData.transform((10.0, 0.5))
    assert box.x0 - at[0] == pytest.approx(6 * figure.dpi / 72, abs=1)
    assert (box.y0 + box.y1) / 2 == pytest.approx(at[1], abs=1)


# Variants


def test_methods_are_joined_if_they_differ_in_one_number_alone():
    assert find_lines(COMPONENTS) == [
        ["trak_1x500", "trak_3x500", "trak_10x500"],
        ["trak_3x128", "trak_3x500", "trak_3x900"],
    ]


@pytest.mark.parametrize("setting", [{"flag": True}, {"strategy": "kfac"}, {}])
def test_methods_that_differ_in_a_word_or_have_no_number_are_not_joined(setting):
    one, other = Component(path="a:A", settings={"flag": False}), Component(path="a:A", settings=setting)

    assert find_lines({"one": one, "other": other}) == []


def test_a_variant_belongs_to_the_longest_known_method_of_its_name():
    found = [find_base(name, COLOURS) for name in ("bif_laplace_25", "bif_25", "bif", "trak_3x128", "mine", "biffy")]

    assert found == ["bif_laplace", "bif", "bif", "trak", None, None]


def test_variants_have_shades_of_their_methods_colour_from_light_to_dark_and_its_name_and_marker():
    methods = ["trak", "trak_1x500", "trak_3x500", "trak_10x500", "mine", "other"]
    styles = method_styles(methods)

    colours = [styles[method]["color"] for method in methods]
    assert colours[0] == COLOURS["trak"]
    assert len(set(colours)) == len(methods)
    brightness = [sum(int(colour[place : place + 2], 16) for place in (1, 3, 5)) for colour in colours[1:4]]
    assert brightness == sorted(brightness, reverse=True)
    assert styles["trak_3x500"]["label"] == "TRAK 3x500"
    assert {styles[method]["marker"] for method in methods[:4]} == {styles["trak"]["marker"]}
    assert styles["mine"]["label"] == "mine"


def test_labels_of_a_line_are_shortened_only_if_one_word_differs():
    assert short_labels(["TRAK 1x500", "TRAK 3x500"]) == ["1x500", "3x500"]
    assert short_labels(["TRAK 1x500", "mine"]) == ["TRAK 1x500", "mine"]
    assert short_labels(["cheap", "dear"]) == ["cheap", "dear"]
