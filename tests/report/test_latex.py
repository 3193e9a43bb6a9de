import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tdabench.drawing.latex import escape_latex, to_latex
from tdabench.questions.lds.paper import make_cost_latex, make_lds_latex, select_costs, summarise
from tdabench.questions.lds.tables import LDS
from tdabench.questions.properties.report import make_properties_latex, make_properties_table
from tdabench.report.costs import make_cost_table

NASTY = r"a_b & 50% of $x^2$ {c} #1 \d ~ <e> | ± — − × ✓ ✗ β γ"
METHODS = ("bif", "ekfac", "my_own", "trak")


def _tables(repeats: int = 2, sizes: tuple[int, ...] = (250, 1000)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return an LDS table and the table for people: ekfac leads at 250, bif at the others; trak can't run."""
    rows, costs = [], []
    for repeat in [*range(repeats), "all"]:
        for size in sizes:
            for place, method in enumerate(METHODS):
                lds = 0.5 - 0.1 * place + (0.15 * (method == "ekfac") if size == 250 else 0)
                numbers = {"lds": lds, "low": lds - 0.1, "high": lds + 0.1, "standard_error": 0.01, "ceiling": 0.8}
                if method == "trak":
                    numbers = dict.fromkeys(numbers)
                status = "unsupported: TRAK needs 100 & more" if method == "trak" else "ok"
                row = {
                    "experiment": "tiny_one",
                    "repeat": repeat,
                    "train_size": size,
                    "method": method,
                    "status": status,
                }
                rows.append({**row, **numbers, "queries": 10, "nan_queries": 0})
                if repeat != "all" and method != "trak":
                    costs.append({**row, "phase": "score", "seconds": 12.0, "peak_host_bytes": 2e9, "disk_bytes": 3e6})
    lds = LDS.frame(rows)
    return lds, summarise(lds, make_cost_table(costs))


def _properties() -> pd.DataFrame:
    titles = {"hessian_free": "Hessian-free", "per_token": "Per-token"}
    answers = {("bif", "hessian_free"): True, ("my_own", "hessian_free"): None}
    rows = [
        {
            "experiment": "tiny_one", "method": method, "property": key, "holds": answers.get((method, key), False),
            "measured": "50% of_it", "how": f"Definition of {key}.", "title": title,
        }
        for method in METHODS
        for key, title in titles.items()
    ]  # fmt: skip
    return make_properties_table(rows)


def _rows(latex: str) -> list[list[str]]:
    """Read the cells of a table back."""
    body = latex.partition("\\toprule")[2].partition("\\bottomrule")[0]
    return [line.removesuffix(" \\\\").split(" & ") for line in body.splitlines() if line.endswith("\\\\")]


# One table


def test_a_table_has_the_rules_of_booktabs_a_caption_and_a_label():
    latex = to_latex(pd.DataFrame({"a": ["x"], "b": ["1"]}), caption="What it shows.", label="tab:it")

    commands = re.findall(r"\\(begin|end|toprule|midrule|bottomrule|caption|label|centering)\b", latex)
    assert commands == [
        "begin", "centering", "caption", "label", "begin", "toprule", "midrule", "bottomrule", "end", "end",
    ]  # fmt: skip
    assert "\\caption{What it shows.}" in latex
    assert "\\label{tab:it}" in latex
    assert "\\begin{tabular}{lr}" in latex
    assert latex.startswith("% Needs booktabs.\n")


def test_every_text_is_escaped_wherever_it_stands():
    table = pd.DataFrame({NASTY: [NASTY], "b": ["1"]})

    latex = to_latex(table, caption=NASTY, label="tab:it", notes=[NASTY])

    assert latex.count(escape_latex(NASTY)) == 4
    for text in (latex, make_lds_latex(*_tables()), make_cost_latex(*_tables()), make_properties_latex(_properties())):
        assert _unescaped(re.sub(r"\\label\{.*\}", "", text)) == set()


def _unescaped(latex: str) -> set[str]:
    """Find characters that LaTeX would take for a command, outside those of the table itself."""
    text = latex.partition("\n")[2]
    text = re.sub(r"\$\\[a-z]+\$|\$-\$|\$\^\{\*\}\$|\\[a-z]+\{\}|\\[\\{}$&%#_]", "", text)
    text = text.replace(" & ", "")
    return set(re.findall(r"[$&%#_~^<>]|[^\x00-\x7f]", text))


def test_the_sign_of_a_number_is_a_minus_and_a_hyphen_stays():
    assert escape_latex("-0.010 ± 0.02 of EK-FAC, 1-2") == r"$-$0.010 $\pm$ 0.02 of EK-FAC, 1-2"


def test_cells_are_set_in_bold_and_marked_by_row_and_column():
    table = pd.DataFrame({"a_1": ["x", "y"], "b_2": ["1", "2"], "c": ["3", "4"]}, index=[7, 8])

    latex = to_latex(table, caption="", label="l", bold=[(1, "b_2")], marked=[(0, "c"), (1, "b_2")])

    assert _rows(latex) == [["a\\_1", "b\\_2", "c"], ["x", "1", "3$^{*}$"], ["y", "\\textbf{2$^{*}$}", "4"]]
    upright = to_latex(table, caption="", label="l", bold=[(0, "b_2")], upright=True)
    assert _rows(upright)[:2] == [["a\\_1", "\\rotatebox{90}{b\\_2}", "\\rotatebox{90}{c}"], ["x", "\\textbf{1}", "3"]]
    assert "{lcc}" in upright
    assert "graphicx" in upright.splitlines()[0]


# The tables of an experiment


def test_the_lds_table_has_the_best_of_each_size_in_bold_and_the_ceiling():
    rows = _rows(make_lds_latex(*_tables()))

    assert rows == [
        ["method", "n = 250", "n = 1,000"],
        ["BIF", "0.500 $\\pm$ 0.010", "\\textbf{0.500 $\\pm$ 0.010}"],
        ["EK-FAC", "\\textbf{0.550 $\\pm$ 0.010}", "0.400 $\\pm$ 0.010"],
        ["my\\_own", "0.300 $\\pm$ 0.010", "0.300 $\\pm$ 0.010"],
        ["TRAK", "---", "---"],
        ["ceiling", "0.800", "0.800"],
    ]


def test_the_lds_table_says_why_a_method_has_no_number():
    latex = make_lds_latex(*_tables())

    assert "TRAK, n = 250: unsupported: TRAK needs 100 \\& more" in latex
    assert latex.index("bottomrule") < latex.index("unsupported")


def test_methods_that_cannot_be_told_from_the_best_are_marked_when_they_are_known():
    lds, summary = _tables()

    latex = make_lds_latex(lds, summary, tied={1000: ["my_own", "absent"]})

    rows = _rows(latex)
    assert rows[3] == ["my\\_own", "0.300 $\\pm$ 0.010", "0.300 $\\pm$ 0.010$^{*}$"]
    assert latex.count("$^{*}$") == 1
    assert "An asterisk" in latex
    assert "An asterisk" not in make_lds_latex(lds, summary)


def test_a_single_repeat_shows_its_interval_and_says_so():
    latex = make_lds_latex(*_tables(repeats=1, sizes=(1000,)))

    assert _rows(latex)[2] == ["EK-FAC", "0.400 [0.300, 0.500]"]
    assert "with its bootstrap interval" in latex


def test_the_cost_table_has_a_dash_for_what_was_not_measured():
    lds, summary = _tables()

    rows = _rows(make_cost_latex(lds, summary))

    assert rows[0] == ["method", "fit (s)", "score (s)", "memory (MB)", "disk (MB)"]
    assert rows[1] == ["BIF", "---", "12", "2,000", "3.0"]
    assert rows[4] == ["TRAK", *["---"] * 4]
    assert select_costs(summary)["method"].tolist() == ["BIF", "EK-FAC", "my_own", "TRAK"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_every_table_within_the_width_of_a_page(tmp_path):
    nasty = to_latex(pd.DataFrame({"a": [NASTY], "b": ["1"]}), caption=NASTY, label="l", notes=[NASTY])
    parts = {
        "lds": make_lds_latex(*_tables(), tied={250: ["bif"]}),
        "cost": make_cost_latex(*_tables()),
        "properties": make_properties_latex(_properties()),
        "nasty": nasty,
    }
    for name, latex in parts.items():
        (tmp_path / f"{name}.tex").write_text(latex, encoding="utf-8")
    inputs = "".join(f"\\input{{{name}}}" for name in parts)
    (tmp_path / "page.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,amssymb,graphicx}\\begin{document}" + inputs + "\\end{document}"
    )

    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert Path(tmp_path / "page.pdf").stat().st_size > 0
