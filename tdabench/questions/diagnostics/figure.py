"""Figure of the loss along the chains of the methods that draw."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tdabench.drawing.style import DARK, LABELS, OTHERS, make_panels, styled, write_title

# What a figure needs of a diagnosis's tensors.
SERIES = ("mean_loss", "draw_step", "step_loss", "checkpoint_loss")
# Points of a line of minibatches: more can't be told apart.
MOST_POINTS = 1000
CHECKPOINT, MINIBATCH = DARK, "#c8c8c8"
CHAINS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", *OTHERS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossTraces:
    """Losses along a method's chains, in nats; NaN after a divergence, nothing where traces are of an older version.

    Attributes:
        mean_loss: Mean training loss at each draw.
        draw_step: After how many steps each draw was.
        step_loss: Mean loss of each step's minibatch, from the reference set.
        checkpoint_loss: Mean training loss of the checkpoint.
    """

    method: str
    train_size: int
    mean_loss: Float[np.ndarray, "chain draw"]
    draw_step: Int[np.ndarray, "chain draw"] | None = None
    step_loss: Float[np.ndarray, "chain step"] | None = None
    checkpoint_loss: Float[np.ndarray, ""] | None = None


@styled()
def plot_loss_traces(traces: Sequence[LossTraces]) -> Figure:
    """Draw the mean training loss along each chain beside the checkpoint's: a row a method, a column a size."""
    methods = list(dict.fromkeys(trace.method for trace in traces))
    sizes = sorted({trace.train_size for trace in traces})
    width, height = 1.6 + 2.9 * len(sizes), 0.7 + 2.1 * len(methods)
    figure, panels = make_panels(width, height, across=len(sizes), down=len(methods))
    for axes in panels.flat:
        axes.set_visible(False)
    for trace in traces:
        axes = panels[methods.index(trace.method), sizes.index(trace.train_size)]
        _draw(axes, trace)
        axes.set_title(f"{LABELS.get(trace.method, trace.method)}, n = {trace.train_size:,}", loc="left")
        axes.set_visible(True)
    for axes in panels[:, 0]:
        axes.set_ylabel("loss (nats)")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    title = (
        "first repeat; colours: mean training loss at each draw, a chain each; grey: minibatches; dashed: the "
        "checkpoint's"
    )
    write_title(figure, title, 8)
    return figure


def _draw(axes: Axes, trace: LossTraces) -> None:
    """Draw one panel; its scale is that of the draws, since minibatches scatter wider."""
    chains, draws = trace.mean_loss.shape
    steps = np.arange(1, draws + 1) + np.zeros((chains, 1)) if trace.draw_step is None else trace.draw_step
    alone = {"linestyle": "none", "marker": "."} if draws == 1 else {}
    for chain in range(chains):
        if trace.step_loss is not None:
            _draw_minibatches(axes, trace.step_loss[chain])
        axes.plot(
            steps[chain], trace.mean_loss[chain], color=CHAINS[chain % len(CHAINS)], linewidth=1.1, zorder=3, **alone
        )
    shown = trace.mean_loss[np.isfinite(trace.mean_loss)]
    if trace.checkpoint_loss is not None:
        level = float(trace.checkpoint_loss)
        axes.axhline(level, color=CHECKPOINT, linestyle="--", linewidth=1, zorder=4)
        shown = np.append(shown, level)
    if not len(shown):
        return
    # A chain that diverged would hide the others: the limits are those of the better half, and what is near it.
    low, middle = shown.min(), np.median(shown)
    high = min(shown.max(), middle + 4 * max(middle - low, 1e-3))
    margin = 0.08 * max(high - low, 1e-6)
    axes.set_ylim(low - margin, high + margin)


def _draw_minibatches(axes: Axes, losses: Float[np.ndarray, " step"]) -> None:
    if np.isfinite(losses).any():
        every = max(1, len(losses) // MOST_POINTS)
        steps = np.arange(1, len(losses) + 1)
        axes.plot(steps[::every], losses[::every], color=MINIBATCH, linewidth=0.6, alpha=0.6, zorder=1)
