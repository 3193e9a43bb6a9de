"""Columns of the tables: what heads them, and how their numbers are written."""

import dataclasses
import math

MISSING = "—"
MINUS = "\N{MINUS SIGN}"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column as scripts name it and as people read it.

    Attributes:
        key: Its name in the CSV file.
        header: Its words on the page; those of the key if there are none.
        form: How its numbers are written, one of ``FORMS``; by its name if empty.
        high: Of the lower end of an interval: the key of the upper end.
        interval: Header of both ends together.
    """

    key: str
    header: str = ""
    form: str = ""
    high: str = ""
    interval: str = ""

    @property
    def words(self) -> str:
        """What stands above the column."""
        words = self.key.replace("_", " ")
        return self.header or words[:1].upper() + words[1:]

    def write(self, value: float) -> str:
        """Write a number of this column for people."""
        return format_number(value, self.form or _form_of(self.key))


def score(key: str, header: str = "") -> Column:
    """Return a column of scores: always three decimals, so that they stand below one another."""
    return Column(key, header, "score")


def interval(prefix: str = "", header: str = "Interval", form: str = "score") -> tuple[Column, Column]:
    """Return the columns ``low`` and ``high`` behind a prefix, which are one on the page."""
    low, high = f"{prefix}low", f"{prefix}high"
    return Column(low, form=form, high=high, interval=header), Column(high, form=form)


# Columns of several tables. A declaration names them; a table that nobody declared has them too.
COMMON = {
    column.key: column
    for column in (
        Column("train_size", "n"), score("lds", "LDS"), *interval(), score("standard_error", "± SE"),
        Column("nan_queries", "Queries left out"), score("ceiling"), score("difference"), Column("p_value", "p"),
        Column("cpu_seconds", "CPU (s)"), Column("passes", "Forward passes"),
        Column("peak_host_bytes", "Memory (MB)"), Column("peak_device_bytes", "Device memory (MB)"),
        Column("disk_bytes", "Disk (MB)"), score("reliability"), Column("other", "Second"),
        score("rhat_high", "R-hat, 99%"), Column("tracked_parameters", "Of them tracked"),
        *interval("predicted_", "Its interval", "number"),
    )
}  # fmt: skip


def find_column(key: str) -> Column:
    """Return a column by its name; one that is not known is headed by its name in words."""
    return COMMON.get(key, Column(key))


def format_number(value: float, form: str = "number") -> str:
    """Write a number for people: bytes in MB, shares in percent, p-values never as zero, a minus sign for minus."""
    text = FORMS[form](value) if math.isfinite(value) else MISSING
    return text.replace("-", MINUS)


def _form_of(key: str) -> str:
    if key.endswith("_bytes"):
        return "bytes"
    if key.startswith("share") or key.endswith("_share"):
        return "share"
    return "p" if key.startswith("p_") else "seconds" if key.endswith("seconds") else "number"


def _short(value: float) -> str:
    if 0 < value < 0.05:
        return "< 0.1"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def _number(value: float) -> str:
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"


FORMS = {
    "bytes": lambda value: _short(value / 1e6),
    "share": lambda value: f"{value:.1%}".replace("-0.0%", "0.0%").replace("%", "\N{NO-BREAK SPACE}%"),
    "p": lambda value: "< 0.001" if 0 <= value < 0.001 else f"{value:.3f}",
    "seconds": _short,
    "score": lambda value: f"{value:.3f}".replace("-0.000", "0.000"),
    "number": _number,
}
