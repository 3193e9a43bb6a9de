"""Costs against model size as a scaling experiment would measure them, made up: exact power laws.

The tables of what they say come from the functions that make the real ones.
"""

import pandas as pd

from tdabench.questions.scaling.costs import break_evens, fit_costs, predict_costs
from tdabench.questions.scaling.report import make_scaling_table

SIZES = {"14m": 14e6, "31m": 31e6, "70m": 70e6, "160m": 162e6}
GIB = 2**30
SETTINGS = {"queries": 18, "draws": 2000, "confidence": 0.95}
UNSEEN = pd.DataFrame(
    [
        {"method": method, "size": "1b", "parameters": 10**9, "tracked_parameters": 8 * 10**8}
        for method in ("bif", "ekfac")
    ]
)


def make_run(method: str, size: str, **values: float | str) -> dict[str, object]:
    """Make a row of a run, of what is the same for all and values of one's own."""
    parameters = int(SIZES[size])
    return {
        "experiment": "made_up", "size": size, "parameters": parameters, "tracked_parameters": parameters // 2,
        "method": method, "repeat": 0, "base_host_bytes": GIB, "peak_device_bytes": 0, "device": "cpu", "status": "ok",
        **values,
    }  # fmt: skip


def make_runs() -> pd.DataFrame:
    """Make costs: EK-FAC's fit grows with the power 1.5, its scores and BIF's draws with 1; 70m is out of memory."""
    rows = []
    for size, parameters in SIZES.items():
        for queries in (18, 2, 200) if size == "14m" else (18,):
            scale = parameters / 14e6
            bif = {"cpu_seconds": 2.0, "peak_host_bytes": GIB * (1 + scale), "disk_bytes": 100 * scale}
            draw = {"draws": 20, "draw_seconds": scale * (1 + queries / 100), "draw_cpu_seconds": 1.0}
            score = {"seconds": 20 * scale * (1 + queries / 100), **bif, **draw}
            rows.append(make_run("bif", size, phase="score", queries=queries, **score))
            if size == "70m":
                status = "out of memory: 9 GiB resident, of 8 allowed"
                rows.append(make_run("ekfac", size, phase="score", queries=queries, status=status))
                continue
            for phase, seconds in (("fit", 40 * scale**1.5), ("score", scale * (1 + queries / 100))):
                rows.append(make_run("ekfac", size, phase=phase, queries=queries, seconds=seconds, **bif))
    return make_scaling_table(rows)


def make_scaling() -> dict[str, pd.DataFrame]:
    """Make every table that a scaling experiment writes."""
    runs = make_runs()
    return {
        "scaling": runs,
        "scaling_fits": fit_costs(runs, **SETTINGS),
        "scaling_predictions": predict_costs(runs, UNSEEN, **SETTINGS),
        "break_even": break_evens(runs, draws=SETTINGS["draws"]),
    }
