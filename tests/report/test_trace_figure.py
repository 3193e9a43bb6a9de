import numpy as np
import pytest

from tdabench.questions.diagnostics.figure import MOST_POINTS, LossTraces, plot_loss_traces


def _traces(**changes) -> LossTraces:
    steps = np.arange(10, 110, 10) + np.zeros((2, 1), dtype=int)
    parts = {
        "method": "bif",
        "train_size": 250,
        "mean_loss": np.linspace(0.5, 0.7, 20).reshape(2, 10),
        "draw_step": steps,
        "step_loss": np.linspace(0, 9, 200).reshape(2, 100),
        "checkpoint_loss": np.array(0.45),
    }
    return LossTraces(**{**parts, **changes})


def _lines(axes) -> dict[str, list]:
    found = {"draws": [], "minibatches": [], "checkpoint": []}
    for line in axes.get_lines():
        kind = "checkpoint" if line.get_linestyle() == "--" else "minibatches" if line.get_alpha() else "draws"
        found[kind].append(line)
    return found


def test_a_panel_has_every_chains_draws_its_minibatches_and_the_checkpoint():
    traces = _traces()

    (axes,) = plot_loss_traces([traces]).axes

    lines = _lines(axes)
    assert {kind: len(found) for kind, found in lines.items()} == {"draws": 2, "minibatches": 2, "checkpoint": 1}
    for chain in range(2):
        np.testing.assert_array_equal(lines["draws"][chain].get_xdata(), traces.draw_step[chain])
        np.testing.assert_array_equal(lines["draws"][chain].get_ydata(), traces.mean_loss[chain])
    assert len({line.get_color() for line in lines["draws"]}) == 2
    assert set(lines["checkpoint"][0].get_ydata()) == {0.45}
    assert axes.get_title(loc="left") == "BIF, n = 250"


def test_every_method_and_size_has_its_panel_and_what_was_not_drawn_has_none():
    traces = [_traces(), _traces(train_size=500), _traces(method="mine", train_size=500)]

    panels = plot_loss_traces(traces).axes

    assert [axes.get_title(loc="left") for axes in panels if axes.get_visible()] == [
        "BIF, n = 250", "BIF, n = 500", "mine, n = 500",
    ]  # fmt: skip


def test_traces_of_an_older_version_are_drawn_by_the_number_of_the_draw():
    (axes,) = plot_loss_traces([_traces(draw_step=None, step_loss=None, checkpoint_loss=None)]).axes

    lines = _lines(axes)
    assert {kind: len(found) for kind, found in lines.items()} == {"draws": 2, "minibatches": 0, "checkpoint": 0}
    assert lines["draws"][0].get_xdata().tolist() == list(range(1, 11))


def test_a_chain_that_diverged_does_not_hide_the_others():
    losses = np.linspace(0.5, 0.7, 20).reshape(2, 10)
    losses[1, 7] = 9e5
    losses[1, 8:] = np.nan

    (axes,) = plot_loss_traces([_traces(mean_loss=losses)]).axes

    low, high = axes.get_ylim()
    assert low < 0.45
    assert 0.59 < high < 2


def test_chains_that_all_diverged_before_a_draw_still_have_a_panel():
    (axes,) = plot_loss_traces([_traces(mean_loss=np.full((2, 10), np.nan), checkpoint_loss=None)]).axes

    assert axes.get_visible()


def test_draws_without_minibatches_have_no_grey_line():
    (axes,) = plot_loss_traces([_traces(step_loss=np.full((2, 100), np.nan))]).axes

    assert _lines(axes)["minibatches"] == []


def test_long_chains_are_thinned_and_a_single_draw_is_a_point():
    steps = np.ones((2, 20 * MOST_POINTS))
    single = _traces(mean_loss=np.array([[0.5], [0.6]]), draw_step=np.array([[1], [1]]), step_loss=steps)

    (axes,) = plot_loss_traces([single]).axes

    lines = _lines(axes)
    assert all(len(line.get_xdata()) == MOST_POINTS for line in lines["minibatches"])
    assert {line.get_marker() for line in lines["draws"]} == {"."}


@pytest.mark.parametrize("count", [1, 3])
def test_a_figure_grows_with_its_methods(count):
    figure = plot_loss_traces([_traces(method=f"method_{place}") for place in range(count)])

    assert figure.get_figheight() == pytest.approx(0.7 + 2.1 * count)
