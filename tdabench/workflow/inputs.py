"""What the rules ask for: the files of a pattern, and the settings that a job is planned with. Imports no torch."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.io import ancient, expand

from tdabench.experiment.read import Experiment, load_experiment
from tdabench.planning.jobs import num_shards
from tdabench.planning.needs import measured_costs
from tdabench.planning.settings import hash_settings
from tdabench.stages import STAGES
from tdabench.storage.files import hash_named_files
from tdabench.storage.records import load_record

logger = logging.getLogger(__name__)
Paths = Callable[[Any], list[str]]
Choice = Callable[[Experiment], Any]


@functools.cache  # every job of the plan asks for it
def experiment_of(name: str) -> Experiment:
    """Load an experiment by its name."""
    return load_experiment(f"experiments/{name}.yaml")


def experiment_names() -> list[str]:
    """Return the names of all experiments, each a target; told of are those named as a stage, and those with a .yml."""
    files = sorted(path for path in Path("experiments").glob("*.*") if path.suffix.lower() in (".yaml", ".yml"))
    names = [path.stem for path in files if path.suffix == ".yaml"]
    for path in files:
        if path.suffix != ".yaml" and path.stem not in names:
            logger.warning("%s has no target: rename it to %s.yaml.", path, path.stem)
    for name in names:
        if name in STAGES:
            logger.warning("experiments/%s.yaml has no target: a stage has its name. Rename the file.", name)
    return [name for name in names if name not in STAGES]


def settings_of(stage: str, measure: Any = None) -> Callable[[Any], str]:
    """Make a params function: the settings that a job depends on. A change reruns it, and a job refuses others.

    Args:
        measure: The checkpoint that says how many shards there are, for a job of one of them.
    """

    def settings(wildcards: Any) -> str:
        _wait_for(measure, experiment_of(wildcards.experiment))
        names = ("method", "point", "size", "train_size")
        return _hash(stage, wildcards.experiment, *(wildcards.get(name) for name in names))

    return settings


@functools.cache  # a plug-in's file is hashed once a plan, not once a job
def _hash(
    stage: str, name: str, method: str | None, point: str | None, size: str | None, train_size: str | None
) -> str:
    train = None if train_size is None else int(train_size)
    return hash_settings(experiment_of(name), stage, method=method, point=point, size=size, train_size=train)


def named_files(wildcards: Any) -> dict[str, str]:
    """Return the hashes of the files that the data's settings name: an edited text is tokenised anew.

    A file that is not there is no change: its hash is the one that the dataset was made from.
    """
    source = experiment_of(wildcards.experiment).data.component
    known = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # not made yet, or damaged: its readers say so
        known = load_record(Path("results", wildcards.experiment, "dataset.safetensors")).get("files", {})
    return hash_named_files(source.settings, Path(os.environ.get("TDABENCH_DATA", "data")).expanduser(), known)


def every(pattern: str, *, when: Choice = lambda _: True, **values: Choice) -> Paths:
    """Make an input function: all paths of a pattern, over what the job's wildcards leave open.

    Args:
        when: Whether an experiment has any such files.
        values: What a wildcard ranges over, where that is not all that the experiment has.
    """

    def paths(wildcards: Any) -> list[str]:
        experiment = experiment_of(wildcards.experiment)
        if not when(experiment):
            return []
        ranges = {
            "repeat": range(experiment.repeats),
            "train_size": experiment.data.train_sizes,
            "checkpoint": range(experiment.checkpoints),
            "method": list(experiment.methods),
            "point": list(experiment.sweep.points) if experiment.sweep else [],
            "size": experiment.scaling.names if experiment.scaling else [],
            **{name: list(give(experiment)) for name, give in values.items()},
        }
        return expand(pattern, **ranges | {key: [value] for key, value in wildcards.items()})

    return paths


def bank_of(measure: Any) -> Paths:
    """Make an input function: all files of a bank, or of all banks where the job is about all of them.

    Args:
        measure: The checkpoint that says how many shards there are, where that is left to what is measured.
    """

    def paths(wildcards: Any) -> list[str]:
        experiment = experiment_of(wildcards.experiment)
        if experiment.bank is None:
            return []
        _wait_for(measure, experiment)
        costs = measured_costs(experiment.name)
        repeats, sizes = (wildcards.get(name) for name in ("repeat", "train_size"))
        return [
            f"results/{experiment.name}/{repeat}/{train_size}/bank/{shard}.safetensors"
            for repeat in ([repeats] if repeats else range(experiment.repeats))
            for train_size in ([sizes] if sizes else experiment.data.train_sizes)
            for shard in range(num_shards(experiment, costs, int(train_size)))
        ]

    return paths


def costs_of(wildcards: Any) -> Any:
    """Return the file of measured costs where jobs are cut by it: they wait for it, and ask for what it says."""
    experiment = experiment_of(wildcards.experiment)
    if not _is_cut_by_costs(experiment):
        return []
    return ancient(f"results/{experiment.name}/measure/costs.json")


def _is_cut_by_costs(experiment: Experiment) -> bool:
    return experiment.bank is not None and experiment.bank.shards == "auto"


def _wait_for(measure: Any, experiment: Experiment) -> None:
    """Let Snakemake ask again once it is measured how many shards there are, where that is left to it."""
    if measure is not None and _is_cut_by_costs(experiment):
        measure.get(experiment=experiment.name)


def chains_of(wildcards: Any) -> list[str]:
    """Return the files of the chains that are jobs of their own."""
    count = experiment_of(wildcards.experiment).num_chains(wildcards.method)
    pattern = "results/{experiment}/{repeat}/{train_size}/chains/{method}-{chain}.safetensors"
    return expand(pattern, **wildcards, chain=range(count))


def calibration_of(wildcards: Any) -> list[str]:
    """Return the file with what a method's settings that say auto are."""
    if not experiment_of(wildcards.experiment).has_calibration(wildcards.method):
        return []
    return expand("results/{experiment}/{repeat}/{train_size}/calibrate/{method}.json", **wildcards)


