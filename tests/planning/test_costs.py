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


def test_what_was_not_varied_is_in_the_constant():
    coefficients = fit_costs(
        [(Size(train=250, query=32), _quantities(3.0)), (Size(train=500, query=32), _quantities(4.0))]
    )

    assert set(coefficients["seconds"]) == {"one", "train", "pair"}


def test_a_kind_that_was_not_measured_has_no_prediction():
    assert Costs(1.0, "cpu", {}).predict("attribute:mine", Size(train=10)) is None


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


def test_a_vector_that_is_held_for_every_draw_counts_also_beside_batches():
    batches = {"train": 100, "query": 10, "reference": 0}
    measured = [(size, {"host_bytes": 1e9 + 8e6 * size.draws}) for size in sizes_to_measure(250, 400)]
    costs = Costs(1.0, "cpu", {"attribute:mine": fit_costs(measured, batches)}, batches={"attribute:mine": batches})

    found = costs.predict("attribute:mine", Size(train=45_000, query=10_000, draws=400))

    assert found["host_bytes"] == pytest.approx(4.2e9, rel=1e-3)


def test_memory_of_a_method_that_tells_no_batches_grows_with_every_example():
    measured = [(size, {"host_bytes": 1e9 + 5e5 * size.train}) for size in sizes_to_measure(250, None)]
    costs = Costs(1.0, "cpu", {"attribute:mine": fit_costs(measured)})

    assert costs.predict("attribute:mine", Size(train=45_000, query=32))["host_bytes"] == pytest.approx(2.35e10)


def test_the_largest_phase_is_the_memory_also_where_it_was_the_smaller_one_when_measured():
    measured = [
        (size, {"host_bytes:fit": 3e9, "host_bytes:score": 1e9 + 8e6 * size.query})
        for size in sizes_to_measure(250, None)
    ]
    costs = Costs(1.0, "cpu", {"attribute:mine": fit_costs(measured)})

    assert costs.predict("attribute:mine", Size(train=250, query=32))["host_bytes"] == pytest.approx(3e9)
    assert costs.predict("attribute:mine", Size(train=250, query=1000))["host_bytes"] == pytest.approx(9e9)


def test_a_phase_that_some_sizes_lack_is_fitted_where_it_was():
    measured = [
        (size, {"host_bytes:score": 1e9, **({"host_bytes:fit": 4e9} if size.train > 250 else {})})
        for size in sizes_to_measure(250, None)
    ]
    costs = Costs(1.0, "cpu", {"train": fit_costs(measured)})

    assert costs.predict("train", Size(train=500, query=32, reference=250))["host_bytes"] == pytest.approx(4e9)


def test_costs_survive_the_file(tmp_path):
    coefficients = {"train": fit_costs([(Size(train=10), _quantities(1.0))])}
    costs = Costs(1.5, "cpu", coefficients, {"mine": "it failed"}, {"train": {"train": 64}}, 3072)

    save_json(tmp_path / "costs.json", dataclasses.asdict(costs), {})

    assert load_costs(tmp_path / "costs.json") == costs


def test_no_file_of_costs_is_none(tmp_path):
    assert load_costs(tmp_path / "costs.json") is None


def _seconds(size: Size) -> float:
    return 0.5 + 2e-3 * size.train + 1e-6 * size.train * size.query + 1e-5 * size.draws * (size.train + size.query)


def _quantities(seconds: float) -> dict[str, float]:
    return {**dict.fromkeys(QUANTITIES, 0.0), "seconds": seconds}
