"""The stage that compares scores with the bank."""

import argparse
import logging

import torch

from tdabench.experiment.read import load_experiment
from tdabench.seeds import make_generator
from tdabench.storage.records import load_record, load_tensors, make_record, open_matrices, save_json

logger = logging.getLogger(__name__)


def evaluate(arguments: argparse.Namespace) -> None:
    """Compute a method's LDS against the bank."""
    from tdabench.evaluation.evaluate import evaluate_scores

    torch.set_num_threads(1)
    experiment = load_experiment(arguments.experiment)
    scores_record = load_record(arguments.scores)
    record = make_record(
        {"evaluation": experiment.evaluation},
        inputs=[arguments.scores, arguments.split, *arguments.bank],
        seed=experiment.seed,
        status=scores_record["status"],
    )
    if scores_record["status"].startswith("unsupported"):
        save_json(arguments.output, {"mean": None}, record)
        return
    shards = [load_tensors(path) for path in arguments.bank]
    result = evaluate_scores(
        open_matrices(arguments.scores)["scores"],
        torch.cat([shard["masks"] for shard in shards]),
        torch.cat([shard["loss"] for shard in shards]),
        experiment.evaluation,
        num_scored=len(load_tensors(arguments.split)["query"]),
        generator=make_generator(experiment.seed, "bootstrap", arguments.repeat, arguments.train_size),
    )
    save_json(arguments.output, result, record)
