"""The stage that says how well a method drew."""

import argparse
from pathlib import Path
from typing import Any

import torch

from tdabench.records import load_record, load_tensors, make_record, save_json


def diagnose(arguments: argparse.Namespace) -> None:
    """Diagnose the chains of a method from the traces that it kept; say so if it kept none. Nothing is run again."""
    from tdabench.evaluation.diagnostics import diagnose_traces

    torch.set_num_threads(1)
    scores_record = load_record(arguments.scores)
    method = arguments.scores.stem
    traces = arguments.scores.parent.parent / "workspace" / method / "traces.safetensors"
    if not traces.is_file():
        record = make_record({}, inputs=[arguments.scores], status=f"no traces: {method} keeps none")
        save_json(arguments.output, {"method": method, "traces": False}, record)
        return
    losses = load_traces(traces, arguments.scores)
    train, query = losses["train"], losses["query"]
    markov = load_record(traces).get("markov", True)
    result = diagnose_traces(train, query, markov=markov, inverse_temperature=_inverse_temperature(scores_record))
    record = make_record(
        {"method": scores_record.get("attributor")}, inputs=[arguments.scores, traces], status=scores_record["status"]
    )
    save_json(arguments.output, {"method": method, "traces": True, **result}, record)


def load_traces(path: Path, scores: Path) -> dict[str, Any]:
    """Read the traces, and check them against the scores.

    Raises:
        ValueError: If they are no traces, or of another run than the scores.
    """
    traces = load_tensors(path)
    shapes = {name: tuple(traces[name].shape) for name in ("train", "query") if name in traces}
    fits = len(shapes) == 2 and all(len(shape) == 3 and min(shape) > 0 for shape in shapes.values())
    if not fits or shapes["train"][:2] != shapes["query"][:2]:
        raise ValueError(
            f"{path} must hold train and query, each (chain, draw, example) with the same chains and draws, got "
            f"{shapes or 'neither'}: a file of another kind needs another name."
        )
    found = load_tensors(scores).get("scores")
    if found is not None and found.shape[1] != shapes["train"][2]:
        raise ValueError(
            f"{path} has {shapes['train'][2]} training examples and {scores} has {found.shape[1]}: they are of "
            "different runs. Delete the scores and run the workflow again."
        )
    return traces


def _inverse_temperature(record: dict[str, Any]) -> float | None:
    """Give the method's setting, with its default; a method without it, or that is no dataclass, has none."""
    settings = record.get("attributor")
    found = settings.get("inverse_temperature") if isinstance(settings, dict) else None
    return float(found) if isinstance(found, int | float) else None
