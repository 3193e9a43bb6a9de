"""Tables, figures and a gallery as a run would make them, made up: for tests of the page.

Tables come from the functions that make the real ones, so that the page's tests notice when those change.
"""

import io
import itertools
from typing import Any

import numpy as np
import pandas as pd
from made_scaling import make_scaling
from matplotlib.figure import Figure
from PIL import Image

from tdabench.evaluation.pairs import rank_with_groups
from tdabench.questions.detection.report import make_detection_table
from tdabench.questions.diagnostics.report import DIAGNOSTICS
from tdabench.questions.lds.tables import AGREEMENT, EXTRAPOLATION, GROWTH, LDS, PAIRS, make_comparison_tables
from tdabench.questions.properties.report import make_properties_table
from tdabench.questions.removal.report import DIFFERENCES, make_removal_table
from tdabench.questions.sweep.report import declare_sweep
from tdabench.report.costs import make_cost_table
from tdabench.report.gallery import Gallery, Neighbours, QueryImages, Tile
from tdabench.report.page import Material

FIGURES = (
    "lds", "lds_by_repeat", "cost", "pairs", "agreement", "removal", "detection", "diagnostics", "sweep_lds",
    "sweep_traces",
)  # fmt: skip
METHODS = ("ekfac", "bif", "gradsim", "random")
LONG = "a_method_with_a_name_that_is_far_too_long_for_the_screen_of_any_phone_that_there_is"
ATTACK = "<img src=x onerror=\"document.title='attacked'\"><script>document.title='attacked'</script>"
GRID = {"step_size": (1e-4, 1e-3), "inverse_temperature": (10, 100, 1000), "localization": (1e3, 1e4)}


def places(repeats, sizes, methods=("",)) -> list[dict[str, Any]]:
    """Return the columns that say of what a row is, for every repeat (a number of them, or their names)."""
    names = range(repeats) if isinstance(repeats, int) else repeats
    rows = itertools.product(map(str, names), sizes, methods)
    return [{"experiment": "made_up", "repeat": repeat, "train_size": size, "method": m} for repeat, size, m in rows]


def make_lds(methods=METHODS, sizes=(100, 400), repeats=2, unsupported=(), status="ok") -> pd.DataFrame:
    """Make an LDS table: each method 0.1 below the one before it, and 0.05 higher at the smaller size."""
    rows = places([*range(repeats), "all"], sizes, methods)
    for row in rows:
        lost = row["method"] in unsupported
        lds = 0.7 - 0.1 * methods.index(row["method"]) + 0.05 * (row["train_size"] == min(sizes))
        numbers = {"lds": lds, "low": lds - 0.04, "high": lds + 0.04, "standard_error": 0.02, "ceiling": 0.84}
        row |= {"queries": 50, "nan_queries": 0, "status": "unsupported: needs Linear layers" if lost else status}
        row |= dict.fromkeys(numbers, np.nan) if lost else numbers
    return LDS.frame(rows)


def make_cost(methods=METHODS, sizes=(100, 400), repeats=2, retrained=("bank",)) -> pd.DataFrame:
    """Make a cost table: fit takes 10 s plus the repeat, score 1,000 times the method's place."""
    rows, names = [], [*methods, *retrained]
    for place in places(repeats, sizes, names):
        for phase in ("train",) if place["method"] in retrained else ("fit", "score"):
            seconds = 10.0 + int(place["repeat"]) if phase == "fit" else 1000.0 * names.index(place["method"])
            rows.append(
                {**place, "phase": phase, "seconds": seconds, "cpu_seconds": seconds / 2, "peak_host_bytes": 2e9,
                 "peak_device_bytes": 0, "disk_bytes": 5e6, "device": "cpu, 1 thread(s)", "status": "ok"}
            )  # fmt: skip
    return make_cost_table(rows)


def make_diagnostics(methods=("bif",), sizes=(100, 400), repeats=2) -> pd.DataFrame:
    """Make a table of diagnostics, of draws that are sound."""
    numbers = {"chains": 2, "draws": 100, "diverged_chains": 0, "effective_draws": 80.5, "rhat_median": 1.001,
               "rhat_high": 1.02, "drift": 0.4, "loss_standard_deviation": 0.1, "warning": "", "distance": 1.5,
               "distance_growth": 0.02, "learning_coefficient": 12.5, "learning_coefficient_error": 0.3,
               "singular_fluctuation": 9.5, "score_error_share": 0.12}  # fmt: skip
    return DIAGNOSTICS.frame({**place, **numbers} for place in places(repeats, sizes, methods))


