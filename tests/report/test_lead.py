import pandas as pd
import pytest
from made_scaling import make_scaling
from made_up import make_compared, make_detection, make_lds, make_pairs, make_removal, make_removal_differences

from tdabench.drawing.html import styles_of
from tdabench.drawing.section import Results
from tdabench.questions import load_shown
from tdabench.report.page import list_warnings

LEAD = "EK-FAC leads at n = 400 with an LDS of 0.700 (83\N{NO-BREAK SPACE}% of the ceiling), 0.100 above BIF"


def lead(lds: pd.DataFrame, pairs: pd.DataFrame | None = None) -> str:
    tables = {"lds": lds} if pairs is None else {"lds": lds, "pairs": pairs}
    return summarise(tables)[0]


def summarise(tables: dict[str, pd.DataFrame]) -> list[str]:
    results = Results(tables=tables, figures={}, confidence=0.95)
    return [sentence for shown in load_shown(["lds", *tables]) for sentence in shown.lead(results)]


def test_the_lead_names_method_size_score_share_of_ceiling_and_distance():
    assert lead(make_lds()) == f"{LEAD}."


@pytest.mark.parametrize(
    ("p_value", "verdict"),
    [
        (0.0494, "a difference that is more than chance (paired, p = 0.049 after Holm's correction)"),
        (1e-6, "a difference that is more than chance (paired, p < 0.001 after Holm's correction)"),
    ],
)
def test_the_lead_is_real_if_the_corrected_p_value_is_below_one_minus_the_confidence(p_value, verdict):
    assert lead(make_lds(), make_pairs(p_value=p_value)) == f"{LEAD}: {verdict}."


def test_those_that_are_not_told_apart_share_the_lead():
    assert lead(make_lds(), make_pairs(p_value=0.0506)) == (
        "EK-FAC has the highest LDS at n = 400, 0.700 (83\N{NO-BREAK SPACE}% of the ceiling), and shares the lead with "
        "BIF, GradSim and random: they are not told apart from it (paired, Holm's correction)."
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.02, 0.15, "a difference that is more than chance (paired interval 0.020 to 0.150)"),
        (-0.02, 0.15, "a difference that may be chance (paired interval −0.020 to 0.150)"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_without_a_p_value_the_paired_interval_decides_whichever_method_stands_first(low, high, verdict, turned):
    pairs = make_pairs(p_value=float("nan")).assign(low=low, high=high)
    if turned:
        names = {"first": pairs["second"], "second": pairs["first"]}
        pairs = pairs.assign(**names, low=-high, high=-low)

    assert lead(make_lds(), pairs) == f"{LEAD}: {verdict}."


def test_without_students_interval_the_bootstraps_decides():
    pairs = make_pairs(p_value=float("nan")).assign(low=float("nan"), high=float("nan"))

    assert "paired interval 0.060 to 0.140" in lead(make_lds(), pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        make_pairs(sizes=(100,)),
        make_pairs(("gradsim", "random")),
        make_pairs(p_value=float("nan")).drop(columns=["low", "high", "bootstrap_low", "bootstrap_high"]),
    ],
    ids=["other size", "other methods", "no numbers"],
)
def test_a_table_of_pairs_that_lacks_this_pair_decides_nothing(pairs):
    assert lead(make_lds(), pairs) == f"{LEAD}."


def test_without_another_method_a_score_or_a_ceiling_the_lead_says_less():
    assert lead(make_lds(("bif",), repeats=1)).endswith("of the ceiling); no other method has one.")
    assert lead(make_lds(unsupported=("ekfac", "bif", "gradsim", "random"))) == "No method has an LDS."
    assert "ceiling" not in lead(make_lds().assign(ceiling=None))


def test_the_other_sizes_name_their_own_leaders():
    lds = make_lds(sizes=(100, 200, 400))
    at_200 = (lds["train_size"] == 200) & (lds["method"] == "random")
    lds.loc[at_200, "lds"] = 0.9

    _, text = summarise({"lds": lds})

    assert text == "At the other sizes: random leads at n = 200 (0.900); EK-FAC leads at n = 100 (0.750)."
    assert len(summarise({"lds": make_lds(sizes=(100,))})) == 1


def test_every_status_that_is_not_ok_is_listed_once_with_where_it_was():
    lds = make_lds(("bif", "ekfac"), sizes=(100,))
    lds.loc[lds["method"] == "bif", "status"] = "ok; warning: large"
    cost = lds[["experiment", "repeat", "train_size", "method", "status"]]
    diagnostics = pd.DataFrame({"experiment": ["made_up"], "status": ["something"]})

    lines = list_warnings({"lds": lds, "cost": cost, "diagnostics": diagnostics}, styles_of(lds))

    assert lines == [
        "BIF (repeat 0, n = 100; repeat 1, n = 100): ok; warning: large",
        "The experiment: something",
    ]


def test_queries_that_are_left_out_are_a_warning():
    lds = make_lds(("bif",), sizes=(100,), repeats=1).assign(nan_queries=3)

    lines = list_warnings({"lds": lds}, styles_of(lds))

    assert lines == [
        "BIF (repeat 0, n = 100): 3 of 50 queries have a constant score or loss and are left out",
    ]
    assert list_warnings({"lds": make_lds()}, {}) == []


def test_the_share_of_the_ceiling_is_the_rankings_where_there_is_one():
    ranking = make_compared()["ranking"].assign(share_of_ceiling=0.77)

    text = summarise({"lds": make_lds(), "ranking": ranking})[0]

    assert "(77\N{NO-BREAK SPACE}% of the ceiling)" in text


# Removal


