import json
import math

import pytest
import torch
from torch import Tensor

from tdabench.evaluation.evaluate import evaluate_scores
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.agreement.compare import compare_methods
from tdabench.questions.lds.judge import judge_cell, mean_lds_of
from tdabench.seeds import make_generator

SCORED, TUNING = 6, 2
SETTINGS = EvaluationSettings(resamples=200)


@pytest.fixture
def case() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Draw scores of three methods (query, train), masks, and losses (subset, retrain, query)."""
    generator = make_generator(0, "compare")
    effects, error, chance = torch.randn(3, SCORED + TUNING, 30, generator=generator)
    masks = torch.rand(40, 30, generator=generator) < 0.5
    losses = -(masks.float() @ effects.T)[:, None] + 1.5 * torch.randn(40, 2, SCORED + TUNING, generator=generator)
    return {"good": effects, "fair": effects + error, "chance": chance}, masks, losses


def _judge(scores: dict[str, Tensor], masks: Tensor, losses: Tensor, variations: dict | None = None) -> dict:
    return judge_cell(
        scores, masks, losses, SETTINGS, num_scored=SCORED, seed=0, place=(1, 30), variations=variations
    )  # fmt: skip


def _compare(*arguments: object, **settings: object) -> dict:
    return _judge(*arguments, **settings)["comparison"]


def test_scored_and_tuning_queries_are_kept_apart(case):
    scores, masks, losses = case

    judged = _judge(*case)

    for name, values in scores.items():
        result, method = judged["lds"][name], judged["comparison"]["methods"][name]
        lds = linear_datamodeling_score(values, masks, losses.double().mean(dim=1))
        assert result["lds"] == pytest.approx(lds[:SCORED].tolist(), abs=1e-12)
        assert result["mean"] == method["lds"] == pytest.approx(lds[:SCORED].mean().item(), abs=1e-12)
        assert mean_lds_of(values, masks, losses, num_scored=SCORED) == pytest.approx(result["mean"], abs=1e-12)
        assert result["tuning_lds"] == pytest.approx(lds[SCORED:].mean().item(), abs=1e-12)
        assert (result["low"], result["high"]) == (method["low"], method["high"])
        assert result["low"] < result["mean"] < result["high"]
        assert (result["queries"], result["nan_queries"], len(method["draws"])) == (SCORED, 0, 200)
        assert result["agreement"] == retrain_agreement(losses[..., :SCORED])
        assert result["ceiling"] == lds_ceiling(result["agreement"], 2)


def test_a_method_alone_has_the_numbers_that_it_has_among_others_and_in_agreement(case):
    scores, masks, losses = case

    judged = _judge(*case)

    for name, values in scores.items():
        stream = make_generator(0, "bootstrap", 1, 30)
        alone = evaluate_scores(values, masks, losses, SETTINGS, num_scored=SCORED, generator=stream)
        assert json.dumps(alone) == json.dumps(judged["lds"][name])
    stream = make_generator(0, "agreement", 1, 30)
    assert judged["agreement"] == compare_methods(scores, SETTINGS, num_scored=SCORED, generator=stream)


def test_without_tuning_queries_there_is_no_tuning_lds(case):
    scores, masks, losses = case

    judged = _judge({"good": scores["good"][:SCORED]}, masks, losses[..., :SCORED])

    assert judged["lds"]["good"]["tuning_lds"] is None
    assert judged["agreement"] == []


def test_pairs_are_differences_of_the_lds_and_good_methods_differ_from_chance(case):
    result = _compare(*case)

    lds = {name: method["lds"] for name, method in result["methods"].items()}
    assert [(row["first"], row["second"]) for row in result["pairs"]] == [
        ("good", "fair"), ("good", "chance"), ("fair", "chance"),
    ]  # fmt: skip
    for row in result["pairs"]:
        assert row["difference"] == pytest.approx(lds[row["first"]] - lds[row["second"]], abs=1e-12)
        assert row["low"] < row["difference"] < row["high"]
        assert row["p_holm"] >= row["p_value"]
    assert result["pairs"][1]["p_holm"] < 0.05
    assert [row["method"] for row in result["ranking"]] == ["good", "fair", "chance"]
    assert result["methods"]["good"]["p_value"] == 1 / 201
    assert result["methods"]["chance"]["null_low"] < lds["chance"] < result["methods"]["chance"]["null_high"]


def test_a_pair_of_equal_methods_differs_by_nothing(case):
    scores, masks, losses = case

    (row,) = _compare({"one": scores["good"], "twin": 2 * scores["good"]}, masks, losses)["pairs"]

    assert (row["difference"], row["low"], row["high"], row["p_value"], row["p_holm"]) == (0, 0, 0, 1, 1)


def test_reliability_is_the_agreement_its_ceiling_and_the_share_of_it(case):
    result = _compare(*case)

    reliability, good = result["reliability"], result["methods"]["good"]
    agreement = retrain_agreement(case[2][..., :SCORED])
    assert reliability["agreement"] == pytest.approx(agreement, abs=1e-6)
    assert reliability["ceiling"] == pytest.approx(lds_ceiling(agreement, 2), abs=1e-6)
    assert reliability["agreement_low"] < agreement < reliability["agreement_high"]
    assert reliability["ceiling_low"] < reliability["ceiling"] < reliability["ceiling_high"]
    assert len(reliability["ceiling_per_query"]) == SCORED
    assert good["share"] == pytest.approx(good["lds"] / reliability["ceiling"], abs=1e-6)
    assert good["share_low"] < good["share"] < good["share_high"]


def test_the_parts_of_the_variance_add_up_to_that_of_the_interval(case):
    result = _compare(*case, variations={"good": [[0.5, 0.6], [0.3, 0.4]]})

    for row in [*result["methods"].values(), *result["pairs"]]:
        parts = [row["variance"][source] for source in ("queries", "subsets", "retrains")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["standard_error"] ** 2, rel=1e-6)
    assert result["methods"]["good"]["variance"]["sampler"] == pytest.approx(0.005)
    assert result["methods"]["good"]["variance"]["checkpoint"] == pytest.approx(0.02 - 0.005 / 2)
    assert result["methods"]["fair"]["variance"]["sampler"] is None


def test_a_bank_with_one_retrain_has_no_reliability_and_says_so_by_leaving_it_empty(case):
    scores, masks, losses = case

    result = _compare(scores, masks, losses[:, :1])

    assert result["reliability"]["ceiling"] is None
    assert result["methods"]["good"]["share"] is None
    assert math.isnan(result["methods"]["good"]["variance"]["retrains"])


@pytest.mark.parametrize("query", [slice(None), SCORED], ids=["everywhere", "on a tuning query"])
def test_models_that_diverged_are_left_out_and_counted(case, query):
    scores, masks, losses = case
    losses[2, :, query] = torch.nan
    losses[4, 0, query] = torch.nan
    kept = [place for place in range(40) if place != 2]
    expected = losses[kept].mean(dim=1)
    expected[3] = losses[4, 1]

    judged = _judge(*case)

    result, alone = judged["comparison"], judged["lds"]["good"]
    assert (result["diverged_retrains"], result["dropped_subsets"], result["subsets"]) == (3, 1, 39)
    assert [alone[name] for name in ("diverged_retrains", "dropped_subsets", "subsets")] == [3, 1, 39]
    assert result["complete_subsets"] == 38
    lds = linear_datamodeling_score(scores["good"], masks[kept], expected)[:SCORED].mean().item()
    assert result["methods"]["good"]["lds"] == pytest.approx(lds, abs=1e-6)
    assert math.isfinite(result["reliability"]["agreement_low"])


def test_a_method_with_constant_scores_has_no_number_and_the_others_have_theirs(case):
    scores, masks, losses = case
    scores["good"][1] = 0

    judged = _judge({**scores, "constant": torch.zeros(SCORED + TUNING, 30)}, masks, losses)

    result, alone = judged["comparison"], judged["lds"]["good"]
    assert math.isnan(result["methods"]["constant"]["lds"])
    assert math.isnan(result["pairs"][-1]["p_holm"])
    assert result["pairs"][0]["p_holm"] == pytest.approx(_compare(scores, masks, losses)["pairs"][0]["p_holm"])
    assert result["ranking"][-1] == {"method": "constant", "lds": None, "group": ""}
    assert (alone["queries"], alone["nan_queries"], result["methods"]["good"]["nan_queries"]) == (SCORED, 1, 1)
    assert math.isnan(alone["lds"][1])


def test_without_a_method_that_can_run_the_bank_is_still_judged(case):
    judged = _judge({}, *case[1:])

    assert judged["lds"] == judged["comparison"]["methods"] == {}
    assert math.isfinite(judged["comparison"]["reliability"]["agreement"])


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, m, x: (s, m[1:], x), "39 masks and outputs of 40 subsets"),
        (lambda s, m, x: (s, m[:1], x[:1]), "at least 3 subsets, got 1: raise bank.subsets"),
        (lambda s, m, x: (s, m, x[..., :4]), "outputs of 4 queries and the split 6 scored ones"),
        (lambda s, m, x: ({**s, "fair": s["fair"] * torch.nan}, m, x), "fair: The LDS needs finite scores"),
        (lambda s, m, x: ({**s, "fair": s["fair"][:, 1:]}, m, x), r"fair: Scores .* disagree: \(6, 29\)"),
        (lambda s, m, x: (s, m, x * torch.nan), "80 of 80 retrained models diverged"),
        (lambda s, m, x: (s, m, 0 * x), "Every query has the same loss after every retraining"),
    ],
)
def test_a_bank_or_scores_that_cannot_be_compared_are_an_error(case, change, message):
    with pytest.raises(ValueError, match=message):
        _judge(*change(*case))
