"""Tables, texts and figures of removal and detection, from rows as evaluation gives them."""

import math
from typing import Any

from tdabench.questions.detection.report import make_detection_table, plot_detection, summarise_detection
from tdabench.questions.removal.report import make_removal_table, plot_removal, summarise_removal

LEVEL = 0.95


# Removal


def test_counts_are_whole_numbers_in_the_file_even_beside_missing_ones():
    rows = [_removal(), _removal(method="trak", effect=None, status="unsupported: no")]

    lines = make_removal_table(rows, LEVEL).to_csv(index=False, float_format="%.6f").splitlines()

    assert lines[1] == "tiny,0,100,bif,1,1.000000,0.000000,2.000000,0.500000,0.500000,10,2,ok,0.100000"
    assert lines[2] == "tiny,0,100,trak,1,,,,,,,2,unsupported: no,"


def test_a_removal_that_empties_classes_or_lost_retrains_says_so():
    lost = make_removal_table([_removal(diverged=20)], LEVEL)
    assert lost["status"][0] == "ok; 20 retrains of a query diverged and are left out"
    table = make_removal_table([_removal(overlap=0.5), _removal(count=10, overlap=0.94)], LEVEL)

    assert table["status"].tolist()[:2] == [
        "ok",
        "ok; k = 10 nearly empties the classes: 94% of the random examples are the removed ones",
    ]
    assert summarise_removal(table)["status"].tolist() == [" | ".join(table["status"][:2])]


def test_the_text_is_ranked_by_the_largest_removal_and_a_method_that_cannot_run_comes_last():
    rows = [
        _removal(method="trak", effect=None, status="unsupported: no"),
        *(_removal(method="bif", count=count, effect=effect) for count, effect in ((1, 0.5), (10, 1.0))),
        *(_removal(method="ekfac", count=count, effect=effect) for count, effect in ((1, 0.1), (10, 2.0))),
        _removal(method="trak", effect=None, count=10, status="unsupported: no"),
    ]

    summary = summarise_removal(make_removal_table(rows, LEVEL))

    assert list(summary["method"]) == ["ekfac", "bif", "trak"]
    assert list(summary.columns) == ["method", "k = 1", "k = 10", "status"]
    assert summary["k = 10"].tolist() == ["2.000 [1.000, 3.000]", "1.000 [0.000, 2.000]", "—"]


def test_the_removal_figure_has_a_panel_a_size_and_a_point_a_method_and_count():
    rows = [
        _removal(method=method, train_size=size, count=count)
        for size in (100, 200)
        for method in ("bif", "random", "mine")
        for count in (1, 5, 20)
    ]

    figure = plot_removal(make_removal_table(rows, LEVEL))

    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["n = 100", "n = 200"]
    for axes in panels:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "20"]
        assert [len(container.lines[0].get_xdata()) for container in axes.containers] == [3, 3, 3]
    assert "nats" in panels[0].get_ylabel()


# Detection


def test_a_detector_that_ranks_nothing_says_so_and_one_that_could_not_run_says_its_own():
    rows = [_detection(auc=math.nan), {**_detection(status="unsupported: no"), "auc": None}]
    del rows[1]["auc"]

    table = make_detection_table(rows, LEVEL)

    assert table["status"].tolist()[:2] == ["ok; the same for every example: no ranking", "unsupported: no"]
    assert table["auc"].isna().all()


def test_the_text_names_each_detector_best_first():
    rows = [
        _detection(auc=0.6),
        _detection(detector="mean_helpfulness", auc=0.7),
        _detection(method="loss", detector="loss", auc=0.9),
    ]

    summary = summarise_detection(make_detection_table(rows, LEVEL))

    assert summary["detector"].tolist() == ["loss", "−mean helpfulness", "self-influence"]
    assert summary["AUC"].tolist()[0] == "0.900 [0.800, 1.000]"


def test_the_detection_figure_has_a_row_a_method_and_two_points_a_method():
    rows = [
        _detection(method=method, detector=detector, auc=auc)
        for method, auc in (("bif", 0.9), ("random", 0.5))
        for detector in ("self_influence", "mean_helpfulness")
    ] + [_detection(method="loss", detector="loss", auc=0.8), {**_detection(method="trak"), "auc": math.nan}]

    figure = plot_detection(make_detection_table(rows, LEVEL))

    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["TRAK", "random", "loss", "BIF"]
    assert len(axes.containers) == 5
    assert axes.get_xlabel() == "area under the ROC curve"


def _removal(**changes: Any) -> dict[str, Any]:
    effect = changes.get("effect", 1.0)
    numbers = {} if effect is None else {"effect": effect, "low": effect - 1, "high": effect + 1}
    place = {"experiment": "tiny", "repeat": 0, "train_size": 100, "method": "bif", "count": 1, "status": "ok"}
    rest = {"standard_error": 0.5, "effect_random": 0.5, "queries": 10, "retrains": 2, "diverged": 0, "overlap": 0.1}
    return {**place, **(rest if numbers else {"retrains": 2}), **changes, **numbers}


def _detection(**changes: Any) -> dict[str, Any]:
    auc = changes.get("auc", 0.5)
    return {
        "experiment": "tiny", "repeat": 0, "train_size": 100, "method": "bif", "detector": "self_influence",
        "auc": auc, "low": auc - 0.1, "high": auc + 0.1, "standard_error": 0.05, "average_precision": 0.4,
        "mislabelled": 12, "status": "ok", **changes,
    }  # fmt: skip
