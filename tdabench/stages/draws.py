"""The stages that look at the draws that a method kept. Most keep none: that is told without importing torch."""

import argparse

from tdabench.storage.records import load_record, make_record, save_json, save_tensors


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
            from tdabench.questions.lds.growth_stage import grow_from

            reason, content = grow_from(arguments, experiment, path)
            inputs.append(path)
    details = {"evaluation": experiment.evaluation, "method": scores_record.get("attributor")}
    record = make_record(details, inputs=inputs, seed=experiment.seed, status=reason)
    save_json(
        arguments.output, {"method": method, "traces": path in inputs, "growth": bool(content), **content}, record
    )
