"""The stages that look at the draws that a method kept. Most keep none: that is told without importing torch."""

import argparse
from pathlib import Path
from typing import Any

from tdabench.storage.records import load_record, load_tensors, make_record, save_json, save_tensors


def diagnose(arguments: argparse.Namespace) -> None:
    """Diagnose the chains of a method from the traces that it kept; say so if it kept none. Nothing is run again.

    Beside the JSON file comes one of tensors: what single examples' losses say, and the loss along each chain.
    """
    method, status = arguments.scores.stem, load_record(arguments.scores)["status"]
    traces = arguments.scores.parent.parent / "workspace" / method / "traces.safetensors"
    beside = arguments.output.with_suffix(".safetensors")
    if traces.is_file():
        from tdabench.stages.diagnosis import diagnose_traces_of

        tensors, content, details = diagnose_traces_of(arguments.scores, traces)
        record = make_record(details, inputs=[arguments.scores, traces], status=status)
    else:
        tensors, content = {}, {}
        record = make_record({}, inputs=[arguments.scores], status=f"no traces: {method} keeps none")
    save_tensors(beside, tensors, record)
    save_json(arguments.output, {"method": method, "traces": traces.is_file(), **content}, record)


def grow(arguments: argparse.Namespace) -> None:
    """Measure a method's LDS at growing numbers of draws, from the traces that it kept; say so if there is no growth.

    Nothing is run again.
    """
    from tdabench.experiment.read import load_experiment

    experiment = load_experiment(arguments.experiment)
    method, scores_record = arguments.scores.stem, load_record(arguments.scores)
    path = arguments.scores.parent.parent / "workspace" / method / "traces.safetensors"
    inputs = [arguments.scores, arguments.split, *arguments.bank]
    reason, content = scores_record["status"], {}
    if not reason.startswith("unsupported"):
        reason = f"no growth: {method} keeps no traces"
        if path.is_file():
            reason, content = _grow_traces(arguments, experiment, path, scores_record)
            inputs.append(path)
    details = {"evaluation": experiment.evaluation, "method": scores_record.get("attributor")}
    record = make_record(details, inputs=inputs, seed=experiment.seed, status=reason)
    save_json(
        arguments.output, {"method": method, "traces": path in inputs, "growth": bool(content), **content}, record
    )


def _grow_traces(
    arguments: argparse.Namespace, experiment: Any, path: Path, record: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    import torch

    from tdabench.evaluation.lds import average_retrains
    from tdabench.questions.lds.grow import grow_from
    from tdabench.stages.diagnosis import load_traces

    torch.set_num_threads(1)
    shards = [load_tensors(bank) for bank in arguments.bank]
    truth = average_retrains(*(torch.cat([shard[name] for shard in shards]) for name in ("masks", "loss")))
    return grow_from(
        load_traces(path, arguments.scores),
        record,
        truth,
        experiment.evaluation,
        num_scored=len(load_tensors(arguments.split)["query"]),
        markov=load_record(path).get("markov", True),
        seed=experiment.seed,
        place=(arguments.repeat, arguments.train_size),
    )
