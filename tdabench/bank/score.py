"""What people read of a bank: its description, and the scores of methods against it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tdabench.bank.arrays import pick, read_arrays
from tdabench.bank.bank import Bank, constant_queries, count_diverged
from tdabench.experiment.sections import EvaluationSettings
from tdabench.seeds import make_generator

COLUMNS = (
    "method", "lds", "low", "high", "standard_error", "queries", "nan_queries", "ceiling", "agreement", "subsets",
    "dropped_subsets", "diverged_retrains", "tuning_lds",
)  # fmt: skip
BASELINE = "random"


def read_scores(paths: Sequence[Path], bank: Bank, *, name: str, negate: bool) -> dict[str, Tensor]:
    """Read scores (query, train), each under its file's name (its path, where two are alike).

    An .mmap is traker's: (train, query).

    Args:
        name: Which array of a file that has several.
        negate: Whether they are positive where an example harms.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If one can't be read, has another shape than the bank, or is not finite.
    """
    stems = [BASELINE, *(path.stem for path in paths)]
    scores = {}
    for path in paths:
        arrays = read_arrays([path])
        if not arrays:
            raise ValueError(f"{path} has no scores: the method couldn't run. Leave it out.")
        values = next(iter(arrays.values())) if len(arrays) == 1 else pick(arrays, name, "--name")
        values = values.T if path.suffix == ".mmap" else values
        _check_scores(values, bank, path)
        values = values if values.is_floating_point() else values.double()
        scores[str(path) if stems.count(path.stem) > 1 else path.stem] = -values if negate else values
    return scores


def score_bank(
    bank: Bank,
    scores: Mapping[str, Tensor],
    settings: EvaluationSettings,
    evaluate: Callable[..., dict[str, Any]],
    *,
    seed: int | None = None,
) -> pd.DataFrame:
    """Make a table: a row for each method, and one for random scores.

    Args:
        evaluate: ``tdabench.evaluation.evaluate.evaluate_scores``.
        seed: Of the bootstrap and the random scores (default: the bank's, so that a bank of an experiment is scored
            with the resamples of its stage ``evaluate``).
    """
    if seed is None:
        seed = bank.record.get("seed", 0)
    place = bank.record.get("stream", [])[1:]
    shape = (bank.loss.shape[2], bank.masks.shape[1])
    baseline = torch.randn(*shape, generator=make_generator(seed, "bank", BASELINE, *place))
    rows = []
    for method, values in {**scores, BASELINE: baseline}.items():
        generator = make_generator(seed, "bootstrap", *place)
        result = evaluate(values, bank.masks, bank.loss, settings, num_scored=bank.num_scored, generator=generator)
        rows.append({"method": method, "lds": result["mean"], **{key: result.get(key) for key in COLUMNS[2:]}})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def describe_bank(bank: Bank, *, agreement: float, ceiling: float) -> str:
    """Describe a bank in a Markdown table."""
    record, masks, loss = bank.record, bank.masks, bank.loss
    sizes = masks.sum(dim=1).double() / masks.shape[1]
    fractions = sorted({f"{size:.4g}" for size in (sizes.min().item(), sizes.max().item())})
    lines: dict[str, Any] = {
        "format": f"{record['format']} {record['version']}, from {record.get('source')}",
        "subsets": f"{len(masks)} of {masks.shape[1]} training examples, fraction {' to '.join(fractions)}",
        "queries": f"{loss.shape[2]} ({record['queries']['scored']} scored, {record['queries']['tuning']} for tuning)",
        "queries with equal losses": f"{_count_tied(loss)}, of which {int(constant_queries(loss).sum())} constant",
        "retrains": f"{loss.shape[1]} a subset, each the mean of {record.get('averaged', 1)}",
        "diverged retrains": count_diverged(loss),
        "measure": record.get("measure"),
        "agreement": f"{agreement:.3f}" if agreement == agreement else "— (needs 2 retrains)",
        "ceiling": f"{ceiling:.3f}" if ceiling == ceiling else "—",
        "seed, stream": f"{record.get('seed', '—')}, {record.get('stream', '—')}",
        "commits": ", ".join(map(str, record.get("commits", []))) or "—",
        **{f"hash of {name}": value for name, value in record["hashes"].items() if value},
    }
    table = pd.Series(lines, name="").to_markdown(disable_numparse=True)
    if not record.get("settings"):
        return table
    return f"{table}\n\nsettings: {json.dumps({**record['settings'], 'bank': record.get('bank')})}"


def format_scores(table: pd.DataFrame) -> str:
    """Make the table of ``score_bank`` readable: Markdown, three digits, a dash for what is missing."""
    text = table.astype(object).map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)
    return text.mask(table.isna(), "—").to_markdown(index=False, disable_numparse=True)


def _count_tied(loss: Tensor) -> int:
    """Count the queries for which two subsets have equal mean losses."""
    means = loss.nanmean(dim=1)
    return sum(len(query[query.isfinite()].unique()) < len(query[query.isfinite()]) for query in means.T)


def _check_scores(values: Tensor, bank: Bank, path: Path) -> None:
    expected = (bank.loss.shape[2], bank.masks.shape[1])
    if tuple(values.shape) != expected:
        turned = ": transpose them" if tuple(values.shape) == expected[::-1] else ""
        raise ValueError(
            f"{path} has the shape {tuple(values.shape)}; this bank needs scores (query, train) = {expected}{turned}."
        )
    if not values.isfinite().all():
        query, example = (~values.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"{path} has a score {values[query, example].item()} (query {query}, train {example}, from 0); scores must "
            "be finite."
        )
