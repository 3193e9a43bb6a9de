"""Which methods really differ: paired differences, corrected for their number, and a ranking with groups."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from tdabench.evaluation.intervals import over_repeats, student_p_value, within
from tdabench.evaluation.moderation import moderate_variances

Row = dict[str, Any]
ENDS = ("low", "high", "bootstrap_low", "bootstrap_high")


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm, 1979); NaN stays NaN and counts for nothing."""
    tested = [place for place, value in enumerate(p_values) if not math.isnan(value)]
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(sorted(tested, key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(tested) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def rank_with_groups(means: Mapping[str, float], pairs: Sequence[Row], *, confidence: float) -> list[Row]:
    """Rank methods, best first; methods that share a letter are not told apart.

    A letter stands for neighbours in the ranking of which no two differ after Holm's correction, as the bars of
    Demšar's diagrams (2006); a method may have several letters. One without an LDS comes last and has none.

    Args:
        pairs: Rows with ``first``, ``second`` and ``p_holm``; a missing p-value tells nothing apart.
    """
    ranked, apart = _rank(means), _told_apart(pairs, confidence)
    runs: list[tuple[int, int]] = []
    for start in range(len(ranked)):
        end = start + 1
        while end < len(ranked) and not any(frozenset((ranked[end], other)) in apart for other in ranked[start:end]):
            end += 1
        if not runs or end > runs[-1][1]:
            runs.append((start, end))
    return [
        {
            "method": name,
            "lds": means[name],
            "group": "".join(_letter(index) for index, (start, end) in enumerate(runs) if start <= place < end),
        }
        for place, name in enumerate(ranked)
    ] + [{"method": name, "lds": None, "group": ""} for name in means if name not in ranked]


def share_the_lead(means: Mapping[str, float], pairs: Sequence[Row], *, confidence: float) -> list[str]:
    """Return the method with the highest mean and all that are not told apart from it, best first; it leads if alone.

    The arguments are those of ``rank_with_groups``; methods without a mean are left out.
    """
    ranked, apart = _rank(means), _told_apart(pairs, confidence)
    return [name for name in ranked if frozenset((name, ranked[0])) not in apart]


def _rank(means: Mapping[str, float]) -> list[str]:
    return sorted((name for name, mean in means.items() if _known(mean)), key=lambda name: -means[name])


def _told_apart(pairs: Sequence[Row], confidence: float) -> set[frozenset[str]]:
    return {
        frozenset((row["first"], row["second"]))
        for row in pairs
        if _known(row["p_holm"]) and row["p_holm"] < 1 - confidence
    }


def compare_repeats(comparisons: Sequence[Mapping[str, Any]], confidence: float) -> tuple[list[Row], list[Row]]:
    """Compare every two methods over repeats, from the comparisons of one size.

    ``low``, ``high`` and ``p_value`` are Student's t of the repeats' paired differences, with variances moderated over
    all pairs (``moderate_variances``): another seed, data and models would lie there. ``bootstrap_low`` and
    ``bootstrap_high`` are for these repeats: subsets and queries are resampled in each, and the repeats averaged. A
    single repeat gives its own bootstrap for both. A pair that not every repeat has is compared on those that have it.

    Returns:
        Rows of pairs, and the ranking by the mean over repeats.
    """
    found: dict[tuple[str, str], list[tuple[Row, Tensor]]] = {}
    for comparison in comparisons:
        draws = {name: _tensor(method["draws"]) for name, method in comparison["methods"].items()}
        for row in comparison["pairs"]:
            moved = _move(draws[row["first"]] - draws[row["second"]], row["standard_error"])
            found.setdefault((row["first"], row["second"]), []).append((row, moved))
    rows = [_over_repeats(same, confidence) for same in found.values()]
    _moderate(rows, list(found.values()), confidence)
    for row in rows:  # two correlations differ by 2 at most
        row |= {end: within(row[end], 2.0) for end in ENDS if _known(row.get(end))}
    for row, corrected in zip(rows, holm([_number(row["p_value"]) for row in rows]), strict=True):
        row["p_holm"] = corrected
    means: dict[str, list[float]] = {}
    for comparison in comparisons:
        for name, method in comparison["methods"].items():
            means.setdefault(name, []).append(_number(method["lds"]))
    averages = {name: torch.tensor(values).double().nanmean().item() for name, values in means.items()}
    return rows, rank_with_groups(averages, rows, confidence=confidence)


def _over_repeats(same: Sequence[tuple[Row, Tensor]], confidence: float) -> Row:
    first = same[0][0]
    usable = [(row, moved) for row, moved in same if _known(row["difference"])]
    if len(usable) < 2:
        return dict(usable[0][0] if usable else first)
    differences = [row["difference"] for row, _ in usable]
    student = over_repeats(differences, confidence)
    # Repeats may have other numbers of resamples, after a change of the settings midway.
    shortest = min(len(moved) for _, moved in usable)
    average = torch.stack([moved[:shortest] for _, moved in usable]).mean(dim=0)
    tail = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = (student.mean + average.nanquantile(tail)).tolist()
    p_value = student_p_value(student.mean, student.standard_error, len(usable) - 1)
    return {
        "first": first["first"],
        "second": first["second"],
        "difference": student.mean,
        "low": student.low,
        "high": student.high,
        "standard_error": student.standard_error,
        "p_value": p_value,
        "bootstrap_low": low,
        "bootstrap_high": high,
    }


def _moderate(rows: Sequence[Row], found: Sequence[Sequence[tuple[Row, Tensor]]], confidence: float) -> None:
    """Replace standard errors, intervals and p-values by the moderated ones, for pairs that every repeat has.

    What is alike in all pairs is not a variance over repeats, but by how much it exceeds the bootstrap's: like methods
    differ little in every repeat, and unlike ones much.
    """
    repeats = max((len(same) for same in found), default=0)
    chosen = [
        (row, sum(single["standard_error"] ** 2 for single, _ in same) / repeats)
        for row, same in zip(rows, found, strict=True)
        if len(same) == repeats and all(_known(single["standard_error"]) for single, _ in same)
    ]
    chosen = [(row, expected) for row, expected in chosen if expected > 0]
    if repeats < 2 or not chosen:
        return
    ratios = [row["standard_error"] ** 2 * repeats / expected for row, expected in chosen]
    # The pairs share methods, and their excess differs: together they count no more than the pair itself.
    moderated, freedom = moderate_variances(ratios, freedom=repeats - 1, most=repeats - 1)
    reach = float(stdtrit(freedom, (1 + confidence) / 2))
    for (row, expected), ratio in zip(chosen, moderated, strict=True):
        error = max(math.sqrt(ratio * expected / repeats), row["standard_error"])
        row["standard_error"] = error
        row["low"], row["high"] = row["difference"] - reach * error, row["difference"] + reach * error
        row["p_value"] = student_p_value(row["difference"], error, freedom)


def all_pairs(count: int) -> list[tuple[int, int]]:
    """Return every two places once, in order."""
    return list(itertools.combinations(range(count), 2))


def _move(draws: Float[Tensor, " resample"], standard_error: float | None) -> Float[Tensor, " resample"]:
    seen = draws[draws.isfinite()]
    spread = seen.std() if len(seen) > 1 else torch.tensor(math.nan)
    if standard_error is None:
        return draws * math.nan
    return (draws - seen.mean()) * (standard_error / spread) if spread > 0 else draws - draws


def _tensor(values: Sequence[float | None]) -> Float[Tensor, " resample"]:
    return torch.tensor([_number(value) for value in values], dtype=torch.float64)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _letter(index: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return letters[index] if index < len(letters) else f"({index})"