def make_growth(method="bif", sizes=(100, 400), repeats=2) -> dict[str, pd.DataFrame]:
    """Make the tables of a growth from 0.3 at 4 draws to 0.5 at 100, and of its limit, 0.6."""
    rows = places([*range(repeats), "all"], sizes, (method,))
    shared = {"chains": 2, "standard_error": 0.02}
    points = [
        {**place, **shared, "draws": draws, "passes": 1000.0 * draws, "cpu_seconds": 5.0 * draws, "lds": lds,
         "low": lds - 0.04, "high": lds + 0.04, "queries": 50, "nan_queries": 0}
        for place in rows
        for draws, lds in ((4, 0.3), (20, 0.4), (100, 0.5))
    ]  # fmt: skip
    limit = {"draws": 100, "lds": 0.5, "monte_carlo_error": 0.01, "lds_limit": 0.6, "low": 0.55, "high": 0.65,
             "c": 44.0, "reliability": 0.69, "note": ""}  # fmt: skip
    extrapolation = EXTRAPOLATION.frame({**place, **shared, **limit} for place in rows)
    return {"growth": GROWTH.frame(points), "extrapolation": extrapolation}


def make_pairs(methods=METHODS, sizes=(100, 400), p_value=0.004) -> pd.DataFrame:
    """Make a table of all pairs, over repeats only, with p-values of one's choice."""
    return PAIRS.frame(
        [
            {"experiment": "made_up", "repeat": "all", "train_size": size, "first": first, "second": second,
             "difference": 0.1, "low": 0.05, "high": 0.15, "p_value": p_value / 2, "p_holm": p_value,
             "bootstrap_low": 0.06, "bootstrap_high": 0.14}
            for size in sizes
            for place, first in enumerate(methods)
            for second in methods[place + 1 :]
        ]
    )  # fmt: skip


def make_compared(methods=METHODS, sizes=(100, 400), repeats=2) -> dict[str, pd.DataFrame]:
    """Make pairs, ranking, reliability, null and variance of the same LDS as ``make_lds``, from what a stage keeps."""
    comparisons = {
        # Repeats differ by so little that every pair is told apart, and have the mean of the table of the LDS.
        (repeat, size): compare(
            {
                name: 0.7 - 0.1 * place + 0.05 * (size == min(sizes)) + 0.0002 * place * (repeat - 0.5)
                for place, name in enumerate(methods)
            },
            repeat,
        )
        for repeat in range(repeats)
        for size in sizes
    }
    return make_comparison_tables(comparisons, "made_up")


def compare(lds: dict[str, float], repeat: int) -> dict[str, Any]:
    """Make what a cell's comparison finds, of methods with these LDS."""
    pairs = [
        {"first": first, "second": second, "difference": lds[first] - lds[second],
         "low": lds[first] - lds[second] - 0.05, "high": lds[first] - lds[second] + 0.05, "standard_error": 0.025,
         "p_value": 0.001, "p_holm": 0.003, "bootstrap_low": lds[first] - lds[second] - 0.05,
         "bootstrap_high": lds[first] - lds[second] + 0.05}
        for first, second in itertools.combinations(lds, 2)
    ]  # fmt: skip
    variance = {"queries": 1e-4, "subsets": 2e-4, "retrains": 1e-4, "checkpoint": None, "sampler": None}
    described = {
        name: {"lds": value, "draws": [value - 0.01, value, value + 0.01],
               "share": value / 0.84 + 0.05 * (repeat - 0.5), "share_low": value / 0.84 - 0.1,
               "share_high": value / 0.84 + 0.1, "null_low": -0.03 - 0.02 * repeat,
               "null_high": 0.02 + 0.02 * repeat, "p_value": 0.0001,
               "variance": variance | ({"checkpoint": 3e-4, "sampler": 3e-4} if name == "gradsim" else {})}
        for name, value in lds.items()
    }  # fmt: skip
    reliability = {"agreement": 0.47, "agreement_low": 0.4, "agreement_high": 0.5, "ceiling": 0.8, "ceiling_low": 0.7,
                   "ceiling_high": 0.9, "oracle": 0.1, "oracle_low": 0.0, "oracle_high": 0.2}  # fmt: skip
    ranking = rank_with_groups(lds, pairs, confidence=0.95)
    return {"confidence": 0.95, "retrains": 2, "subsets": 50, "diverged_retrains": 0, "methods": described,
            "pairs": pairs, "ranking": ranking, "reliability": reliability, "unsupported": {}}  # fmt: skip


