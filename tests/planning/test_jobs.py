import dataclasses
import re

import pytest
from made_costs import make_costs, make_experiment

from tdabench.bank.retrain import shard_subsets
from tdabench.experiment.derived import settle_bank
from tdabench.experiment.sections import RemovalSettings
from tdabench.planning.costs import COSTS_FILE, Costs
from tdabench.planning.jobs import cost_of, count_others, list_jobs, num_queries, num_shards, size_of
from tdabench.storage.records import save_json


@pytest.mark.parametrize("model_seconds", [0.01, 0.5, 1.3, 7.0, 29.0, 55.0, 250.0, 1500.0])
def test_no_shard_takes_under_a_minute_or_over_an_hour(tmp_path, model_seconds):
    experiment = make_experiment(tmp_path, **{"subsets: 50": "subsets: 500"})

    shards = num_shards(experiment, make_costs(model_seconds), 250)

    bank = dataclasses.replace(experiment.bank, shards=shards)
    seconds = [len(shard_subsets(bank, shard)) * bank.retrains * model_seconds for shard in range(shards)]
    assert max(seconds) <= 3600
    assert min(seconds) >= 60 or shards == 1


def test_a_subset_is_never_divided(tmp_path):
    experiment = make_experiment(tmp_path)

    assert num_shards(experiment, make_costs(5000.0), 250) == experiment.bank.subsets


def test_a_number_of_shards_needs_no_measurement(tmp_path):
    assert num_shards(make_experiment(tmp_path, **{"seed: 0": "seed: 1"}), make_costs(1.0), 250) == 1
    fixed = make_experiment(tmp_path, **{"retrains: 2, shards: auto": "retrains: 2, shards: 7"})
    assert num_shards(fixed, None, 250) == 7


def test_auto_without_a_measurement_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match=re.escape("`snakemake results/made/measure/costs.json` does")):
        num_shards(make_experiment(tmp_path), None, 250)


def test_a_bank_is_settled_by_the_costs_in_the_folder_of_results(tmp_path):
    save_json(tmp_path / COSTS_FILE, dataclasses.asdict(make_costs(60.0)), {})

    settled = settle_bank(make_experiment(tmp_path), tmp_path, 250)

    assert settled.shards == 10  # five subsets of two models each take ten minutes
    assert settled.subsets == 50


def test_a_job_takes_its_start_too_and_one_that_was_not_measured_is_unknown(tmp_path):
    jobs = {(job.rule, job.what): job for job in list_jobs(make_experiment(tmp_path), make_costs(60.0, evaluate=2.0))}

    assert jobs["train", "250"].seconds == 63.0
    assert jobs["judge", "250"].seconds == 3.0 + 9 * 2.0  # of nine methods
    assert jobs["attribute", "ekfac, 500"].seconds is None


def test_the_plan_has_every_job_of_the_experiment(tmp_path):
    experiment = make_experiment(tmp_path)
    shards = {size: num_shards(experiment, make_costs(60.0), size) for size in (250, 500)}

    jobs = list(list_jobs(experiment, make_costs(60.0)))

    counts = {rule: sum(job.count for job in jobs if job.rule == rule) for rule in {job.rule for job in jobs}}
    # 3 repeats, 2 sizes, 9 methods, of which one has 4 chains, and 3 checkpoints.
    assert counts == {"train": 18, "retrain": 3 * sum(shards.values()), "sample": 24, "attribute": 54, "judge": 6}
    assert count_others(experiment) == {"dataset": 1, "split": 3, "properties": 9, "report": 1}
    without = dataclasses.replace(experiment, bank=None, removal=RemovalSettings(counts=(1,), queries=2, retrains=1))
    assert count_others(without)["judge"] == 6


@pytest.mark.parametrize("quantity", ["host_bytes", "device_bytes"])
def test_the_memory_of_training_is_that_of_a_batch_however_much_is_trained_on(tmp_path, quantity):
    experiment = make_experiment(tmp_path)  # batches of 64; costs are measured over two epochs, of one batch each
    coefficients = make_costs(1.0).coefficients
    coefficients["train"][quantity] = {"one": 1e9, "train": 1e6}
    costs = _costs(coefficients, batches={"train": {"train": 2 * 64}})

    found = [cost_of(rule, experiment, costs, size)[quantity] for rule in ("train", "retrain") for size in (250, 500)]

    assert found == [1e9 + 2 * 64 * 1e6] * 4


def test_examples_that_are_trained_on_and_queries_lie_in_memory_too(tmp_path):
    experiment, coefficients = make_experiment(tmp_path), make_costs(1.0).coefficients
    coefficients["train"]["device_bytes"] = {"one": 0.0}  # no device was used
    costs = _costs(coefficients, example_bytes=1000)

    train, retrain = (cost_of(rule, experiment, costs, 500) for rule in ("train", "retrain"))

    assert (train["host_bytes"], train["device_bytes"]) == (1e9 + 500 * 1000, 0)
    assert retrain["host_bytes"] == 1e9 + (250 + num_queries(experiment)) * 1000


@pytest.mark.parametrize("limit", [None, 0.0001])
def test_a_method_that_tells_its_batches_still_holds_examples_losses_and_scores(tmp_path, limit):
    settings = {"draws: 100": f"draws: 100\n    memory_gib: {limit}"} if limit else {}
    experiment = make_experiment(tmp_path, **settings)
    bif, queries = experiment.methods["bif"].settings, num_queries(experiment)
    kinds = ("sample:bif", "attribute:bif")
    costs = _costs(make_costs(1.0, **dict.fromkeys(kinds, 1.0)).coefficients, {kind: {} for kind in kinds}, 1000)

    sample, attribute = (cost_of(rule, experiment, costs, 500, "bif")["host_bytes"] for rule in ("sample", "attribute"))

    losses = 24 * bif["draws"] * (500 + queries)
    scores = 12 * 500 * queries
    assert sample == 1e9 + 1000 * (500 + queries + size_of(experiment, "bif", 500).reference) + losses
    assert attribute - sample == (bif["chains"] - 1) * losses + (int(0.0001 * 2**30) if limit else scores)


def _costs(coefficients: dict, batches: dict | None = None, example_bytes: int = 0) -> Costs:
    return Costs(3.0, "cpu", coefficients, batches=batches or {}, example_bytes=example_bytes)
