import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.detection.scores import _areas, area_under_roc, detection_values, evaluate_detection
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=2000)
EXAMPLES = st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 3)), min_size=2, max_size=12)


# The area


@given(examples=EXAMPLES)
@settings(max_examples=100)
def test_an_example_that_counts_several_times_is_as_if_it_stood_there_several_times(examples):
    values, planted, counts = (torch.tensor(column) for column in zip(*examples, strict=True))
    assume(counts[planted].sum() and counts[~planted].sum())
    whole = roc_auc_score(planted.numpy(), values.numpy())

    area = _areas(values.double(), planted, counts[None].double()).item()

    repeated = (column.numpy().repeat(counts.numpy()) for column in (planted, values))
    assert area == pytest.approx(roc_auc_score(*repeated), abs=1e-12)
    assert area_under_roc(values.double(), planted) == pytest.approx(whole, abs=1e-12)


def test_the_standard_error_is_delongs():
    values, planted = _draw_values(300, 0.2)

    result = _evaluate(values, planted)

    wins = (values[planted][:, None] > values[~planted]).double()
    variance = wins.mean(dim=1).var() / len(wins) + wins.mean(dim=0).var() / wins.shape[1]
    # 2,000 resamples know it to 1.6%; a bootstrap lacks (m - 1) / m, 1.6% of the variance at 60 wrong labels.
    assert result["standard_error"] == pytest.approx(variance.sqrt().item(), rel=0.06)
    reach = 1.96 * variance.sqrt().item()
    assert result["low"] == pytest.approx(result["auc"] - reach, abs=0.15 * reach)
    assert result["high"] == pytest.approx(result["auc"] + reach, abs=0.15 * reach)


def test_average_precision_is_the_mean_precision_at_the_wrong_labels():
    planted = torch.tensor([True, False, True, False, False])

    result = _evaluate(torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), planted)

    assert result["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["auc"] == pytest.approx(5 / 6)


def test_values_without_a_difference_rank_nothing():
    planted = torch.tensor([True, False, False])
    rounded = torch.tensor([1.0, 1.0 + 1e-7, 1.0])

    result = _evaluate(rounded, planted)

    assert all(math.isnan(number) for number in result.values())
    assert set(result) == {"auc", "low", "high", "standard_error", "average_precision"}


@pytest.mark.parametrize("planted", [[False] * 3, [True] * 3])
def test_labels_that_are_all_right_or_all_wrong_are_an_error(planted):
    with pytest.raises(ValueError, match=f"needs wrong and right labels, got {sum(planted)} wrong of 3"):
        _evaluate(torch.randn(3, generator=make_generator(0, "values")), torch.tensor(planted))


def test_a_value_that_is_not_finite_is_an_error():
    with pytest.raises(ValueError, match="Detection needs finite scores"):
        _evaluate(torch.tensor([1.0, torch.nan]), torch.tensor([True, False]))


# The sign, on least squares: everything is a closed form


def test_a_flipped_label_has_the_larger_self_influence_and_the_lower_mean_helpfulness():
    train, query, planted = _draw_flipped()

    detectors = detection_values(*_influence(train, query), num_scored=40)

    for values in detectors.values():
        assert _evaluate(values, planted)["auc"] > 0.9
        assert _evaluate(-values, planted)["auc"] < 0.1


def test_tuning_queries_say_nothing_about_helpfulness():
    scores = torch.tensor([[1.0, 2.0], [3.0, 6.0], [100.0, -100.0]])

    values = detection_values(scores, torch.ones(2), num_scored=2)

    assert values["mean_helpfulness"].tolist() == [-2.0, -4.0]
    assert values["self_influence"].tolist() == [1.0, 1.0]


def _draw_values(count: int, share: float) -> tuple[Tensor, Tensor]:
    generator = make_generator(0, "values")
    planted = torch.arange(count) < share * count
    return torch.randn(count, generator=generator, dtype=torch.float64) + planted, planted


def _draw_flipped() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Draw labels of -1 and 1 that a line tells apart, and flip one in ten of the training set's."""
    generator = make_generator(0, "flipped")
    labels = torch.randint(2, (240,), generator=generator).double() * 2 - 1
    images = torch.randn(240, 5, generator=generator, dtype=torch.float64)
    images[:, 0] += 3 * labels
    planted = torch.arange(200) % 10 == 0
    flipped = torch.where(planted, -labels[:200], labels[:200])
    return (images[:200], flipped), (images[200:], labels[200:]), planted


def _solve(images: Tensor, labels: Tensor) -> Tensor:
    return torch.from_numpy(np.linalg.lstsq(images.numpy(), labels.numpy(), rcond=None)[0])


def _influence(train: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Influence functions of least squares: the queries' scores, and each training example's for itself."""
    images, labels = train
    weights = _solve(images, labels)
    gradients, queries = ((part[0] @ weights - part[1])[:, None] * part[0] for part in (train, query))
    inverse = torch.linalg.inv(images.T @ images)
    return queries @ inverse @ gradients.T, (gradients @ inverse @ gradients.T).diagonal()


def _evaluate(values: Tensor, planted: Tensor) -> dict[str, float]:
    return evaluate_detection(values, planted, SETTINGS, generator=make_generator(0, "bootstrap"))
