"""Components that follow from an experiment: the model at each size, the swept method at each point."""

import dataclasses
import importlib
from pathlib import Path

from tdabench.experiment.components import Component, MethodComponent
from tdabench.experiment.read import Experiment
from tdabench.experiment.sections import BankSettings


def model_at(experiment: Experiment, size: str) -> Component:
    """Return the model at a size, whether it is run or predicted.

    Raises:
        ValueError: If the experiment has no such size.
    """
    scaling = experiment.scaling
    sizes = {str(one): one for one in (*scaling.sizes, *scaling.predict)} if scaling else {}
    if size not in sizes:
        raise ValueError(f"{experiment.name} has no size {size!r}; there are {', '.join(sizes) or 'none'}.")
    settings = {**experiment.model.settings, scaling.setting: sizes[size]}
    return Component(path=experiment.model.path, settings=settings)


def models_of(experiment: Experiment) -> dict[str, Component]:
    """Return every model of an experiment, by its place in the file."""
    if experiment.scaling is None:
        return {"model": experiment.model}
    names = (*experiment.scaling.names, *map(str, experiment.scaling.predict))
    own = {"model": experiment.model} if experiment.is_scored else {}
    return {**own, **{f"model at the size {name}": model_at(experiment, name) for name in names}}


def component_at(experiment: Experiment, point: str) -> MethodComponent:
    """Return the swept method with the settings of a point.

    Raises:
        ValueError: If the experiment has no sweep, or no such point.
    """
    if experiment.sweep is None:
        raise ValueError(f"{experiment.name} sweeps no settings: give it the key sweep.")
    points = experiment.sweep.points
    if point not in points:
        raise ValueError(f"The sweep of {experiment.name} has no point {point!r}; the first is {next(iter(points))!r}.")
    method = experiment.methods[experiment.sweep.method]
    return dataclasses.replace(method, settings={**method.settings, **points[point]})


def settle_bank(experiment: Experiment, folder: Path, train_size: int) -> BankSettings:
    """Return the bank's settings with a number of shards, where they say auto.

    Args:
        folder: The experiment's folder of results.

    Raises:
        ValueError: If it says auto and training was not measured.
    """
    if experiment.bank.shards != "auto":
        return experiment.bank
    # By name: only this asks for what was measured.
    costs, jobs = (importlib.import_module(f"tdabench.planning.{name}") for name in ("costs", "jobs"))
    measured = costs.load_costs(folder / costs.COSTS_FILE)
    return dataclasses.replace(experiment.bank, shards=jobs.num_shards(experiment, measured, train_size))
