"""How well a method drew, from the traces that it kept: told where the draws are made."""

from pathlib import Path
from typing import Any

from tdabench.questions.diagnostics.coefficients import learning_coefficients, singular_fluctuations
from tdabench.questions.diagnostics.diagnose import diagnose_traces, find_converged
from tdabench.storage.cell import Cell
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, load_tensors, make_record, open_matrices, save_json, save_tensors


def save_diagnosis(cell: Cell, method: str) -> None:
    """Diagnose the chains of a method from the traces that it kept; say so if it kept none. Nothing is run again.

    Beside the JSON file comes one of tensors: what single examples' losses say, and the loss along each chain.
    """
    scores, path = cell.scores(method), cell.traces(method)
    record, tensors, content, inputs = load_record(scores), {}, {}, [scores]
    status = f"no traces: {method} keeps none"
    if Outcome.of(record).is_ok and path.is_file():
        traces, inputs, status = load_traces(path, scores), [scores, path], record["status"]
        inverse_temperature = _inverse_temperature(record)
        content = diagnose_traces(
            traces["train"],
            traces["query"],
            markov=load_record(path).get("markov", True),
            inverse_temperature=inverse_temperature,
            **{name: traces.get(name) for name in ("train_checkpoint", "distance", "draw_step")},
        )
        tensors = {**_series(traces), **_coefficients(traces, inverse_temperature)}
    made = make_record({"method": record.get("attributor")}, inputs=inputs, status=status)
    save_tensors(cell.diagnosis(method).with_suffix(".safetensors"), tensors, made)
    save_json(cell.diagnosis(method), {"method": method, "traces": bool(content), **content}, made)


def _series(traces: dict[str, Any]) -> dict[str, Any]:
    """Return what is drawn of each chain: its mean training loss by draw, and its minibatches' loss by step."""
    kept = {name: traces[name] for name in ("draw_step", "step_loss", "distance") if name in traces}
    if "train_checkpoint" in traces:
        kept["checkpoint_loss"] = traces["train_checkpoint"].mean()
    return {"mean_loss": traces["train"].mean(dim=2), **kept}


def _coefficients(traces: dict[str, Any], inverse_temperature: float | None) -> dict[str, Any]:
    """Return every example's learning coefficient and singular fluctuation, if the traces can tell them."""
    converged, found = find_converged(traces["train"], traces["query"]), {}
    if inverse_temperature is None or not converged.any() or traces["train"].shape[1] < 2:
        return found
    for role in ("train", "query"):
        losses = traces[role][converged]
        found[f"{role}_singular_fluctuation"] = singular_fluctuations(losses, inverse_temperature)
        if f"{role}_checkpoint" in traces:
            checkpoint = traces[f"{role}_checkpoint"]
            found[f"{role}_learning_coefficient"] = learning_coefficients(losses, checkpoint, inverse_temperature)
    return found


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
    found = open_matrices(scores).get("scores")
    if found is not None and found.shape[1] != shapes["train"][2]:
        raise ValueError(
            f"{path} has {shapes['train'][2]} training examples and {scores} has {found.shape[1]}: they are of "
            "different runs. Delete the scores and run the workflow again."
        )
    return traces


def _inverse_temperature(record: dict[str, Any]) -> float | None:
    """Return the method's setting, with its default; a method without it, or that is no dataclass, has none."""
    settings = record.get("attributor")
    found = settings.get("inverse_temperature") if isinstance(settings, dict) else None
    return float(found) if isinstance(found, int | float) else None
