"""The page's table of cost: what was counted, and what was not."""

import pandas as pd
from made_up import make_cost

from tdabench.drawing.section import Results
from tdabench.report.costs import cost_table


def _table(cost: pd.DataFrame):
    return cost_table(Results(tables={"cost": cost}, figures={}, confidence=0.95), 400)


def _column(cost: pd.DataFrame, header: str) -> dict[str, str]:
    table = _table(cost)
    place = table.headers.index(header)
    return {row[0].text: row[place].text for row in table.rows}


def test_forward_passes_are_the_sum_of_the_phases_in_the_mean_over_repeats():
    cost = make_cost(methods=("bif", "trak"))
    cost["passes"] = [1000.0 if phase == "fit" else 250.0 for phase in cost["phase"]]

    assert _column(cost, "Forward passes")["BIF"] == "1,250"


def test_passes_that_one_phase_does_not_know_are_missing_and_not_the_others_alone():
    cost = make_cost(methods=("bif", "trak"))
    cost["passes"] = 1000.0
    cost.loc[(cost["method"] == "trak") & (cost["phase"] == "fit"), "passes"] = None

    assert _column(cost, "Forward passes") == {"BIF": "2,000", "TRAK": "—"}


def test_a_table_from_before_passes_were_counted_has_no_such_column():
    cost = make_cost(methods=("bif", "trak"))

    for table in (cost, cost.drop(columns="passes")):
        assert "Forward passes" not in _table(table).headers
