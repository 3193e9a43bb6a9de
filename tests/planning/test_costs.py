import dataclasses

import numpy as np
import pytest

from tdabench.planning.costs import QUANTITIES, Costs, Size, fit_costs, load_costs, sizes_to_measure
from tdabench.storage.records import save_json


@pytest.mark.parametrize("draws", [None, "auto", 3, 400])
def test_the_sizes_that_are_measured_tell_every_term_from_the_others(draws):
    table = [list(size.features().values()) for size in sizes_to_measure(250, draws)]

    varied = [column for column in zip(*table, strict=True) if len(set(column)) > 1 or column[0] == 1]
    assert np.linalg.matrix_rank(np.array(varied) / np.max(varied, axis=1, keepdims=True), tol=1e-6) == len(varied)


def test_a_cost_that_is_a_sum_of_its_terms_is_found_and_holds_at_a_far_larger_size():
    measured = [(size, _quantities(_seconds(size))) for size in sizes_to_measure(250, 400)]
    costs = Costs(1.0, "cpu", {"attribute:mine": fit_costs(measured)})

    found = costs.predict("attribute:mine", Size(train=45_000, query=10_000, reference=250, draws=400))

    assert found["seconds"] == pytest.approx(_seconds(Size(train=45_000, query=10_000, draws=400)), rel=1e-6)


def test_no_coefficient_is_negative_though_more_examples_seemed_cheaper():
    measured = [(Size(train=250), _quantities(2.0)), (Size(train=500), _quantities(1.8))]

    coefficients = fit_costs(measured)["seconds"]

    assert min(coefficients.values()) >= 0
    assert 1.8 <= coefficients["one"] <= 2.0


def _memory(size: Size) -> float:
    """Grow until batches of 1,000 training examples and 600 queries are full."""
    return 1e9 + 5e5 * min(size.train, 1000) + 8e6 * min(size.query, 600) + 200 * min(size.train, 1000)


@pytest.mark.parametrize("quantity", ["host_bytes", "device_bytes:score"])
def test_memory_ends_to_grow_where_the_batches_are_full(quantity):
    batches = {"train": 1000, "query": 600, "reference": 0}
    measured = [(size, {**_quantities(1.0), quantity: _memory(size)}) for size in sizes_to_measure(250, 400)]
    costs = Costs(1.0, "cpu", {"attribute:mine": fit_costs(measured, batches)}, batches={"attribute:mine": batches})

    found = costs.predict("attribute:mine", Size(train=45_000, query=10_000, reference=45_000, draws=400))

    assert found[quantity.partition(":")[0]] == pytest.approx(_memory(Size(train=1000, query=600)), rel=1e-6)


@pytest.mark.parametrize(
    ("grows", "batches", "draws", "size", "expected"),
    [
        # A vector that is held for every draw counts beside batches; without batches, every example does.
        (lambda size: {"host_bytes": 1e9 + 8e6 * size.draws}, {"train": 100, "query": 10, "reference": 0}, 400,
         Size(train=45_000, query=10_000, draws=400), 4.2e9),
        (lambda size: {"host_bytes": 1e9 + 5e5 * size.train}, None, None, Size(train=45_000, query=32), 2.35e10),
        # The largest phase counts, also where it was the smaller one when measured, or some sizes lack it.
        (lambda size: {"host_bytes:fit": 3e9, "host_bytes:score": 1e9 + 8e6 * size.query}, None, None,
         Size(train=250, query=32), 3e9),
        (lambda size: {"host_bytes:fit": 3e9, "host_bytes:score": 1e9 + 8e6 * size.query}, None, None,
         Size(train=250, query=1000), 9e9),
        (lambda size: {"host_bytes:score": 1e9} | ({"host_bytes:fit": 4e9} if size.train > 250 else {}), None, None,
         Size(train=500, query=32, reference=250), 4e9),
    ],
)  # fmt: skip
def test_memory_grows_with_what_is_held_at_once(grows, batches, draws, size, expected):
    measured = [(one, grows(one)) for one in sizes_to_measure(250, draws)]
    costs = Costs(1.0, "cpu", {"mine": fit_costs(measured, batches)}, batches={"mine": batches} if batches else {})

    assert costs.predict("mine", size)["host_bytes"] == pytest.approx(expected, rel=1e-3)


def test_costs_survive_the_file(tmp_path):
    coefficients = {"train": fit_costs([(Size(train=10), _quantities(1.0))])}
    costs = Costs(1.5, "cpu", coefficients, {"mine": "it failed"}, {"train": {"train": 64}}, 3072)

    save_json(tmp_path / "costs.json", dataclasses.asdict(costs), {})

    assert load_costs(tmp_path / "costs.json") == costs


def _seconds(size: Size) -> float:
    return 0.5 + 2e-3 * size.train + 1e-6 * size.train * size.query + 1e-5 * size.draws * (size.train + size.query)


def _quantities(seconds: float) -> dict[str, float]:
    return {**dict.fromkeys(QUANTITIES, 0.0), "seconds": seconds}
