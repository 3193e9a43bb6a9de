"""Tables for a paper: LaTeX with booktabs, to be put in by \\input."""

import re
from collections.abc import Collection, Sequence

import pandas as pd

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
    first, *names = map(escape_latex, table.columns)
    cells.columns = [first, *(rf"\rotatebox{{90}}{{{name}}}" if upright else name for name in names)]
    columns = {name: place for place, name in enumerate(table.columns)}
    style = pd.DataFrame("", index=cells.index, columns=cells.columns)
    for row, column in marked:
        cells.iloc[row, columns[column]] += "$^{*}$"
    for row, column in bold:
        style.iloc[row, columns[column]] = "textbf: --rwrap;"
    columns_as = "l" + ("c" if upright else "r") * len(names)
    layout = {"column_format": columns_as, "hrules": True, "position": "t", "position_float": "centering"}
    styled = cells.style.hide(axis="index").apply(lambda _: style, axis=None)
    text = styled.to_latex(caption=escape_latex(caption), label=label, **layout)
    if notes:
        small = "\n\\par ".join(escape_latex(note) for note in notes)
        text = text.replace("\\end{table}", f"\\par\\smallskip\\raggedright\\footnotesize\n{small}\n\\end{{table}}")
    packages = "booktabs, amssymb and graphicx" if upright else "booktabs"
    return f"% Needs {packages}.\n{text}"
