import math

import pytest
import torch
from torch import Tensor

from tdabench.evaluation.evaluate import evaluate_scores
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement
from tdabench.experiment.sections import EvaluationSettings
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=100)


def test_scored_and_tuning_queries_are_kept_apart():
    scores, masks, losses = _draw_case()

    result = _evaluate(scores, masks, losses, num_scored=5)

    lds = linear_datamodeling_score(scores, masks, losses.mean(dim=1))
    assert result["lds"] == pytest.approx(lds[:5].tolist(), abs=1e-6)  # float32 means
    assert result["mean"] == pytest.approx(lds[:5].mean().item(), abs=1e-6)
    assert result["tuning_lds"] == pytest.approx(lds[5:].mean().item(), abs=1e-6)
    assert result["low"] < result["mean"] < result["high"]


def test_without_tuning_queries_there_is_no_tuning_lds():
    scores, masks, losses = _draw_case()

    result = _evaluate(scores, masks, losses, num_scored=8)

    assert result["tuning_lds"] is None
    assert result["queries"] == 8


def test_ceiling_comes_from_the_scored_queries():
    scores, masks, losses = _draw_case()

    result = _evaluate(scores, masks, losses, num_scored=5)

    agreement = retrain_agreement(losses[..., :5])
    assert result["agreement"] == agreement
    assert result["ceiling"] == pytest.approx(lds_ceiling(agreement, 2), nan_ok=True)


def test_what_is_missing_is_counted():
    scores, masks, losses = _draw_case()
    losses[2] = torch.nan
    losses[4, 0] = torch.nan
    scores[1] = 0

    result = _evaluate(scores, masks, losses, num_scored=5)

    counts = {name: result[name] for name in ("queries", "nan_queries", "subsets", "dropped_subsets")}
    assert counts == {"queries": 5, "nan_queries": 1, "subsets": 19, "dropped_subsets": 1}
    assert result["diverged_retrains"] == 3
    assert math.isnan(result["lds"][1])


def test_methods_given_equal_generators_are_resampled_alike():
    scores, masks, losses = _draw_case()

    result, doubled = (_evaluate(values, masks, losses, num_scored=8) for values in (scores, 2 * scores))

    assert (result["low"], result["high"]) == (doubled["low"], doubled["high"])


def _draw_case() -> tuple[Tensor, Tensor, Tensor]:
    """Draw scores (query, train), masks, and losses (subset, retrain, query) that the scores predict in part."""
    generator = make_generator(0, "evaluate")
    scores = torch.randn(8, 12, generator=generator)
    masks = torch.rand(20, 12, generator=generator) < 0.5
    losses = -(masks.float() @ scores.T)[:, None] + 2 * torch.randn(20, 2, 8, generator=generator)
    return scores, masks, losses


def _evaluate(scores: Tensor, masks: Tensor, losses: Tensor, *, num_scored: int) -> dict:
    return evaluate_scores(
        scores, masks, losses, SETTINGS, num_scored=num_scored, generator=make_generator(0, "bootstrap")
    )
