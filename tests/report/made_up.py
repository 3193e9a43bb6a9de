"""Tables, figures and a gallery as a run would make them, made up: for tests of the page."""

import io
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from tdabench.report.gallery import Gallery, Neighbours, QueryImages, Tile
from tdabench.report.page import Material

METHODS = ("ekfac", "bif", "gradsim", "random")


def make_lds(methods=METHODS, sizes=(100, 400), repeats=2, unsupported=(), status="ok") -> pd.DataFrame:
    """Make an LDS table: each method 0.1 below the one before it, and 0.05 higher at the smaller size."""
    rows: list[dict[str, Any]] = []
    for repeat in [*map(str, range(repeats)), "all"]:
        for size in sizes:
            for place, method in enumerate(methods):
                lds = np.nan if method in unsupported else 0.7 - 0.1 * place + 0.05 * (size == min(sizes))
                rows.append(
                    {"experiment": "made_up", "repeat": repeat, "train_size": size, "method": method, "lds": lds,
                     "low": lds - 0.04, "high": lds + 0.04, "standard_error": 0.02 + 0 * lds, "queries": 50,
                     "nan_queries": 0, "ceiling": 0.84 + 0 * lds,
                     "status": "unsupported: needs Linear layers" if method in unsupported else status}
                )  # fmt: skip
    return pd.DataFrame(rows)


def make_cost(methods=METHODS, sizes=(100, 400), repeats=2) -> pd.DataFrame:
    """Make a cost table: fit takes 10 s plus the repeat, score 1,000 times the method's place."""
    rows = []
    for repeat in range(repeats):
        for size in sizes:
            for place, method in enumerate([*methods, "bank"]):
                for phase in ("train",) if method == "bank" else ("fit", "score"):
                    seconds = 10.0 + repeat if phase == "fit" else 1000.0 * place
                    rows.append(
                        {"experiment": "made_up", "repeat": str(repeat), "train_size": size, "method": method,
                         "phase": phase, "seconds": seconds, "cpu_seconds": seconds / 2, "peak_host_bytes": 2e9,
                         "peak_device_bytes": 0, "disk_bytes": 5e6, "device": "cpu, 1 thread(s)", "status": "ok"}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def make_pairs(methods=METHODS, sizes=(100, 400), p_value=0.004) -> pd.DataFrame:
    """Make a table of all pairs, over repeats only."""
    return pd.DataFrame(
        [
            {"experiment": "made_up", "repeat": "all", "train_size": size, "first": first, "second": second,
             "difference": 0.1, "low": 0.05, "high": 0.15, "p_value": p_value / 2, "p_holm": p_value,
             "bootstrap_low": 0.06, "bootstrap_high": 0.14}
            for size in sizes
            for place, first in enumerate(methods)
            for second in methods[place + 1 :]
        ]
    )  # fmt: skip


def make_null(methods=METHODS, sizes=(100, 400)) -> pd.DataFrame:
    """Make a table of what chance gives."""
    return pd.DataFrame(
        [
            {"experiment": "made_up", "repeat": "all", "train_size": size, "method": method, "null_low": -0.031,
             "null_high": 0.029, "p_value": 0.0001}
            for size in sizes
            for method in methods
        ]
    )  # fmt: skip


def make_tables(**options: Any) -> dict[str, pd.DataFrame]:
    """Make every table that the page has a text for."""
    place = {"experiment": "made_up", "repeat": "all", "train_size": 400}
    return {
        "lds": make_lds(**options),
        "cost": make_cost(),
        "pairs": make_pairs(),
        "null": make_null(),
        "reliability": pd.DataFrame([{**place, "retrains": 2, "subsets": 50, "agreement": 0.47, "ceiling": 0.8}]),
        "variance": pd.DataFrame(
            [{**place, "method": "bif", "source": source, "standard_deviation": 0.01, "share": share}
             for source, share in (("subsets", 0.6), ("queries", 0.4))]
        ),
        "removal": pd.DataFrame([{**place, "method": "bif", "removed": 10, "loss_increase": 0.4}]),
        "detection": pd.DataFrame([{**place, "method": "bif", "area": 0.9}]),
        "agreement": pd.DataFrame([{**place, "first": "bif", "second": "ekfac", "agreement": 0.5}]),
        "properties": pd.DataFrame([{**place, "method": "bif", "same_label_share": 0.7}]),
        "diagnostics": pd.DataFrame([{**place, "method": "bif", "r_hat": 1.01}]),
    }  # fmt: skip


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
    figures = {name: make_figure() for name in ("lds", "lds_by_repeat", "cost", "removal")}
    parts = {"name": "made_up", "tables": tables, "figures": figures, "record": make_record(), "confidence": 0.95}
    return Material(**{**parts, "gallery": make_gallery(), **changes})