def pretrained_of(wildcards: Any) -> list[str]:
    """Return the file of the weights that training starts from, if there is pretraining."""
    has_it = experiment_of(wildcards.experiment).pretraining is not None
    return [f"results/{wildcards.experiment}/pretrained.safetensors"] if has_it else []


def targets_of(name: str) -> Paths:
    """Make an input function: the page, every score behind it, and the pages of tokens.

    Tables and the page may come with a clone, from git; scores never do: without them the experiment is run.
    """

    def targets(wildcards: Any) -> list[str]:
        experiment = experiment_of(name)
        cells = {"name": name, "repeat": range(experiment.repeats), "train_size": experiment.data.train_sizes}
        methods = list(experiment.methods) if experiment.is_scored else []
        scores = "results/{name}/{repeat}/{train_size}/scores/{method}.safetensors"
        pages = expand("results/{name}/tokens/{repeat}-{train_size}", **cells) if experiment.token_methods else []
        return [f"results/{name}/report.html", *expand(scores, **cells, method=methods), *pages]

    return targets


def answers_of(wildcards: Any) -> list[str]:
    """Return the tables of the questions that an experiment asks beside the LDS."""
    experiment = experiment_of(wildcards.experiment)
    asked = {
        "removal": experiment.removal,
        "detection": experiment.data.mislabelled,
        "sweep": experiment.sweep,
        "scaling": experiment.scaling,
    }
    return [f"results/{experiment.name}/tables/{table}.csv" for table, section in asked.items() if section]


# The files of every stage with a model.
BENCH = {
    "experiment": ancient("experiments/{experiment}.yaml"),
    "dataset": "results/{experiment}/dataset.safetensors",
    "pretrained": pretrained_of,
    "split": "results/{experiment}/{repeat}/split.safetensors",
    "costs": costs_of,
}
CHECKPOINTS = every("results/{experiment}/{repeat}/{train_size}/checkpoints/{checkpoint}.safetensors")
SCORES = every("results/{experiment}/{repeat}/{train_size}/scores/{method}.safetensors")
