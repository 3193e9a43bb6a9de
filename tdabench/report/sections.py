"""Sections of the page: which tables and figures stand together, under which heading, and how they are read."""

import base64
import dataclasses
import struct
from collections.abc import Iterator, Sequence

from tdabench.drawing.section import Part, Results, Shown, Topic, fold, plain_parts

UNKNOWN = 1000  # the order of what no question declares: behind all that one does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure inside the page, as a data URI, with its size in pixels."""

    source: str
    width: int
    height: int
    description: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading, a sentence on how to read it, figures and tables."""

    name: str
    heading: str
    how_to_read: str
    pictures: tuple[Picture, ...] = ()
    parts: tuple[Part, ...] = ()
    figure_first: bool = False

    @property
    def short(self) -> str:
        """The name in one or two words, for the list of sections."""
        return self.name.replace("_", " ").capitalize()


def make_sections(results: Results, questions: Sequence[Shown]) -> list[Section]:
    """Make a section of everything there is: what questions declare in its order, then what is not known."""
    places = [(topic, shown) for shown in questions for topic in shown.topics]
    known = {name for topic, _ in places for name in (topic.name, topic.table, *topic.figures, *topic.also)}
    known |= {table.name for shown in questions for table in shown.tables}
    others = sorted((results.tables.keys() | results.figures.keys()) - known)
    places += [(_describe_unknown(name), Shown()) for name in others]
    places.sort(key=lambda place: place[0].order)
    return [
        _make_section(results, topic, shown)
        for topic, shown in places
        if topic.content(results) is not None or topic.name in results.figures
    ]


def make_picture(content: bytes, name: str, description: str) -> Picture:
    """Make a picture of a PNG file.

    Raises:
        ValueError: If it is no PNG file.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
        raise ValueError(f"The figure {name}.png is damaged: delete it and run the workflow again.")
    width, height = struct.unpack(">II", content[16:24])
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return Picture(source=source, width=width, height=height, description=description)


def _describe_unknown(name: str) -> Topic:
    # Braces would be taken for words that are filled in.
    shown = name.replace("{", "{{").replace("}", "}}")
    how_to_read = f"As it stands in tables/{shown}.csv and figures/{shown}.png."
    return Topic(name=name, order=UNKNOWN, heading=name.replace("_", " ").capitalize(), how_to_read=[how_to_read])


def _make_section(results: Results, topic: Topic, shown: Shown) -> Section:
    figures = topic.figures or {topic.name: f"Figure: {topic.heading}"}
    return Section(
        name=topic.name,
        heading=topic.heading,
        how_to_read=topic.read(results),
        pictures=tuple(
            make_picture(results.figures[name], name, text) for name, text in figures.items() if name in results.figures
        ),
        parts=tuple(_make_parts(results, topic, shown)),
        figure_first=topic.figure_first,
    )


def _make_parts(results: Results, topic: Topic, shown: Shown) -> Iterator[Part]:
    declared = {table.name: {column.key: column for column in table.columns} for table in shown.tables}
    make = shown.parts.get(topic.name, plain_parts)
    if topic.content(results) is not None:
        yield from make(results, topic, declared.get(topic.table or topic.name, {}))
    for name, title in topic.also.items():
        if name in results.tables:
            heading = f"{topic.heading}: {title.lower()}"
            columns = declared.get(name, {})
            yield from fold(results.tables[name], results.styles, heading, columns, title=title, is_open=False)
