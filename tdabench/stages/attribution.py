"""The stages that run a method: sample a chain of it, score with it."""

import importlib
import itertools
import logging

from tdabench.attributors.base import ChainAttributor
from tdabench.attributors.running.run import run_chain
from tdabench.experiment.read import Experiment
from tdabench.runtime.machine import Machine
from tdabench.runtime.progress import progress
from tdabench.stages.scoring import WHOLE, score
from tdabench.stages.trial import Trial, outcome_of, query_of
from tdabench.storage.cell import Cell
from tdabench.storage.outcome import Outcome
from tdabench.storage.records import load_record, save_tensors

logger = logging.getLogger(__name__)


def attribute(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Score every training example for every query with one method; where labels are planted, also for itself.

    Beside the scores it says how well the method drew, if it keeps traces.

    Args:
        method: its key in the experiment file.
    """
    trial = Trial(experiment, cell, method, machine)
    chains, attributor, scored = cell.chains(method, experiment.num_chains(method)), trial.own, None
    query = query_of(trial.bench)
    try:
        attributor = trial.settled()
        scored = score(trial, attributor, query, folder=method, stream=trial.stream, chains=chains)
    except Exception as error:
        outcome = outcome_of(error, attributor)
        logger.warning("%s: %s", method, outcome)
    else:
        outcome = Outcome.ok(scored.warnings)
        for path in trial.calibration:
            scored.cost.add_recorded(load_record(path).get("cost", {}))
    tensors, cost = ({}, None) if scored is None else (scored.tensors, scored.cost)
    save_tensors(cell.scores(method), tensors, trial.record(cost, outcome, *chains, attributor=attributor))
    # By name: of the draws another question is asked.
    importlib.import_module("tdabench.questions.diagnostics.stage").save_diagnosis(cell, method)


def sample(experiment: Experiment, cell: Cell, method: str, chain: int, machine: Machine) -> None:
    """Sample one chain of a method; the file is empty, and says why, if the method does not sample chains apart.

    Args:
        method: its key in the experiment file.
        chain: which one, from 0.
    """
    trial = Trial(experiment, cell, method, machine)
    tensors, cost, outcome, attributor = {}, None, Outcome(WHOLE), trial.own
    if isinstance(attributor, ChainAttributor):
        folder = f"{method}-{chain}"  # its own, since other chains may run at the same time
        try:
            attributor = trial.settled()
            with trial.lent_problem(query_of(trial.bench), folder=folder) as problem:
                tensors, cost = run_chain(attributor, problem, chain, generator=trial.generator())
            outcome = Outcome()
        except Exception as error:
            outcome = outcome_of(error, attributor)
    path = cell.chains(method, chain + 1)[chain]
    save_tensors(path, tensors, trial.record(cost, outcome, chain=chain))


def vary(experiment: Experiment, cell: Cell, method: str, machine: Machine) -> None:
    """Score once more with one method, for other checkpoints and with other random numbers.

    The file has ``scores-C-R`` for checkpoint C and run R; those of checkpoint 0 and run 0 are ``attribute``'s.

    Args:
        method: its key in the experiment file.
    """
    if method in experiment.methods and method not in experiment.varied_methods:
        raise ValueError(
            f"{experiment.name} does not vary {method}: it has no section variance, or the section's methods leave it "
            "out."
        )
    trial = Trial(experiment, cell, method, machine)
    variance, base = experiment.variance, ("vary", cell.repeat, cell.train_size, method)
    folder = f"vary-{method}"  # its own, since `attribute` may run at the same time
    scores, costs, outcome, attributor = {}, {}, Outcome(), trial.own
    grid = itertools.product(range(variance.checkpoints), range(variance.runs))
    for first, run in progress(list(grid)[1:], "vary"):
        try:
            attributor, stream = trial.settled(), (*base, first, run)
            scored = score(trial, attributor, trial.bench.query, folder=folder, stream=stream, first=first)
        except Exception as error:
            outcome = outcome_of(error, trial.own)
            break
        scores[f"scores-{first}-{run}"] = scored.tensors["scores"]
        costs[f"{first}-{run}"] = scored.cost.phases
    record = trial.record(None, outcome, stream=base, variance=variance, costs=costs)
    save_tensors(cell.variations(method), scores, record)
