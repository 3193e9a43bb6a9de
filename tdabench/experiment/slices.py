"""Which settings each stage's result depends on. Imports no torch."""

import dataclasses
import json
from typing import Any

from tdabench.experiment.components import describe
from tdabench.experiment.derived import component_at, model_at
from tdabench.experiment.read import Experiment
from tdabench.experiment.sections import Recipe, VarianceSettings


def stage_settings(
    experiment: Experiment, stage: str, method: str | None = None, point: str | None = None, size: str | None = None
) -> str:
    """Return the settings that a stage's result depends on, as JSON; a change of them reruns that stage.

    Files of plug-ins count too: their hash is included, so that an edited method is run again.

    Raises:
        ValueError: If there is no such stage.
    """
    slices = _slice(experiment, method, point, size)
    if stage not in slices:
        raise ValueError(f"There is no stage {stage!r} (with method {method!r}).")
    return json.dumps(slices[stage], sort_keys=True)


def _slice(experiment: Experiment, method: str | None, point: str | None, size: str | None) -> dict[str, Any]:
    """Return each stage's slice of the settings; with a method, also those of the stages that run one.

    Args:
        point: Of the sweep; without one, the slice of that stage is empty.
        size: Of a scaling experiment; without one, the slice of its stage is empty.
    """
    training = {
        "seed": experiment.seed,
        "model": describe(experiment.model),
        "training": _describe_recipe(experiment.training),
        "reference": experiment.data.reference,
    }
    slices = {
        **_data_slices(experiment),
        "train": training,
        "pretrain": {
            "seed": experiment.seed,
            "model": describe(experiment.model),
            "pretraining": _describe_recipe(experiment.pretraining),
        },
        # Not the methods: a new one must not divide the bank anew.
        "measure": {**training, "source": describe(experiment.data.component)},
        "retrain": {**training, "bank": dataclasses.asdict(experiment.bank) if experiment.bank else None},
        **_removal_slices(experiment, training),
        **_judgement_slices(experiment),
        **_sweep_slices(experiment, point),
        **_scaling_slices(experiment),
    }
    return slices if method is None else {**slices, **_method_slices(experiment, method, size)}


def _describe_recipe(recipe: Recipe | str | None) -> Any:
    if not isinstance(recipe, Recipe):
        return recipe
    described = dataclasses.asdict(recipe)
    described.pop("microbatch")  # how much is in memory at once, not what comes out
    return described


def _data_slices(experiment: Experiment) -> dict[str, Any]:
    data, source = experiment.data, describe(experiment.data.component)
    split = {"source": source, "seed": experiment.seed}
    split |= {key: getattr(data, key) for key in ("queries", "tuning_queries", "warmup")}
    if data.mislabelled:  # absent otherwise: splits made before there was this key stay valid
        split["mislabelled"] = data.mislabelled
    return {"dataset": source, "split": split}


def _removal_slices(experiment: Experiment, training: dict[str, Any]) -> dict[str, Any]:
    removal = dataclasses.asdict(experiment.removal) if experiment.removal else {}
    removal.pop("methods", None)  # another method is another job, not another result
    return {
        "keep": {**training, "removal": {key: removal[key] for key in removal if key != "counts"}},
        "remove": {**training, "removal": removal},
    }


def _judgement_slices(experiment: Experiment) -> dict[str, Any]:
    evaluation = dataclasses.asdict(experiment.evaluation)
    top = evaluation.pop("top")
    evaluation.pop("memory_gib")  # how many queries at once, not what comes out
    judged = {"seed": experiment.seed, "evaluation": evaluation}
    cells = {"sizes": list(experiment.data.train_sizes), "repeats": experiment.repeats}
    methods = list(experiment.methods)
    return {
        "judge": {**judged, "top": top, "methods": methods, "varied": list(experiment.varied_methods)},
        "pages": {},  # they show what is in the files of token scores
        "contrast": {**judged, **cells, "methods": list(experiment.removal_methods)},
        "detect": {**judged, **cells, "methods": methods},
        "report": {**cells, "methods": methods},
    }


def _sweep_slices(experiment: Experiment, point: str | None) -> dict[str, Any]:
    evaluation = {key: getattr(experiment.evaluation, key) for key in ("resamples", "confidence")}
    sweep = experiment.sweep and dataclasses.asdict(experiment.sweep)
    judged = {"seed": experiment.seed, "evaluation": evaluation, "repeats": experiment.repeats, "sweep": sweep}
    slices = {"sweep": {}, "choose": {**judged, "sizes": list(experiment.data.train_sizes)}}
    if point is not None:
        component = component_at(experiment, point)
        method = describe(component) | component.likeness
        slices["sweep"] = {"seed": experiment.seed, "reference": experiment.data.reference, "method": method}
    return slices


def _scaling_slices(experiment: Experiment) -> dict[str, Any]:
    scaling = experiment.scaling and dataclasses.asdict(experiment.scaling)
    confidence = experiment.evaluation.confidence
    project = {"scaling": scaling, "confidence": confidence, "methods": list(experiment.methods)}
    return {"scale": {}, "project": {**project, "queries": experiment.data.queries}}


def _scale_slice(experiment: Experiment, method: dict[str, Any], size: str | None) -> dict[str, Any]:
    """Return what the runs of a method at a size depend on; other sizes are other jobs."""
    if experiment.scaling is None or size is None:
        return {}
    how = {name: getattr(experiment.scaling, name) for name in ("minutes", "memory_gib")}
    how["pretraining"] = "published" if experiment.pretraining == "published" else None  # nothing is trained there
    runs = experiment.scaling.runs_at(size, experiment.data.queries)
    model = describe(model_at(experiment, size))
    data = {"size": experiment.data.train_sizes[0], "reference": experiment.data.reference}
    return {"seed": experiment.seed, "data": data, "model": model, "method": method, "runs": runs, **how}


def _method_slices(experiment: Experiment, method: str, size: str | None) -> dict[str, Any]:
    described = describe(experiment.methods[method])
    likeness = experiment.methods[method].likeness
    attribute = {"seed": experiment.seed, "reference": experiment.data.reference, "method": described}
    scored = {**attribute, "method": described | likeness}
    variance = experiment.variance or VarianceSettings()
    tokens = dataclasses.asdict(experiment.tokens) if experiment.tokens else {}
    tokens.pop("methods", None)  # another method is another job, not another result
    return {
        "attribute": scored,
        # With more chains, those that are there stay.
        "sample": {**attribute, "method": _without(described, "chains")},
        # See tdabench.attributors.base.Calibrated.
        "calibrate": {**attribute, "method": _without(described, "chains", "draws", "estimate")},
        "vary": {**scored, "checkpoints": variance.checkpoints, "runs": variance.runs},
        "tokens": {**attribute, "tokens": tokens},
        "scale": _scale_slice(experiment, described, size),
        "properties": {"seed": experiment.seed, "checkpoints": experiment.checkpoints, "method": described},
    }


def _without(described: dict[str, Any], *names: str) -> dict[str, Any]:
    settings = {key: value for key, value in described["settings"].items() if key not in names}
    return {**described, "settings": settings}
