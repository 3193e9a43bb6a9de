import dataclasses
import math
import re
import sys
from collections import Counter

import pytest
import torch
from tiny_language import IGNORED, NUM_QUERY, make_language_problem, pad_problem
from torch import Tensor

from tdabench.attributors.base import Examples, Problem, Unsupported
from tdabench.attributors.bm25 import BM25
from tdabench.attributors.running.run import run_attributor
from tdabench.seeds import make_generator
from tdabench.testing import make_image_problem


@pytest.mark.parametrize("settings", [{}, {"k1": 0.4, "b": 0.1}, {"k1": 0.0}, {"b": 0.0}, {"b": 1.0}])
def test_scores_equal_the_written_out_formula(tmp_path, settings):
    problem = make_language_problem(tmp_path / "problem")
    problem.train["input_ids"][5, 3:7] = problem.train["input_ids"][5, 3]  # a token that is repeated

    scores = _attribute(BM25(**settings), problem)

    expected = _score(problem, **{"k1": 1.5, "b": 0.75, **settings})
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)  # sums in float32


def test_a_query_that_was_trained_on_is_most_like_its_twin(tmp_path):
    problem = make_language_problem(tmp_path / "problem")

    scores = _attribute(BM25(), problem)

    assert scores.argmax(dim=1).tolist() == list(range(NUM_QUERY))
    assert (scores >= 0).all()


def test_padding_is_no_word_and_a_prompt_is(tmp_path):
    problem = make_language_problem(tmp_path / "problem")
    scores = _attribute(BM25(), problem)

    padded = pad_problem(problem, tmp_path / "padded")
    without_prompts = {**problem.train, "input_ids": problem.train["input_ids"].clone()}
    without_prompts["input_ids"][:, 1:][problem.train["labels"][:, 1:] == IGNORED] = 0

    assert torch.equal(_attribute(BM25(), padded), scores)
    assert not torch.equal(_attribute(BM25(), dataclasses.replace(problem, train=without_prompts)), scores)


def test_rows_and_queries_without_a_word_in_common_score_zero(tmp_path):
    problem = make_language_problem(tmp_path / "problem")
    query = {name: values.clone() for name, values in problem.query.items()}
    query["input_ids"][0], query["labels"][0] = 999, 999
    query["labels"][1] = IGNORED
    problem.train["labels"][7] = IGNORED

    scores = _attribute(BM25(), dataclasses.replace(problem, query=query))

    assert (scores[:2] == 0).all()
    assert (scores[:, 7] == 0).all()
    assert scores[2:].max() > 0


def test_no_model_is_called_and_nothing_is_drawn(tmp_path):
    problem = dataclasses.replace(make_language_problem(tmp_path / "problem"), models=())

    attribution = run_attributor(BM25(), problem, generator=make_generator(0, "bm25"))

    assert sum(part.passes for part in attribution.cost.phases.values()) == 0


def test_images_are_unsupported(tmp_path):
    with pytest.raises(Unsupported, match="BM25 compares rows of tokens, and examples here are image and label"):
        _attribute(BM25(), make_image_problem(tmp_path, num_train=8, num_query=2))


def test_without_bm25s_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm25s", None)

    with pytest.raises(ImportError, match=re.escape("pip install 'tdabench[language]'")):
        _attribute(BM25(), make_language_problem(tmp_path / "problem"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k1": -0.1}, "k1 must be at least 0 and finite, got -0.1"),
        ({"k1": math.inf}, "k1 must be at least 0 and finite, got inf"),
        ({"b": 1.1}, "b must lie in [0, 1], got 1.1"),
        ({"b": math.nan}, "b must lie in [0, 1], got nan"),
    ],
)
def test_a_setting_out_of_range_is_an_error(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BM25(**setting)


def _attribute(method: BM25, problem: Problem) -> Tensor:
    return method.attribute(problem, generator=make_generator(0, "bm25"))


def _score(problem: Problem, *, k1: float, b: float) -> Tensor:
    rows, queries = _lists(problem.train), _lists(problem.query)
    mean_length = sum(map(len, rows)) / len(rows)
    held = Counter(token for row in rows for token in set(row))
    scores = torch.zeros(len(queries), len(rows), dtype=torch.float64)
    for column, row in enumerate(rows):
        counts = Counter(row)
        for line, query in enumerate(queries):
            for token in query:
                rarity = math.log(1 + (len(rows) - held[token] + 0.5) / (held[token] + 0.5))
                damped = counts[token] + k1 * (1 - b + b * len(row) / mean_length)
                scores[line, column] += rarity * counts[token] / damped if counts[token] else 0.0
    return scores


def _lists(examples: Examples) -> list[list[int]]:
    """Return the tokens up to the last that counts."""
    lists = []
    for tokens, labels in zip(examples["input_ids"].tolist(), examples["labels"].tolist(), strict=True):
        length = max(position for position, label in enumerate(labels) if label != IGNORED) + 1
        lists.append(tokens[:length])
    return lists
