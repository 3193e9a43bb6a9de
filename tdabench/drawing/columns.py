"""Columns of the tables as people read them: their headers, and how their numbers are written."""

import math

MISSING = "—"
MINUS = "\N{MINUS SIGN}"
HEADERS = {
    "train_size": "n",
    "lds": "LDS",
    "standard_error": "± SE",
    "nan_queries": "Queries left out",
    "p_value": "p",
    "p_holm": "p (Holm)",
    "peak_host_bytes": "Memory (MB)",
    "peak_device_bytes": "Device memory (MB)",
    "disk_bytes": "Disk (MB)",
    "cpu_seconds": "CPU (s)",
    "passes": "Forward passes",
    "lds_limit": "Limit",
    "monte_carlo_error": "Monte Carlo error",
    "c": "c (draws)",
    "count": "k",
    "effect": "Effect (nats)",
    "effect_random": "Random removal (nats)",
    "auc": "AUC",
    "overlap": "Overlap",
    "harmful_overlap": "Overlap, harmful",
    "other": "Second",
    "rhat_median": "R-hat, median",
    "rhat_high": "R-hat, 99%",
    "loss_standard_deviation": "Loss SD (nats)",
    "tuning_lds": "Tuning LDS",
    "loss_change": "Loss change (nats)",
    "distance": "Distance, last draw",
    "distance_growth": "Its exponent",
    "learning_coefficient_error": "Its error",
    "score_error_share": "Error of a score",
    "base_host_bytes": "Memory before (MB)",
    "draw_seconds": "A draw (s)",
    "draw_cpu_seconds": "A draw, CPU (s)",
    "tracked_parameters": "Of them tracked",
}
# Columns that are one in the page's tables: prefix of ``low`` and ``high``, and the header of both.
INTERVALS = {
    "": "Interval",
    "bootstrap_": "Bootstrap interval",
    "null_": "By chance",
    "agreement_": "Interval",
    "ceiling_": "Its interval",
    "share_": "Interval of share",
    "oracle_": "Its interval",
    "rank_": "Interval",
    "overlap_": "Its interval",
    "harmful_": "Its interval",
    "predicted_": "Its interval",
}
# Always three decimals, so that they stand below one another.
SCORES = {
    "lds", "low", "high", "standard_error", "standard_deviation", "ceiling", "agreement", "oracle", "difference",
    "effect", "effect_random", "auc", "average_precision", "rank_correlation", "overlap", "harmful_overlap",
    "rhat_median", "rhat_high", "loss_standard_deviation", "lds_limit", "monte_carlo_error", "reliability",
    "tuning_lds", "loss_change",
    *(f"{prefix}{end}" for prefix in INTERVALS if prefix not in ("share_", "predicted_") for end in ("low", "high")),
}  # fmt: skip
# Columns whose name in words is their header.
PLAIN = {
    "experiment", "repeat", "method", "first", "second", "phase", "seconds", "device", "status", "queries", "subsets",
    "retrains", "diverged_retrains", "difference", "agreement", "ceiling", "oracle", "source", "standard_deviation",
    "share", "group", "share_of_ceiling", "rank_correlation", "top", "property", "holds", "measured", "how", "title",
    "detector", "average_precision", "mislabelled", "chains", "draws", "diverged_chains", "effective_draws",
    "drift", "warning", "point", "tuning_queries", "choice", "learning_coefficient", "singular_fluctuation",
    "reliability", "note", "size", "parameters", "quantity", "against", "exponent", "coefficient", "sizes", "held_out",
    "predicted", "verdict",
}  # fmt: skip


def header_of(column: str) -> str:
    """Return the words for a column's name."""
    words = column.replace("_", " ")
    return HEADERS.get(column, words[:1].upper() + words[1:])


def format_number(value: float, column: str = "") -> str:
    """Write a number for people: bytes in MB, shares in percent, p-values never as zero, a minus sign for minus."""
    if not math.isfinite(value):
        text = MISSING
    elif column.endswith("_bytes"):
        text = _short(value / 1e6)
    elif column.startswith("share") or column.endswith("_share"):
        text = f"{value:.1%}".replace("-0.0%", "0.0%").replace("%", "\N{NO-BREAK SPACE}%")
    elif column.startswith("p_"):
        text = "< 0.001" if 0 <= value < 0.001 else f"{value:.3f}"
    elif column.endswith("seconds"):
        text = _short(value)
    elif column in SCORES:
        text = f"{value:.3f}".replace("-0.000", "0.000")
    elif float(value).is_integer():
        text = f"{value:,.0f}"
    elif 0.001 <= abs(value) < 100:
        text = f"{value:.3f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", MINUS)


def _short(value: float) -> str:
    if 0 < value < 0.05:
        return "< 0.1"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"
