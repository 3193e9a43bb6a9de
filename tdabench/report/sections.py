"""Sections of the page: which tables and figures stand together, under which heading, and how they are read."""

import base64
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from tdabench.drawing.section import Part, Results, Shown, Topic, fold, plain_parts

UNKNOWN = 1000  # the order of what no question declares: behind all that one does


def make_sections(results: Results, questions: Sequence[Shown]) -> list[dict[str, Any]]:
    """Make a section of everything there is, for the template: what questions declare, then what is not known."""
    places = [(topic, shown) for shown in questions for topic in shown.topics]
    known = {name for topic, _ in places for name in (topic.name, topic.table, *topic.figures, *topic.also)}
    known |= {table.name for shown in questions for table in shown.tables}
    others = sorted((results.tables.keys() | results.figures.keys()) - known)
    places += [(_describe_unknown(name), Shown()) for name in others]
    return [
        {
            "name": topic.name,
            "short": topic.name.replace("_", " ").capitalize(),
            "heading": topic.heading,
            "how_to_read": topic.read(results),
            "figure_first": topic.figure_first,
            "pictures": list(_make_pictures(results, topic)),
            "parts": list(_make_parts(results, topic, shown)),
        }
        for topic, shown in sorted(places, key=lambda place: place[0].order)
        if topic.content(results) is not None or topic.name in results.figures
    ]


def _describe_unknown(name: str) -> Topic:
    # Braces would be taken for words that are filled in.
    shown, heading = name.replace("{", "{{").replace("}", "}}"), name.replace("_", " ").capitalize()
    how_to_read = f"As it stands in tables/{shown}.csv and figures/{shown}.png."
    return Topic(name=name, order=UNKNOWN, heading=heading, how_to_read=[how_to_read])


def _make_pictures(results: Results, topic: Topic) -> Iterator[dict[str, Any]]:
    """Yield the section's figures as data URIs, with their sizes in pixels.

    Raises:
        ValueError: If one is no PNG file.
    """
    for name, description in (topic.figures or {topic.name: f"Figure: {topic.heading}"}).items():
        content = results.figures.get(name)
        if content is None:
            continue
        if content[:8] != b"\x89PNG\r\n\x1a\n" or len(content) < 24:
            raise ValueError(f"The figure {name}.png is damaged: delete it and run the workflow again.")
        width, height = struct.unpack(">II", content[16:24])
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        yield {"source": source, "width": width, "height": height, "description": description}


def _make_parts(results: Results, topic: Topic, shown: Shown) -> Iterator[Part]:
    declared = {table.name: {column.key: column for column in table.columns} for table in shown.tables}
    if topic.content(results) is not None:
        make = shown.parts.get(topic.name, plain_parts)
        yield from make(results, topic, declared.get(topic.table or topic.name, {}))
    for name, title in topic.also.items():
        if name in results.tables:
            heading, columns = f"{topic.heading}: {title.lower()}", declared.get(name, {})
            yield from fold(results.tables[name], results.styles, heading, columns, title=title, is_open=False)