def make_removal(methods=METHODS, sizes=(400,), repeats=2) -> pd.DataFrame:
    """Make a table of removals: each method's effect 0.1 below the one before it, ten times as large at k = 20."""
    rows = [
        {**place, "count": count, "effect": first - 0.01 * count * methods.index(place["method"]), "low": -0.2,
         "high": 1.2, "standard_error": 0.1, "effect_random": 0.01, "queries": 30, "retrains": 1, "overlap": 0.1,
         "status": "ok"}
        for place in places(repeats, sizes, methods)
        for count, first in ((1, 0.1), (20, 1.0))
    ]  # fmt: skip
    return make_removal_table(rows, 0.95)


def make_removal_differences(methods=METHODS, sizes=(400,), low=0.05, high=0.35) -> pd.DataFrame:
    """Make the table of paired differences of the effect, of one repeat."""
    rows = [
        {**place, "count": count, "method": first, "other": second, "difference": 0.2, "low": low, "high": high,
         "standard_error": 0.1, "queries": 30}
        for place in places(1, sizes)
        for count in (1, 20)
        for first, second in itertools.combinations(methods, 2)
    ]  # fmt: skip
    return DIFFERENCES.add_rows_over_repeats(rows, 0.95)


def make_detection(methods=METHODS, sizes=(400,), repeats=2) -> pd.DataFrame:
    """Make a table of detection: by self-influence 0.95, 0.85 and so on, by mean helpfulness 0.02 less, loss 0.9."""
    pairs = [(method, "self_influence", 0.95 - 0.1 * place) for place, method in enumerate(methods)]
    pairs += [(method, "mean_helpfulness", 0.93 - 0.1 * place) for place, method in enumerate(methods)]
    rows = [
        {**place, "method": method, "detector": detector, "auc": auc, "low": auc - 0.04, "high": auc + 0.04,
         "standard_error": 0.02, "average_precision": 0.5, "mislabelled": 40, "status": "ok"}
        for place in places(repeats, sizes)
        for method, detector, auc in [*pairs, ("loss", "loss", 0.9)]
    ]  # fmt: skip
    return make_detection_table(rows, 0.95)


def make_agreement(methods=METHODS, sizes=(100, 400), repeats=2) -> pd.DataFrame:
    """Make a table of agreement, the same for every pair."""
    rows = [
        {**place, "first": first, "second": second, "rank_correlation": 0.5, "rank_low": 0.4, "rank_high": 0.6,
         "overlap": 0.3, "overlap_low": 0.2, "overlap_high": 0.4, "top": 10, "queries": 50, "harmful_overlap": 0.25,
         "harmful_low": 0.2, "harmful_high": 0.3, "nan_queries": 0}
        for place in places(repeats, sizes)
        for first, second in itertools.combinations(methods, 2)
    ]  # fmt: skip
    return AGREEMENT.add_rows_over_repeats(rows, 0.95)


def make_properties(methods=METHODS) -> pd.DataFrame:
    """Make a table of two properties: the first that all but the first method have, the second that was never run."""
    rows = [
        {"experiment": "made_up", "method": method, "property": key, "title": title, "holds": holds,
         "measured": f"measured {method}", "how": f"how {key} is found"}
        for place, method in enumerate(methods)
        for key, title, holds in (("no_fit_phase", "No fit phase", place > 0), ("per_token", "Per-token", None))
    ]  # fmt: skip
    return make_properties_table(rows)


def make_tables(**options: Any) -> dict[str, pd.DataFrame]:
    """Make every table that an experiment that asks everything writes."""
    sizes = options.get("sizes", (100, 400))
    return {
        "lds": make_lds(**options),
        **make_compared(sizes=sizes),
        **make_growth(sizes=sizes),
        "cost": make_cost(sizes=sizes),
        "sweep": make_sweep(),
        **make_scaling(),
        **make_others(),
    }


