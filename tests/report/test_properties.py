import pandas as pd

from tdabench.questions.properties.report import (
    cross_properties,
    describe_properties,
    make_properties_latex,
    make_properties_markdown,
    make_properties_table,
)

TITLES = {"per_token": "Per-token", "hessian_free": "Hessian-free"}


def _table() -> pd.DataFrame:
    answers = {("mine", "per_token"): None, ("mine", "hessian_free"): True, ("ekfac", "per_token"): False}
    rows = [
        {
            "experiment": "tiny", "method": method, "property": key, "title": TITLES[key],
            "holds": answers.get((method, key), False), "measured": "it broke", "how": f"how {key}",
        }
        for method in ("mine", "ekfac")
        for key in ("hessian_free", "per_token")
    ]  # fmt: skip
    return make_properties_table(rows)


def test_the_table_has_its_columns_and_answers_in_words():
    table = _table()

    assert list(table.columns) == ["experiment", "method", "property", "holds", "measured", "how", "title"]
    assert table["holds"].tolist() == ["yes", "not run", "no", "no"]


def test_the_papers_form_has_methods_as_columns_and_ticks_and_crosses():
    crossed = cross_properties(_table())

    assert crossed.to_dict("list") == {
        "Property": ["Hessian-free", "Per-token"],
        "mine": ["✓", "—"],
        "EK-FAC": ["✗", "✗"],
    }


def test_what_counts_is_said_once_a_property_and_why_a_check_did_not_run():
    assert describe_properties(_table()) == [
        "Hessian-free: how hessian_free",
        "Per-token: how per_token",
        "Not run, Per-token of mine: it broke",
    ]


def test_markdown_and_latex_hold_the_signs_and_the_definitions():
    markdown, latex = make_properties_markdown(_table()), make_properties_latex(_table())

    assert "| Hessian-free | ✓      | ✗        |" in markdown
    assert "- Per-token: how per_token" in markdown
    assert "Hessian-free & $\\checkmark$ & $\\times$ \\\\" in latex
    assert "Per-token & --- & $\\times$ \\\\" in latex
    assert "how per\\_token" in latex
