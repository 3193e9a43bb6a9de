"""A page as it was parsed: for tests of what is on it."""

import re
from html.parser import HTMLParser

from made_up import make_material

from tdabench.report.page import render_page

VOID = {"meta", "link", "img", "br", "input"}


class Parsed(HTMLParser):
    """A page's elements with their attributes and text; an end tag that fits no start is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, *tags: str) -> list[tuple[str, dict[str, str | None], str]]:
        return [(tag, attributes, "".join(text).strip()) for tag, attributes, text in self.elements if tag in tags]

    def texts(self, *tags: str) -> list[str]:
        return [text for *_, text in self.all(*tags)]

    def rows(self, caption: str) -> list[list[str]]:
        """Return the cells of a table's rows."""
        tables = [table for table in re.split(r"<table", self.rawdata_seen)[1:] if f"<caption>{caption}<" in table]
        body = Parsed("<table" + tables[0].split("</table>")[0] + "</table>")
        cells = body.texts("td")
        width = len([1 for tag, attributes, _ in body.all("th") if attributes.get("scope") == "col"])
        return [cells[start : start + width] for start in range(0, len(cells), width)]

    def outline(self) -> list[str]:
        """Return everything that can be read, a line an element; rows of tables are one."""
        lines = []
        seen = (
            "h1",
            "h2",
            "p",
            "summary",
            "details",
            "caption",
            "tr",
            "th",
            "td",
            "li",
            "dt",
            "dd",
            "img",
            "figcaption",
        )
        for tag, attributes, text in self.all(*seen):
            words = " ".join(text.split(" ")).replace("\n", " ")
            if tag in ("th", "td"):
                lines[-1] += f" | {words}"
            elif tag == "details":
                lines.append("open" if "open" in attributes else "folded")
            else:
                lines.append(f"{tag}: {attributes['alt'] if tag == 'img' else words}" if tag != "tr" else "row")
        return lines

    def feed(self, data):
        self.rawdata_seen = data
        super().feed(data)
        self.close()


def page(**changes) -> Parsed:
    return Parsed(render_page(make_material(**changes)))
