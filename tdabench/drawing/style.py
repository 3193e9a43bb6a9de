"""How figures look: one colour a method, everywhere."""

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

Styles = Mapping[str, Mapping[str, str]]

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.dpi": 160,
    "pdf.fonttype": 42,
    "svg.hashsalt": "tdabench",
}
# Each built-in method's label and colour: Okabe and Ito's, told apart by everyone; greys for the baselines.
METHODS = {
    "bif": ("BIF", "#0072b2"),
    "ekfac": ("EK-FAC", "#d55e00"),
    "kfac": ("K-FAC", "#e69f00"),
    "diagonal": ("diagonal Fisher", "#cc79a7"),
    "gradsim": ("GradSim", "#009e73"),
    "trak": ("TRAK", "#56b4e9"),
    "random": ("random", "#b0b0b0"),
    "query_independent": ("query-independent", "#707070"),
    "bif_laplace": ("BIF (Laplace)", "#332288"),
}
COLOURS = {method: colour for method, (_, colour) in METHODS.items()}
LABELS = {method: label for method, (label, _) in METHODS.items()} | {"bm25": "BM25"}
OTHERS = ("#000000", "#8c510a", "#5e3c99", "#b2182b", "#01665e", "#c51b7d")
MARKERS = "osD^vP*X<>"
DARK = "#404040"
# How far the lightest variant is mixed with white, and the darkest with black.
LIGHTEST, DARKEST = 0.45, 0.4


def styled(**changes: Any) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Let a function draw in the style of the figures, with some changes."""

    def wrap(plot: Callable[..., Figure]) -> Callable[..., Figure]:
        @functools.wraps(plot)
        def draw(*arguments: Any, **options: Any) -> Figure:
            with rc_context({**STYLE, **changes}):
                return plot(*arguments, **options)

        return draw

    return wrap


def make_panels(width: float, height: float, *, across: int = 1, down: int = 1, **shared: Any) -> tuple[Figure, Any]:
    """Return a figure of that many inches, and its axes as an array (down, across)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(down, across, squeeze=False, **shared)


def write_title(figure: Figure, text: str, size: int = 9) -> None:
    """Write a figure's title from its left edge on, in as many lines as its width needs."""
    letters = int(figure.get_figwidth() * 72 / (0.6 * size))
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, letters)]
    figure.suptitle("\n".join(lines), fontsize=size, x=0.01, ha="left")


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend of one panel beside all of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")


def method_styles(methods: Iterable[str]) -> dict[str, dict[str, str]]:
    """Assign every method its colour, label and marker.

    Variants of a built-in method, such as ``trak_3x128``, have shades of its colour, in their order; a plug-in's colour
    follows from its place among the plug-ins.
    """
    methods = list(dict.fromkeys(methods))
    bases = {method: find_base(method, COLOURS) for method in methods}
    others = [method for method in methods if bases[method] is None]
    order = [*COLOURS, *others]
    styles = {}
    for method in methods:
        base = bases[method] or method
        variants = [one for one in methods if bases[one] == base and one != base]
        colour = COLOURS.get(base) or OTHERS[others.index(method) % len(OTHERS)]
        if method in variants:
            colour = shade(colour, variants.index(method), len(variants))
        rest = method.removeprefix(base).replace("_", " ")
        marker = MARKERS[order.index(base) % len(MARKERS)]
        styles[method] = {"color": colour, "label": f"{LABELS.get(base, base)}{rest}", "marker": marker}
    return styles


def label_of(method: str, styles: Styles) -> str:
    """Return what people call a method."""
    return styles.get(method, {}).get("label", method)


def find_base(method: str, known: Iterable[str]) -> str | None:
    """Return the longest known method of which the key says that it is a variant: ``trak_3x128`` is one of ``trak``."""
    found = [base for base in known if method == base or method.startswith(f"{base}_")]
    return max(found, key=len, default=None)


def shade(colour: str, place: int, count: int) -> str:
    """Return the colour of one of so many variants: from lighter to darker; a single one keeps the colour."""
    share = 0 if count < 2 else LIGHTEST - (LIGHTEST + DARKEST) * place / (count - 1)
    towards = 1.0 if share > 0 else 0.0
    return to_hex([value + abs(share) * (towards - value) for value in to_rgb(colour)])
