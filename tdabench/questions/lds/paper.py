"""The table of the LDS for people: beside cost in Markdown, and in LaTeX for a paper."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tdabench.drawing.columns import MISSING
from tdabench.drawing.files import write_markdown
from tdabench.drawing.latex import to_latex
from tdabench.drawing.style import LABELS
from tdabench.drawing.table import count_repeats, format_mean
from tdabench.storage.records import save_text


def write_paper_tables(
    folder: Path,
    lds: pd.DataFrame,
    summary: pd.DataFrame,
    *,
    tied: Mapping[int, Collection[str]] | None = None,
    note: str = "",
) -> str:
    """Write ``tables/lds.md``, ``lds.tex``, ``cost.tex`` and ``cost.md``; return the text of the first.

    Args:
        lds: The LDS table.
        summary: The table for people.
        tied: By size, the methods that are not distinguishable from the best one.
        note: What is said below the first.
    """
    write_markdown(folder, "cost", select_costs(summary))
    save_text(folder / "tables" / "lds.tex", make_lds_latex(lds, summary, tied=tied))
    save_text(folder / "tables" / "cost.tex", make_cost_latex(lds, summary))
    return write_markdown(folder, "lds", summary, note)


def summarise(lds: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """Make the table for people: a row a method, best first, an LDS column a size, and mean cost at the largest size.

    LDS over repeats is mean ± standard error; a single repeat shows its bootstrap interval.
    """
    last, repeats = lds[lds["repeat"] == "all"].set_index(["method", "train_size"]), count_repeats(lds)
    sizes = sorted(lds["train_size"].unique())
    largest = cost[cost["train_size"] == sizes[-1]]
    ranked = last.xs(sizes[-1], level="train_size").sort_values("lds", ascending=False, na_position="last")
    rows = []
    for method, status in ranked["status"].items():
        row: dict[str, Any] = {"method": method}
        for size in sizes:
            row[f"LDS, n = {size}"] = format_mean(last.loc[(method, size)], "lds", repeats=repeats)
        parts = largest[largest["method"] == method]
        for phase in ("fit", "score"):
            row[f"{phase} (s)"] = _format(_mean_over_repeats(parts[parts["phase"] == phase], "seconds", "sum"))
        row["memory (MB)"] = _format(_mean_over_repeats(parts, "peak_host_bytes", "max") / 1e6)
        row["disk (MB)"] = _format(_mean_over_repeats(parts, "disk_bytes", "sum") / 1e6)
        rows.append({**row, "status": status})
    return pd.DataFrame(rows)


def _mean_over_repeats(parts: pd.DataFrame, column: str, how: str) -> float:
    known = parts[parts[column].notna()]  # a method that can't run has cost nothing that was measured
    return float(known.groupby("repeat")[column].agg(how).mean()) if len(known) else float("nan")


def _format(number: float) -> str:
    return "" if pd.isna(number) else f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def make_lds_latex(
    lds: pd.DataFrame, summary: pd.DataFrame, *, tied: Mapping[int, Collection[str]] | None = None
) -> str:
    """Make the LDS table: a row a method, a column a size, the best of each size in bold, and the ceiling.

    Args:
        lds: The LDS table.
        summary: The table for people, whose rows and texts it shows.
        tied: By size, the methods that are not distinguishable from the best one: they get an asterisk.
    """
    last = lds[lds["repeat"] == "all"].astype({"lds": float, "ceiling": float})
    sizes = {size: f"n = {size:,}" for size in sorted(last["train_size"].unique())}
    table = summary[["method", *(f"LDS, n = {size}" for size in sizes)]].set_axis(["method", *sizes.values()], axis=1)
    methods = summary["method"].tolist()
    bold, marked, notes, ceilings = [], [], [], []
    for size, column in sizes.items():
        rows = last[last["train_size"] == size].set_index("method")
        missing = rows[rows["lds"].isna()]
        bold += [(methods.index(rows["lds"].idxmax()), column)] if len(missing) < len(rows) else []
        marked += [(methods.index(method), column) for method in (tied or {}).get(size, ()) if method in methods]
        notes += [f"{LABELS.get(method, method)}, {column}: {row['status']}" for method, row in missing.iterrows()]
        ceilings.append(rows["ceiling"].mean())
    table = table.assign(method=[LABELS.get(method, method) for method in methods])
    if pd.notna(ceilings).any():
        table.loc[len(table)] = ["ceiling", *(MISSING if pd.isna(value) else f"{value:.3f}" for value in ceilings)]
    repeats, experiment = count_repeats(lds), lds["experiment"].iloc[0]
    spread = f"mean ± standard error over {repeats} repeats" if repeats > 1 else "with its bootstrap interval"
    caption = f"LDS of each method on {experiment}, {spread}, by size n of the attribution set. "
    caption += "The best of each size is in bold."
    if tied is not None:
        caption += " An asterisk marks methods that can't be told from the best one."
    return to_latex(table, caption=caption, label=f"tab:{experiment}-lds", bold=bold, marked=marked, notes=notes)


def make_cost_latex(lds: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Make the cost table: a row a method, seconds, memory and disk at the largest size."""
    experiment, size = lds["experiment"].iloc[0], lds["train_size"].max()
    caption = (
        f"Cost of each method on {experiment} at n = {size:,}, mean over repeats: wall-clock, peak resident memory "
        "of the whole process, growth of the scratch folder."
    )
    return to_latex(select_costs(summary), caption=caption, label=f"tab:{experiment}-cost")


def select_costs(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of the table for people; what was not measured is a dash."""
    costs = summary[["method", "fit (s)", "score (s)", "memory (MB)", "disk (MB)"]].replace("", MISSING)
    return costs.assign(method=[LABELS.get(method, method) for method in costs["method"]])
