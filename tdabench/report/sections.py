"""Sections of the page: which tables and figures stand together, under which heading, and how they are read."""

import base64
import dataclasses
import struct
from collections.abc import Iterator, Mapping

import pandas as pd

from tdabench.report.cells import Styles, Table, at, make_table, over_repeats
from tdabench.report.quality import cost_table, ground_truth_table, rank_table
from tdabench.report.summary import rank, sizes_of

# Name of the table and of the figure: heading, how to read it.
TEXTS = {
    "pairs": (
        "Paired differences",
        "First method minus second on the same resamples of subsets and queries: an interval without zero is a "
        "difference that chance does not explain, and p (Holm) allows for how many pairs are compared.",
    ),
    "reliability": (
        "Reliability of the ground truth",
        "Agreement is the correlation of two retrains of the same subsets; the ceiling is the LDS that a perfect "
        "predictor would reach, and no method can be told from it once their intervals overlap.",
    ),
    "null": (
        "What chance gives",
        "The LDS that scores without information reach: a method whose LDS lies inside this interval says nothing.",
    ),
    "variance": (
        "Where the uncertainty comes from",
        "Share of an LDS's variance by source: more subsets, queries or repeats help where their share is large.",
    ),
    "removal": (
        "Removing the most helpful examples",
        "Models retrained without the examples that a method calls most helpful: the more the queries' loss rises, the "
        "better the method found what matters.",
    ),
    "detection": (
        "Finding mislabelled examples",
        "Labels were flipped on purpose: the nearer to 1 a method's curve or value, the earlier it finds them; 0.5, or "
        "the flipped share, is chance.",
    ),
    "agreement": (
        "Agreement between methods",
        "Rank correlation of two methods' scores: near 1 they order the examples alike, near 0 they have nothing in "
        "common, whatever their LDS.",
    ),
    "properties": (
        "Properties of the scores",
        "What scores look like regardless of the ground truth, such as how concentrated they are, and whether they "
        "favour examples of the query's label.",
    ),
    "diagnostics": (
        "Diagnostics",
        "Signs that the draws of a method that samples are sound, over the training losses: read them before its LDS. "
        "R-hat above 1.05, few effective draws or a drift of more than 4 Monte Carlo errors tell of chains that have "
        "not settled, which explains a low one; a dash stands where draws are independent by design, or too few.",
    ),
}
FIGURES = {
    "lds": "LDS of each method against the size of the attribution set, with intervals and the ceiling",
    "lds_by_repeat": "LDS of each method in every single repeat, with bootstrap intervals",
    "cost": "Wall-clock seconds of each method by phase, at every size",
}
RANKING_FIGURES = ("lds", "lds_by_repeat")
SHORT = 12  # rows of a table that is never folded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure inside the page, as a data URI, with its size in pixels."""

    source: str
    width: int
    height: int
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A table under a heading of its own; it can be folded away."""

    title: str
    table: Table
    is_open: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading, a sentence on how to read it, figures and tables."""

    name: str
    heading: str
    how_to_read: str
    pictures: tuple[Picture, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def short(self) -> str:
        """The name in one or two words, for the list of sections."""
        return self.name.replace("_", " ").capitalize()


def make_sections(
    tables: Mapping[str, pd.DataFrame], figures: Mapping[str, bytes], styles: Styles, confidence: float
) -> list[Section]:
    """Make a section of everything there is: known tables in their order, then what is not known."""
    ranked = {"ranking": lambda: _ranking(tables, figures, styles, confidence)} if "lds" in tables else {}
    costs = {"cost": lambda: _cost(tables, figures, styles)} if "cost" in tables else {}
    sections = [make() for make in (ranked | costs).values()]
    done = {"lds", "cost", *RANKING_FIGURES}
    names = [*TEXTS, *sorted((tables.keys() | figures.keys()) - TEXTS.keys() - done)]
    return sections + [
        _generic(name, tables.get(name), figures.get(name), styles)
        for name in names
        if name in tables or name in figures
    ]


def make_picture(content: bytes, name: str, heading: str) -> Picture:
    """Make a picture of a PNG file.

    Raises:
        ValueError: If it is no PNG file.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        raise ValueError(f"The figure {name}.png is damaged: delete it and run the workflow again.")
    width, height = struct.unpack(">II", content[16:24])
    description = FIGURES.get(name, f"Figure: {heading}")
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Picture(source=source, width=width, height=height, description=description)


def _ranking(
    tables: Mapping[str, pd.DataFrame], figures: Mapping[str, bytes], styles: Styles, confidence: float
) -> Section:
    lds = tables["lds"]
    repeats = lds.loc[lds["repeat"] != "all", "repeat"].nunique()
    kind = (
        f"Student's t interval over {repeats} repeats" if repeats > 1 else "bootstrap interval over subsets and queries"
    )
    parts = []
    for place, size in enumerate(sizes_of(lds)):
        table = rank_table(rank(lds, size), at(tables.get("null"), train_size=size), styles, confidence, size)
        parts.append(Part(title=f"n = {size:,}", table=table, is_open=place == 0))
    return Section(
        name="ranking",
        heading="Ranking",
        how_to_read=f"The linear datamodeling score (LDS) of every method, best first: 1 is perfect, 0 is chance. The "
        f"interval is the {confidence:.0%} {kind}; the ceiling is what a perfect predictor would reach.",
        pictures=tuple(make_picture(figures[name], name, "Ranking") for name in RANKING_FIGURES if name in figures),
        parts=tuple(parts),
    )


def _cost(tables: Mapping[str, pd.DataFrame], figures: Mapping[str, bytes], styles: Styles) -> Section:
    cost, lds = tables["cost"], tables.get("lds")
    parts = [
        Part(title=f"n = {size:,}", table=cost_table(cost, lds, styles, size), is_open=place == 0)
        for place, size in enumerate(sizes_of(cost))
    ]
    ground_truth = ground_truth_table(cost)
    if ground_truth is not None:
        parts.append(Part(title="The ground truth", table=ground_truth))
    return Section(
        name="cost",
        heading="Cost beside quality",
        how_to_read="Mean over repeats; wall-clock seconds by phase count whatever else the machine did, CPU seconds "
        "do not. Memory is the peak of the whole process, disk the growth of the scratch folder.",
        pictures=(make_picture(figures["cost"], "cost", "Cost beside quality"),) if "cost" in figures else (),
        parts=tuple(parts),
    )


def _generic(name: str, table: pd.DataFrame | None, figure: bytes | None, styles: Styles) -> Section:
    heading = name.replace("_", " ").capitalize()
    heading, how_to_read = TEXTS.get(name, (heading, f"As it stands in tables/{name}.csv and figures/{name}.png."))
    parts = () if table is None else tuple(_parts(table, styles, heading))
    pictures = () if figure is None else (make_picture(figure, name, heading),)
    return Section(name=name, heading=heading, how_to_read=how_to_read, pictures=pictures, parts=parts)


def _parts(table: pd.DataFrame, styles: Styles, heading: str) -> Iterator[Part]:
    """Fold a long table by size, the largest first and open; a short one is one part."""
    shown = over_repeats(table)
    sizes = sizes_of(shown) if "train_size" in shown.columns else []
    if len(shown) <= SHORT or len(sizes) < 2:
        title = f"Table ({len(shown):,} {'row' if len(shown) == 1 else 'rows'})"
        yield Part(title=title, table=make_table(table, styles, heading), is_open=len(shown) <= 4 * SHORT)
        return
    for place, size in enumerate(sizes):
        rows = shown[shown["train_size"] == size].drop(columns="train_size")
        caption = f"{heading} at n = {size:,}"
        yield Part(title=f"n = {size:,}", table=make_table(rows, styles, caption), is_open=place == 0)
