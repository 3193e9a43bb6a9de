"""Tables for a paper: LaTeX with booktabs, to be put in by \\input."""

import re
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from tdabench.report.figures import LABELS

REPLACEMENTS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "—": "---", "–": "--", "−": "$-$", "×": r"$\times$", "✓": r"$\checkmark$", "✗": r"$\times$",
    "β": r"$\beta$", "γ": r"$\gamma$", "ε": r"$\epsilon$", "|": r"\textbar{}", '"': "''", "\n": " ",
}  # fmt: skip


def escape_latex(text: object) -> str:
    """Write a text so that LaTeX shows it as it is; a number's sign is a minus."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", str(text)).translate(str.maketrans(REPLACEMENTS))


def to_latex(
    table: pd.DataFrame,
    *,
    caption: str,
    label: str,
    bold: Collection[tuple[int, str]] = (),
    marked: Collection[tuple[int, str]] = (),
    notes: Sequence[str] = (),
    upright: bool = False,
) -> str:
    r"""Make a floating table of plain texts, its first column to the left.

    Args:
        caption: Plain text, as all of the table: it is escaped here.
        label: What ``\ref`` names.
        bold: Cells in bold, by row number and column name.
        marked: Cells with an asterisk.
        notes: Paragraphs of small print under the table.
        upright: Whether the other columns are narrow and centred, under names that stand upright.
    """
    cells = table.map(escape_latex)
    names = [escape_latex(name) for name in table.columns]
    cells.columns = [*names[:1], *(rf"\rotatebox{{90}}{{{name}}}" if upright else name for name in names[1:])]
    columns = dict(zip(table.columns, cells.columns, strict=True))
    for row, column in marked:
        cells.loc[cells.index[row], columns[column]] += "$^{*}$"
    style = pd.DataFrame("", index=cells.index, columns=cells.columns)
    for row, column in bold:
        style.loc[style.index[row], columns[column]] = "textbf: --rwrap;"
    text = (
        cells.style.hide(axis="index")
        .apply(lambda _: style, axis=None)
        .to_latex(
            column_format="l" + ("c" if upright else "r") * (len(table.columns) - 1),
            hrules=True,
            position="t",
            position_float="centering",
            caption=escape_latex(caption),
            label=label,
        )
    )
    if notes:
        small = "\n\\par ".join(escape_latex(note) for note in notes)
        text = text.replace("\\end{table}", f"\\par\\smallskip\\raggedright\\footnotesize\n{small}\n\\end{{table}}")
    packages = "booktabs, amssymb and graphicx" if upright else "booktabs"
    return f"% Needs {packages}.\n{text}"


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
    bold, marked, notes = [], [], []
    for size, column in sizes.items():
        rows = last[last["train_size"] == size].set_index("method")
        missing = rows[rows["lds"].isna()]
        bold += [(methods.index(rows["lds"].idxmax()), column)] if len(missing) < len(rows) else []
        marked += [(methods.index(method), column) for method in (tied or {}).get(size, ()) if method in methods]
        notes += [f"{LABELS.get(method, method)}, {column}: {row['status']}" for method, row in missing.iterrows()]
    table = table.assign(method=[LABELS.get(method, method) for method in methods])
    ceilings = [last[last["train_size"] == size]["ceiling"].mean() for size in sizes]
    if any(pd.notna(ceiling) for ceiling in ceilings):
        table.loc[len(table)] = ["ceiling", *("—" if pd.isna(value) else f"{value:.3f}" for value in ceilings)]
    repeats = lds.loc[lds["repeat"] != "all", "repeat"].nunique()
    spread = f"mean ± standard error over {repeats} repeats" if repeats > 1 else "with its bootstrap interval"
    caption = f"LDS of each method on {lds['experiment'].iloc[0]}, {spread}, by size n of the attribution set. "
    caption += "The best of each size is in bold."
    if tied is not None:
        caption += " An asterisk marks methods that can't be told from the best one."
    label = f"tab:{lds['experiment'].iloc[0]}-lds"
    return to_latex(table, caption=caption, label=label, bold=bold, marked=marked, notes=notes)


def make_cost_latex(lds: pd.DataFrame, summary: pd.DataFrame) -> str:
    """Make the cost table: a row a method, seconds, memory and disk at the largest size."""
    table = select_costs(summary)
    experiment, size = lds["experiment"].iloc[0], lds["train_size"].max()
    caption = (
        f"Cost of each method on {experiment} at n = {size:,}, mean over repeats: wall-clock, peak resident memory "
    )
    caption += "of the whole process, growth of the scratch folder."
    return to_latex(table, caption=caption, label=f"tab:{experiment}-cost")


def select_costs(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of the table for people; what was not measured is a dash."""
    costs = summary[["method", "fit (s)", "score (s)", "memory (MB)", "disk (MB)"]].replace("", "—")
    return costs.assign(method=[LABELS.get(method, method) for method in costs["method"]])
