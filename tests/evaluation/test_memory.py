"""The evaluation in blocks of queries gives what it gives of all queries at once."""

import dataclasses
import math
import re

import pytest
import torch
from torch import Tensor

from tdabench.evaluation.evaluate import evaluate_scores
from tdabench.evaluation.lds import QUERIES_AT_ONCE, predicted_and_measured, rank_correlation
from tdabench.evaluation.memory import GIB, PROCESS_BYTES, SUMMED_BYTES, bank_bytes, queries_at_once
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.agreement.compare import RANKED_BYTES, agree_by_query, compare_methods
from tdabench.questions.lds.judge import COMPARED_BYTES, judge_cell
from tdabench.seeds import make_generator
from tdabench.storage.matrix import Rows
from tdabench.storage.records import open_matrices, save_tensors

SUBSETS, QUERIES, SCORED, TRAIN = 12, 300, 290, 40
SETTINGS = EvaluationSettings(resamples=100, top=5)


@pytest.fixture
def bank() -> tuple[Tensor, Tensor]:
    """Return masks and losses; a query's losses are all equal, another's have ties, a model diverged."""
    generator = make_generator(0, "bank")
    masks = torch.rand(SUBSETS, TRAIN, generator=generator).argsort(dim=1) < TRAIN // 2
    losses = torch.randn(SUBSETS, 2, QUERIES, generator=generator)
    losses[..., 3], losses[..., 4] = 1.0, losses[..., 4].round()
    losses[5, 1] = math.nan
    return masks, losses


@pytest.fixture
def scores() -> dict[str, Tensor]:
    """Return scores of three methods: with a query of constant scores, with sums that tie, and in float64."""
    generator = make_generator(0, "scores")
    one, other, last = torch.randn(3, QUERIES, TRAIN, generator=generator)
    one[7] = 0.5
    return {"constant": one, "tied": (2 * other).round(), "wide": last.double()}


@pytest.mark.parametrize("at_once", [1, 2, 7, 64, 299, 1000])
def test_sums_of_any_number_of_queries_at_once_are_the_same(bank, scores, at_once):
    masks, losses = bank[0], bank[1][:, 0]
    for name, values in scores.items():
        expected = predicted_and_measured(values, masks, losses, at_once=QUERIES)

        found = predicted_and_measured(values, masks, losses, at_once=at_once)

        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0 if name == "tied" else 1e-12)
        assert torch.equal(found[1], expected[1])
        lds, expected_lds = rank_correlation(*found), rank_correlation(*expected)
        assert torch.equal(lds.isnan(), expected_lds.isnan())
        torch.testing.assert_close(lds, expected_lds, rtol=0, atol=1e-12, equal_nan=True)
        assert lds.isnan().sum() == (2 if name == "constant" else 1)


@pytest.mark.parametrize("queries", [1, 7, 100])
def test_a_method_evaluated_from_disk_within_a_limit_has_the_numbers_it_has_without(tmp_path, bank, scores, queries):
    limit = _limit(queries, _beside(bank, methods=1), SUMMED_BYTES * TRAIN)
    for name, values in scores.items():
        stored, read = _store(tmp_path, name, values)

        found = _evaluate(stored, bank, memory_gib=limit)

        _assert_same(found, _evaluate(values, bank))
        assert max(read) == queries
        assert sum(read) == QUERIES


@pytest.mark.parametrize("queries", [1, 7, 100])
def test_methods_judged_from_disk_within_a_limit_have_the_numbers_they_have_without(tmp_path, bank, scores, queries):
    stored = {name: _store(tmp_path, name, values) for name, values in scores.items()}
    beside = _beside(bank, methods=3) + COMPARED_BYTES * 4 * SUBSETS * QUERIES
    limit = _limit(queries, beside, SUMMED_BYTES * TRAIN)

    found = _judge({name: rows for name, (rows, _) in stored.items()}, bank, memory_gib=limit)

    _assert_same(found, _judge(scores, bank))
    # Once for the sums, and once for the agreement, in blocks of its own.
    assert all(read[0] == queries and sum(read) == QUERIES + SCORED for _, read in stored.values())


@pytest.mark.parametrize("queries", [1, 7, 100])
def test_methods_agree_within_a_limit_as_they_do_without(tmp_path, scores, queries):
    stored = {name: _store(tmp_path, name, values) for name, values in scores.items()}
    limit = _limit(queries, 24 * SETTINGS.resamples * SCORED, RANKED_BYTES * TRAIN * len(scores))

    found = _agree({name: rows for name, (rows, _) in stored.items()}, memory_gib=limit)

    _assert_same({"pairs": found}, {"pairs": _agree(scores)})
    assert [row["nan_queries"] for row in found] == [1, 1, 0]
    assert all(max(read) == queries and sum(read) == SCORED for _, read in stored.values())


def test_scores_that_are_not_finite_are_named_in_whatever_block_they_are(scores):
    scores["wide"][250, 0] = math.nan
    limit = _limit(10, 0, RANKED_BYTES * TRAIN * 3)

    with pytest.raises(ValueError, match="needs finite scores; not so: wide"):
        agree_by_query(scores, top=5, memory_gib=limit)


def test_a_limit_that_holds_not_one_query_says_what_is_needed(bank, scores):
    limit = (PROCESS_BYTES + _beside(bank, methods=1)) / GIB

    with pytest.raises(ValueError, match=re.escape(f"memory_gib of {limit} is too little") + ".* need 0.59. Raise it"):
        _evaluate(scores["wide"], bank, memory_gib=limit)
    assert queries_at_once(4.0, beside=0, per_query=16 * 50_000) == QUERIES_AT_ONCE


def _limit(queries: int, beside: int, per_query: int) -> float:
    """Return the limit in GiB within which so many queries fit, and no more."""
    return (PROCESS_BYTES + beside + (queries + 0.5) * per_query) / GIB


def _beside(bank: tuple[Tensor, Tensor], *, methods: int) -> int:
    return bank_bytes(*bank, methods=methods, resamples=SETTINGS.resamples)


def _store(folder, name: str, values: Tensor) -> tuple[Rows, list[int]]:
    """Return scores that lie on disk, and the list of how many rows were read each time."""
    save_tensors(folder / f"{name}.safetensors", {"scores": values}, {})
    rows, read = open_matrices(folder / f"{name}.safetensors")["scores"], []

    def count(start: int, stop: int) -> Tensor:
        read.append(stop - start)
        return rows.read(start, stop)

    return dataclasses.replace(rows, read=count), read


def _evaluate(scores: Tensor | Rows, bank: tuple[Tensor, Tensor], memory_gib: float | None = None) -> dict:
    settings = dataclasses.replace(SETTINGS, memory_gib=memory_gib)
    return evaluate_scores(scores, *bank, settings, num_scored=SCORED, generator=make_generator(0, "bootstrap"))


def _judge(scores: dict, bank: tuple[Tensor, Tensor], memory_gib: float | None = None) -> dict:
    settings = dataclasses.replace(SETTINGS, memory_gib=memory_gib)
    return judge_cell(scores, *bank, settings, num_scored=SCORED, seed=0, place=(0, TRAIN))


def _agree(scores: dict, memory_gib: float | None = None) -> list[dict]:
    settings = dataclasses.replace(SETTINGS, memory_gib=memory_gib)
    return compare_methods(scores, settings, num_scored=SCORED, generator=make_generator(0, "agreement"))


def _assert_same(found: object, expected: object) -> None:
    """Compare nested results: numbers to 1e-12, NaN as itself."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)
    else:
        assert found == expected
