import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tdabench.data.mislabelled import plant_wrong_labels
from tdabench.seeds import make_generator

CLASSES = torch.tensor([0, 3, 4, 9])


def test_every_planted_label_is_another_class_than_the_examples_own():
    labels = _draw_labels(1000)

    planted = _plant(labels, 0.3)

    assert len(planted["planted"]) == 300
    assert (planted["planted_labels"] != labels[planted["planted"]]).all()
    assert set(planted["planted_labels"].tolist()) == set(CLASSES.tolist())


def test_a_planted_label_is_uniform_over_the_other_classes():
    labels = torch.full((6000,), 4)

    drawn = _plant(labels, 0.5)["planted_labels"]

    counts = [int((drawn == label).sum()) for label in (0, 3, 9)]
    assert sum(counts) == 3000
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 0.5, 0.8])
def test_every_start_of_the_pool_has_its_share_to_within_one_example(share):
    wrong = torch.zeros(500)
    wrong[_plant(_draw_labels(500), share)["planted"]] = 1

    excess = wrong.cumsum(0) - share * torch.arange(1, 501)

    assert excess.abs().max() < 1
    assert wrong.sum() == pytest.approx(share * 500, abs=1)


def test_every_place_is_planted_equally_often():
    labels = _draw_labels(25)

    counts = torch.zeros(25)
    for seed in range(1500):
        counts[_plant(labels, 0.3, seed=seed)["planted"]] += 1

    # A frequency of 0.3 in 1,500 draws has a standard error of 0.0118; the largest of 25 is within 4.
    assert np.allclose(counts / 1500, 0.3, atol=4 * (0.3 * 0.7 / 1500) ** 0.5)


def test_wrong_labels_are_drawn_from_the_generator():
    labels = _draw_labels(100)

    first, again, other = (_plant(labels, 0.2, seed=seed) for seed in (0, 0, 1))

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["planted_labels"], other["planted_labels"])


def test_a_single_class_leaves_no_wrong_label():
    with pytest.raises(ValueError, match=r"needs a second class; the training set has only \[7\]"):
        plant_wrong_labels(
            torch.full((9,), 7), 0.5, classes=torch.tensor([7]), generator=make_generator(0, "mislabelled")
        )


def _draw_labels(count: int) -> Tensor:
    return CLASSES[torch.randint(4, (count,), generator=make_generator(0, "labels"))]


def _plant(labels: Tensor, share: float, *, seed: int = 0) -> dict[str, Tensor]:
    return plant_wrong_labels(labels, share, classes=CLASSES, generator=make_generator(seed, "mislabelled"))
