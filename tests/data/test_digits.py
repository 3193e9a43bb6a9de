import pytest
import torch

from tdabench.data.digits import Digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits().load(tmp_path_factory.mktemp("no-data"))


def test_digits_are_1297_training_and_500_test_images_of_8_by_8(digits):
    assert digits.train_images.shape == (1297, 1, 8, 8)
    assert digits.test_images.shape == (500, 1, 8, 8)
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert (len(digits.train_labels), len(digits.test_labels)) == (1297, 500)


def test_digits_are_called_by_their_numbers(digits):
    assert digits.label_names == tuple("0123456789")


def test_grey_levels_use_the_whole_range(digits):
    levels = digits.train_images.unique()

    assert len(levels) == 17
    assert (int(levels.min()), int(levels.max())) == (0, 255)


def test_every_class_is_there_about_equally_often(digits):
    for labels in (digits.train_labels, digits.test_labels):
        shares = labels.bincount().double() / len(labels)
        assert len(shares) == 10
        assert ((shares - 0.1).abs() < 0.02).all()


def test_first_image_is_a_zero_with_a_dark_middle(digits):
    first = digits.train_images[0, 0]

    assert digits.train_labels[0] == 0
    assert first[3:5, 3].max() < first[3:5, 2].min()


def test_normalised_images_have_mean_zero_and_variance_one(digits):
    parts = [digits.examples("train", torch.arange(1297)), digits.examples("test", torch.arange(500))]

    images = torch.cat([part["image"] for part in parts])

    # Mean and deviation of all images, written with three digits: off by at most 0.0005 of 0.376.
    assert images.mean().item() == pytest.approx(0, abs=0.0005 / 0.376)
    assert images.std().item() == pytest.approx(1, abs=0.0005 / 0.376)