def removal(table: pd.DataFrame, differences: pd.DataFrame | None = None) -> str:
    tables = {"removal": table} if differences is None else {"removal": table, "removal_differences": differences}
    return summarise(tables)[0]


REMOVED = (
    "Without the 20 examples that EK-FAC calls most helpful for it, a query's loss is 1.000 nats higher than without "
    "as many random ones of the same classes (95% interval −0.200 to 1.200; n = 400): 0.200 more than BIF"
)


def test_removal_names_the_method_with_the_largest_effect_at_the_largest_count_and_size():
    table = make_removal(repeats=1, sizes=(100, 400))
    table.loc[table["count"] == 1, "effect"] = 9.0
    table.loc[table["train_size"] == 100, "effect"] = 9.0

    assert removal(table) == f"{REMOVED}."


@pytest.mark.parametrize(
    ("low", "verdict"), [(0.05, "a difference that is more than chance"), (-0.05, "a difference that may be chance")]
)
@pytest.mark.parametrize("turned", [False, True])
def test_the_paired_interval_says_whether_an_effect_is_larger(low, verdict, turned):
    differences = make_removal_differences(low=low)
    if turned:
        names = {"method": differences["other"], "other": differences["method"]}
        differences = differences.assign(**names, low=-differences["high"], high=-differences["low"])

    text = removal(make_removal(repeats=1), differences)

    interval = f"{low:.3f} to 0.350".replace("-", "−")
    assert text == f"{REMOVED}, {verdict} (paired interval {interval})."


def test_a_single_removed_example_and_a_single_method_need_other_words():
    table = make_removal(("bif",), repeats=1)

    assert removal(table[table["count"] == 1]).startswith("Without the example that BIF calls most helpful")
    assert removal(table).endswith("n = 400).")
    assert "(no interval; n = 400)" in removal(table.assign(low=float("nan")))
    assert removal(table.assign(effect=float("nan"))) == "No method has removals."


# Detection


def detection(table: pd.DataFrame) -> str:
    return summarise({"detection": table})[0]


FOUND = (
    "Of all methods, EK-FAC finds the planted wrong labels best, by its self-influence, with an area under the ROC "
    "curve of 0.950 (95% interval 0.910 to 0.990; n = 400)"
)


def test_detection_names_method_and_detector_and_the_loss_beside_them():
    assert detection(make_detection(repeats=1)) == f"{FOUND}; the loss alone has 0.900."


def test_the_loss_is_no_method_even_where_it_finds_most():
    table = make_detection(repeats=1)
    table.loc[table["detector"] == "loss", "auc"] = 0.999

    assert detection(table) == f"{FOUND}; the loss alone has 0.999."
    assert detection(table[table["detector"] != "loss"]) == f"{FOUND}."


def test_where_no_method_ranks_the_labels_the_loss_is_what_is_left():
    table = make_detection(repeats=1)
    table.loc[table["detector"] != "loss", "auc"] = None

    assert detection(table) == "No method ranks the planted wrong labels; the loss alone has 0.900."
    assert detection(table[table["detector"] != "loss"]) == "No method ranks the planted wrong labels."


def test_every_question_that_the_experiment_asked_has_its_sentence():
    tables = {"lds": make_lds(), "removal": make_removal(), "detection": make_detection()}

    sentences = summarise(tables)

    assert [sentence.split()[0] for sentence in sentences] == ["EK-FAC", "At", "Without", "Of"]
    assert summarise({}) == []


def summarise_costs(**changes) -> list[str]:
    tables = {name: table.assign(**changes.get(name, {})) for name, table in make_scaling().items()}
    return summarise(tables)


def test_a_scaling_begins_with_how_time_grows_and_from_when_on_a_fit_pays():
    growth, pays = summarise_costs()

    # EK-FAC's 40 s of fit grow with the power 1.5, its second of scores with 1: both together with a little less.
    assert growth == (
        "Seconds grow with this power of the model's parameters, the fastest first: 1.49 (95% interval 1.48 to 1.51; "
        "3 sizes) for EK-FAC, 1.00 (95% interval 1.00 to 1.00; 4 sizes) for BIF."
    )
    # 41 + q/100 seconds against 20 + q/5.
    assert pays == (
        "Queries from which EK-FAC is the quicker one at 14m: against BIF with 20 draws 111 (measured, between 18 and "
        "200), against BIF with 2,000 draws 1 (predicted)."
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.5, 1.6, "1.00 (95% interval 0.50 to 1.60; 4 sizes) for BIF; the intervals of the first two overlap."),
        (float("nan"), float("nan"), "1.00 (no interval; 4 sizes) for BIF."),
    ],
)
def test_exponents_say_whether_their_intervals_overlap_or_that_there_are_none(low, high, words):
    assert summarise_costs(scaling_fits={"low": low, "high": high})[0].endswith(words)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"predicted": 500.0, "low": 200.0, "high": None}, "501 (predicted; not at 200, measured)"),
        ({"predicted": float("nan"), "low": 200.0, "high": None}, "none (predicted; not at 200, measured)"),
        ({"predicted": 0.0, "low": 0.0, "high": 2.0}, "2 or fewer (measured)"),
        ({"predicted": float("nan"), "low": None, "high": None}, "none (predicted)"),
    ],
)
def test_a_break_even_that_was_not_measured_says_what_is_known(row, words):
    changes = {name: float("nan") if value is None else value for name, value in row.items()}

    pays = summarise_costs(break_even={"measured": float("nan"), **changes})[1]

    assert f"against BIF with 20 draws {words}, " in pays


def test_without_a_law_and_without_break_evens_it_says_that_there_is_none():
    tables = {name: table.iloc[:0] for name, table in make_scaling().items()}

    assert summarise(tables) == ["No method's time was measured at two sizes of the model."]