def make_sweep(grid=GRID, sizes=(400,), repeats=1) -> pd.DataFrame:
    """Make the table of a sweep: each point 0.01 better than the one before it, but for the last, which diverged."""
    points = list(itertools.product(*grid.values()))
    rows = []
    for repeat, size in itertools.product(range(repeats), sizes):
        for place, values in enumerate(points):
            lost, lds = place == len(points) - 1, 0.01 * place + 0.001 * repeat
            settings = dict(zip(grid, values, strict=True))
            numbers = {"tuning_lds": lds, "low": lds - 0.04, "high": lds + 0.04, "standard_error": 0.02,
                       "loss_change": 0.1, "effective_draws": 12.5, "rhat_high": 1.01}  # fmt: skip
            numbers |= dict.fromkeys(numbers) if lost else {}
            rows.append(
                {"experiment": "made_up", "repeat": repeat, "train_size": size, "point": f"point {place}", **settings,
                 **numbers, "tuning_queries": 50, "diverged_chains": 2 * lost, "cpu_seconds": 3.0,
                 "status": "diverged: Every chain did" if lost else "ok",
                 "choice": {len(points) - 1: "", len(points) - 2: "best", len(points) - 3: "not told apart"}.get(
                     place, "worse")}
            )  # fmt: skip
    return declare_sweep(list(grid)).add_rows_over_repeats(rows, 0.95)


def make_others() -> dict[str, pd.DataFrame]:
    """Make the tables that an experiment without a bank writes, but its cost."""
    return {
        "removal": make_removal(),
        "removal_differences": make_removal_differences(),
        "detection": make_detection(),
        "agreement": make_agreement(),
        "properties": make_properties(),
        "diagnostics": make_diagnostics(),
    }


def make_figure() -> bytes:
    """Draw a figure of 200 x 100 pixels."""
    content = io.BytesIO()
    Figure(figsize=(2, 1), dpi=100).savefig(content, format="png", dpi=100)
    return content.getvalue()


def make_gallery(methods=METHODS) -> Gallery:
    """Make a gallery of two queries, the last method without scores."""

    def tile(place: int, score: str = "") -> Tile:
        return Tile(place=place, label="cat", description=f"train image {place}, label cat", score=score)

    rows = tuple(
        Neighbours(method=method, helpful=(tile(1, "0.5"), tile(2, "0.4")), harmful=(tile(3, "−0.5"),))
        for method in methods[:-1]
    )
    last = Neighbours(method=methods[-1], reason="unsupported: needs Linear layers")
    content = io.BytesIO()
    Image.new("RGB", (32, 8), "teal").save(content, format="PNG")
    return Gallery(
        sheet=content.getvalue(), columns=4, shown=56, shown_query=96, train_size=400, repeat=0,
        queries=(QueryImages(tile=tile(0), neighbours=(*rows, last)),) * 2,
    )  # fmt: skip


def make_record(**job: Any) -> dict[str, Any]:
    """Make the content of tables/record.json with two jobs, the second at another commit."""
    first = {
        "commit": "a" * 40, "dirty": False, "device": "cpu, 1 thread(s)", "processor": "a processor", "python": "3.11",
        "platform": "Linux", "versions": {"tdabench": "0.1.0", "torch": "2.11"}, "date": "2026-01-02T03:04:05+00:00",
    } | job  # fmt: skip
    second = {**first, "commit": "b" * 40, "dirty": True, "date": "2026-02-03T04:05:06+00:00"}
    return {
        "experiment": {"name": "made_up", "seed": 7, "data": {"train_sizes": [100, 400]}},
        "jobs": {"0/100/scores/bif.safetensors": first, "0/400/scores/bif.safetensors": second},
        "record": {"commit": None},
    }


def make_material(**changes: Any) -> Material:
    """Make everything that a page can have."""
    tables = changes.pop("tables", None) or make_tables()
    figures = {name: make_figure() for name in FIGURES}
    parts = {"name": "made_up", "tables": tables, "figures": figures, "record": make_record(), "confidence": 0.95}
    return Material(**{**parts, "gallery": make_gallery(), **changes})
