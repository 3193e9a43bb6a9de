"""Points of a sweep: their LDS, and which are told from the best one, on banks whose truth is known."""

import math

import pytest
import torch

from tdabench.evaluation.lds import linear_datamodeling_score
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.sweep.points import Choice, choose_point, judge_points
from tdabench.seeds import make_generator

SETTINGS = EvaluationSettings(resamples=200)
TRAIN, SUBSETS, QUERIES = 40, 30, 25


def _bank(seed=0, noise=(0.5, 0.5, 0.5)):
    """Make a bank whose losses are minus the summed true scores, and a point for each size of the scores' noise."""
    generator = make_generator(seed, "test")
    truth = torch.randn(QUERIES, TRAIN, generator=generator)
    masks = torch.rand(SUBSETS, TRAIN, generator=generator) < 0.5
    losses = -(masks.float() @ truth.T)[:, None] + torch.randn(SUBSETS, 2, QUERIES, generator=generator)
    points = {f"p={n}": truth + size * torch.randn(truth.shape, generator=generator) for n, size in enumerate(noise)}
    return points, masks, losses


def _judge(seed=0, noise=(0.5, 0.5, 0.5), **changes):
    points, masks, losses = _bank(seed, noise)
    return judge_points({**points, **changes}, masks, losses, SETTINGS, generator=make_generator(seed, "resamples"))


def test_a_points_lds_is_the_mean_over_queries_of_the_linear_datamodeling_score():
    points, masks, losses = _bank()

    rows = _judge().describe(0.95)

    for name, scores in points.items():
        expected = linear_datamodeling_score(scores, masks, losses.mean(dim=1)).mean().item()
        assert rows[name]["tuning_lds"] == pytest.approx(expected, abs=1e-6)
        assert rows[name]["low"] < expected < rows[name]["high"]
        assert rows[name]["tuning_queries"] == QUERIES


def test_the_best_point_is_chosen_and_clearly_worse_ones_are_told_apart():
    twin = _bank(noise=(3, 0.5, 0.51, 30))[0]["p=1"].clone()

    choice = choose_point([_judge(noise=(3, 0.5, 0.51, 30), twin=twin)], 0.95)

    assert {choice.best, *choice.together} == {"p=1", "p=2", "twin"}
    assert set(choice.worse) == {"p=0", "p=3"}


def test_equally_good_points_are_told_from_the_best_no_more_often_than_the_confidence_says():
    trials = 60

    wrong = sum(bool(choose_point([_judge(seed, (1.0,) * 5)], 0.9).worse) for seed in range(trials))

    # Binomial with probability 0.1: above 12 of 60 in less than one case of a hundred.
    assert wrong <= 12


def test_more_repeats_tell_more_apart():
    noise = (1.0, 1.25)

    one = choose_point([_judge(3, noise)], 0.95)
    many = choose_point([_judge(seed, noise) for seed in range(3, 15)], 0.95)

    assert one == Choice(best=one.best, lds=one.lds, together=tuple({"p=0", "p=1"} - {one.best}), worse=())
    assert (many.best, many.worse) == ("p=0", ("p=1",))
    assert many.lds == pytest.approx(sum(_judge(seed, noise).mean("p=0") for seed in range(3, 15)) / 12)


def test_a_point_that_some_repeat_lacks_is_not_chosen_and_not_called_worse():
    points, masks, losses = _bank(1)
    del points["p=0"]
    lacking = judge_points(points, masks, losses, SETTINGS, generator=make_generator(1, "resamples"))

    choice = choose_point([_judge(0, (0.01, 0.5, 0.5)), lacking], 0.95)

    assert math.isnan(lacking.mean("p=0"))
    assert "p=0" not in (choice.best, *choice.together, *choice.worse)


def test_a_point_whose_scores_are_constant_has_no_lds():
    flat = torch.zeros(QUERIES, TRAIN)

    choice = choose_point([_judge(noise=(0.5,), flat=flat)], 0.95)

    assert choice == Choice(best="p=0", lds=choice.lds, together=(), worse=())
    assert (
        choose_point([judge_points({"flat": flat}, *_bank()[1:], SETTINGS, generator=make_generator(0, "r"))], 0.95)
        is None
    )


def test_without_scores_there_is_nothing_to_judge():
    with pytest.raises(ValueError, match="No point of the sweep has scores"):
        judge_points({}, *_bank()[1:], SETTINGS, generator=make_generator(0, "resamples"))
