"""Names beside points, where they cover nothing."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.transforms import Bbox, BboxBase

# Where a name may stand: distances from its point in typographic points, directions in degrees, the best ones first.
DISTANCES = (6, 11, 18, 27, 38, 52, 70)
DIRECTIONS = (0, 180, 90, 270, 45, 315, 135, 225, 20, 160, 340, 200)
# From here on, a thin line leads to the point.
FAR = 15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
    """A name, its colour, and the point that it belongs to."""

    text: str
    x: float
    y: float
    colour: str


def place_labels(axes: Axes, labels: Sequence[Label], curves: Sequence[Float[np.ndarray, "_ 2"]]) -> None:
    """Write each name at the first place near its point where it covers least: of names, points, then lines.

    The figure's layout has to be settled: places depend on the size of the axes.

    Args:
        curves: Lines in the units of the axes; their vertices are points that no name may cover.
    """
    figure = axes.get_figure()
    renderer, scale = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72
    drawn = [axes.transData.transform(curve) for curve in curves]
    points = np.concatenate([*drawn, axes.transData.transform([(label.x, label.y) for label in labels])])
    along = np.concatenate([points[:0], *(_fill_in(curve) for curve in drawn)])
    taken: list[Bbox] = []
    frame = axes.get_window_extent(renderer)
    for label in labels:
        text = axes.annotate(
            label.text, (label.x, label.y), xytext=(0, 0), textcoords="offset points", fontsize=7,
            color=_readable(label.colour), ha="center", va="center", annotation_clip=False,
        )  # fmt: skip
        size = text.get_window_extent(renderer)
        at = axes.transData.transform((label.x, label.y))
        places = [
            _box(at, size.width, size.height, distance * scale, math.radians(angle))
            for distance in DISTANCES
            for angle in DIRECTIONS
        ]
        costs = [_cost(box, frame, taken, points, along) for box in places]
        best = int(np.argmin([cost + place / 1000 for place, cost in enumerate(costs)]))
        box = places[best]
        text.xyann = ((box.x0 + box.x1) / 2 - at[0]) / scale, ((box.y0 + box.y1) / 2 - at[1]) / scale
        if DISTANCES[best // len(DIRECTIONS)] >= FAR:
            end = axes.transData.inverted().transform((np.clip(at[0], box.x0, box.x1), np.clip(at[1], box.y0, box.y1)))
            axes.plot([label.x, end[0]], [label.y, end[1]], color=label.colour, linewidth=0.5, alpha=0.7, marker="")
        taken.append(box)


def _readable(colour: str) -> str:
    """Darken a colour: letters are thinner than lines."""
    return to_hex([0.65 * value for value in to_rgb(colour)])


def _box(at: Float[np.ndarray, " 2"], width: float, height: float, distance: float, angle: float) -> Bbox:
    """Return the box of a text whose nearest edge lies so far from the point."""
    x = at[0] + math.cos(angle) * distance + np.sign(round(math.cos(angle), 6)) * width / 2
    y = at[1] + math.sin(angle) * distance + np.sign(round(math.sin(angle), 6)) * height / 2
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)


def _cost(
    box: Bbox,
    frame: BboxBase,
    taken: Sequence[Bbox],
    points: Float[np.ndarray, "point 2"],
    along: Float[np.ndarray, "p 2"],
) -> int:
    outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
    covered = sum(Bbox.intersection(box.padded(3), other) is not None for other in taken)
    return 1000 * outside + 100 * covered + 30 * _count(box.padded(4), points) + 1 * _count(box, along)


def _count(box: Bbox, points: Float[np.ndarray, "point 2"]) -> int:
    x, y = points[:, 0], points[:, 1]
    return int(((x >= box.x0) & (x <= box.x1) & (y >= box.y0) & (y <= box.y1)).sum())


def _fill_in(curve: Float[np.ndarray, "vertex 2"], count: int = 12) -> Float[np.ndarray, "point 2"]:
    shares = np.linspace(0, 1, count)[:, None]
    parts = [start + shares * (end - start) for start, end in itertools.pairwise(curve)]
    return np.concatenate([curve[:0], *parts])
