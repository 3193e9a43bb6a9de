import json
import math

import pytest
import torch
from torch import Tensor

from tdabench.evaluation.evaluate import evaluate_scores
from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.evaluation.reliability import lds_ceiling, retrain_agreement
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.lds.judge import compare_scores, mean_lds_of
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=200)


def test_every_method_has_the_lds_and_the_interval_that_evaluate_gives_it():
    scores, masks, losses = _draw_case()

    result = _compare(scores, masks, losses)

    for name, values in scores.items():
        alone = evaluate_scores(
            values, masks, losses, SETTINGS, num_scored=6, generator=make_generator(0, "bootstrap", 1, 30)
        )
        method = result["methods"][name]
        assert method["lds"] == pytest.approx(alone["mean"], abs=1e-12)
        assert (method["low"], method["high"]) == pytest.approx((alone["low"], alone["high"]), abs=1e-6)
        assert method["nan_queries"] == 0
        assert len(method["draws"]) == 200


def test_pairs_are_differences_of_the_lds_and_good_methods_differ_from_chance():
    scores, masks, losses = _draw_case()

    result = _compare(scores, masks, losses)

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


def test_a_pair_of_equal_methods_differs_by_nothing():
    scores, masks, losses = _draw_case()

    (row,) = _compare({"one": scores["good"], "twin": 2 * scores["good"]}, masks, losses)["pairs"]

    assert (row["difference"], row["low"], row["high"], row["p_value"], row["p_holm"]) == (0, 0, 0, 1, 1)


def test_a_paired_interval_is_narrower_than_the_methods_own():
    scores, masks, losses = _draw_case()
    noise = 0.1 * torch.randn(scores["good"].shape, generator=make_generator(0, "noise"))

    result = _compare({"one": scores["good"], "close": scores["good"] + noise}, masks, losses)

    (row,) = result["pairs"]
    own = result["methods"]["one"]
    assert row["standard_error"] < 0.5 * own["standard_error"]
    assert row["variance"]["retrains"] < 0.2 * own["variance"]["retrains"]
    assert row["variance"]["subsets"] > 0


def test_reliability_is_the_agreement_its_ceiling_and_the_share_of_it():
    scores, masks, losses = _draw_case()

    result = _compare(scores, masks, losses)

    reliability, good = result["reliability"], result["methods"]["good"]
    agreement = retrain_agreement(losses[..., :6])
    assert reliability["agreement"] == pytest.approx(agreement, abs=1e-6)
    assert reliability["ceiling"] == pytest.approx(lds_ceiling(agreement, 2), abs=1e-6)
    assert reliability["agreement_low"] < agreement < reliability["agreement_high"]
    assert reliability["ceiling_low"] < reliability["ceiling"] < reliability["ceiling_high"]
    assert len(reliability["ceiling_per_query"]) == 6
    assert good["share"] == pytest.approx(good["lds"] / reliability["ceiling"], abs=1e-6)
    assert good["share_low"] < good["share"] < good["share_high"]


def test_the_parts_of_the_variance_add_up_to_that_of_the_interval():
    scores, masks, losses = _draw_case()

    result = _compare(scores, masks, losses, variations={"good": [[0.5, 0.6], [0.3, 0.4]]})

    for row in [*result["methods"].values(), *result["pairs"]]:
        parts = [row["variance"][source] for source in ("queries", "subsets", "retrains")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["standard_error"] ** 2, rel=1e-6)
    assert result["methods"]["good"]["variance"]["sampler"] == pytest.approx(0.005)
    assert result["methods"]["good"]["variance"]["checkpoint"] == pytest.approx(0.02 - 0.005 / 2)
    assert result["methods"]["fair"]["variance"]["sampler"] is None


def test_a_bank_with_one_retrain_has_no_reliability_and_says_so_by_leaving_it_empty():
    scores, masks, losses = _draw_case()

    result = _compare(scores, masks, losses[:, :1])

    assert result["reliability"]["ceiling"] is None
    assert result["methods"]["good"]["share"] is None
    assert math.isnan(result["methods"]["good"]["variance"]["retrains"])


def test_models_that_diverged_are_left_out_and_counted():
    scores, masks, losses = _draw_case()
    losses[2] = torch.nan
    losses[4, 0] = torch.nan

    result = _compare(scores, masks, losses)

    assert (result["diverged_retrains"], result["dropped_subsets"], result["subsets"]) == (3, 1, 39)
    assert result["complete_subsets"] == 38
    expected = linear_datamodeling_score(
        scores["good"], masks[[*range(2), *range(3, 40)]], losses.nanmean(dim=1)[[*range(2), *range(3, 40)]]
    )
    assert result["methods"]["good"]["lds"] == pytest.approx(expected[:6].mean().item(), abs=1e-6)
    assert math.isfinite(result["reliability"]["agreement_low"])


def test_a_method_with_constant_scores_has_no_number_and_the_others_have_theirs():
    scores, masks, losses = _draw_case()

    result = _compare({**scores, "constant": torch.zeros(8, 30)}, masks, losses)

    assert math.isnan(result["methods"]["constant"]["lds"])
    assert math.isnan(result["pairs"][-1]["p_holm"])
    assert result["pairs"][0]["p_holm"] == pytest.approx(_compare(scores, masks, losses)["pairs"][0]["p_holm"])
    assert result["ranking"][-1] == {"method": "constant", "lds": None, "group": ""}


def test_without_a_method_that_can_run_the_bank_is_still_judged():
    _, masks, losses = _draw_case()

    result = _compare({}, masks, losses)

    assert result["methods"] == {}
    assert math.isfinite(result["reliability"]["agreement"])


def test_the_result_is_the_same_twice_and_json_can_hold_it():
    case = _draw_case()

    first, second = (json.dumps(_compare(*case)) for _ in range(2))

    assert first == second


def test_the_mean_lds_of_one_set_of_scores_is_that_of_the_comparison():
    scores, masks, losses = _draw_case()

    mean = mean_lds_of(scores["fair"], masks, losses, num_scored=6)

    assert mean == pytest.approx(_compare(scores, masks, losses)["methods"]["fair"]["lds"], abs=1e-12)


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
def test_a_bank_or_scores_that_cannot_be_compared_are_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        _compare(*change(*_draw_case()))


def _compare(scores: dict[str, Tensor], masks: Tensor, losses: Tensor, variations: dict | None = None) -> dict:
    return compare_scores(scores, masks, losses, SETTINGS, num_scored=6, seed=0, place=(1, 30), variations=variations)


def _draw_case() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Draw scores of three methods (query, train), masks, and losses (subset, retrain, query)."""
    generator = make_generator(0, "compare")
    effects, error, chance = torch.randn(3, 8, 30, generator=generator)
    masks = torch.rand(40, 30, generator=generator) < 0.5
    losses = -(masks.float() @ effects.T)[:, None] + 1.5 * torch.randn(40, 2, 8, generator=generator)
    return {"good": effects, "fair": effects + error, "chance": chance}, masks, losses
