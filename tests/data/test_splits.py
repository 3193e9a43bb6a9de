import re

import pytest
import torch

from tdabench.data.base import ImageData, split_indices
from tdabench.data.restore import restore_data
from tdabench.experiment.sections import DataSettings
from tdabench.seeds import make_generator

SETTINGS = {"source": "tdabench.data.digits:Digits", "queries": 20, "tuning_queries": 10, "warmup": 15}


def test_attribution_sets_of_different_sizes_are_nested_and_a_later_size_changes_none():
    few, more = (_split(train_sizes=sizes) for sizes in ((10,), (10, 40)))

    assert all(torch.equal(few[part], more[part]) for part in ("warmup", "pool", "query", "tuning"))
    assert len(few["pool"]) == 100 - 15


def test_warm_up_and_pool_share_no_example_and_cover_the_training_set():
    split = _split(train_sizes=(10, 40))

    assert len(split["warmup"]) == 15
    assert sorted([*split["warmup"].tolist(), *split["pool"].tolist()]) == list(range(100))


def test_scored_and_tuning_queries_share_no_example():
    split = _split(train_sizes=(10,))

    both = [*split["query"].tolist(), *split["tuning"].tolist()]
    assert (len(split["query"]), len(split["tuning"])) == (20, 10)
    assert len(set(both)) == 30
    assert set(both) <= set(range(50))


def test_split_is_drawn_from_the_generator():
    first, again, other = (_split(train_sizes=(10,), seed=seed) for seed in (0, 0, 1))

    assert all(torch.equal(first[part], again[part]) for part in first)
    assert not any(torch.equal(first[part], other[part]) for part in first)
    assert not torch.equal(first["pool"], first["pool"].sort().values)


def test_a_split_that_uses_every_example_is_possible():
    split = _split(train_sizes=(85,), queries=40)

    assert (len(split["pool"]), len(split["query"]), len(split["tuning"])) == (85, 40, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_sizes": (10, 86)}, "15 warm-up and 86 attribution or reference examples; the training set has 100"),
        (
            {"train_sizes": (10,), "reference": 90},
            "15 warm-up and 90 attribution or reference examples; the training set has 100",
        ),
        ({"train_sizes": (10,), "queries": 41}, "41 scored and 10 tuning queries; the test set has 50"),
    ],
)
def test_a_dataset_that_is_too_small_is_an_error(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _split(**settings)


def test_examples_are_normalised_by_channel_and_channels_last():
    images = torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8).reshape(2, 2, 1, 1).repeat(1, 1, 3, 3)
    data = ImageData(
        train_images=images,
        train_labels=torch.tensor([3, 1]),
        test_images=images.flip(0),
        test_labels=torch.tensor([1, 3]),
        mean=torch.tensor([0.5, 0.2]),
        deviation=torch.tensor([0.25, 0.1]),
    )

    train = data.examples("train", torch.tensor([1]))
    test = data.examples("test", torch.tensor([1, 0]))

    assert train["image"][0, :, 0, 0].tolist() == pytest.approx([2.0, 2.0], abs=1e-6)
    assert train["label"].tolist() == [1]
    assert train["label"].dtype == torch.int64
    assert test["image"][0, :, 0, 0].tolist() == pytest.approx([-2.0, 0.0], abs=1e-6)
    assert test["label"].tolist() == [3, 1]
    assert test["image"].is_contiguous(memory_format=torch.channels_last)


def _split(*, seed: int = 0, **settings) -> dict[str, torch.Tensor]:
    return split_indices(100, 50, DataSettings(**{**SETTINGS, **settings}), generator=make_generator(seed, "split"))


PIXELS = torch.tensor([[0, 51], [255, 102], [204, 153]], dtype=torch.uint8).reshape(3, 2, 1, 1).repeat(1, 1, 3, 3)
LABELS = torch.tensor([0, 2, 1])
MEAN, DEVIATION = torch.tensor([0.5, 0.2]), torch.tensor([0.25, 0.1])


def _image_data(images=PIXELS, labels=LABELS, mean=MEAN, deviation=DEVIATION, **more) -> ImageData:
    parts = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    return ImageData(**parts, mean=mean, deviation=deviation, **more)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    "data",
    [
        {"images": PIXELS / 255},
        {"images": (PIXELS / 255 - 0.5) / 0.25, "mean": torch.zeros(1), "deviation": torch.ones(1)},
        {
            "images": PIXELS.numpy(),
            "labels": LABELS.numpy(),
            "mean": MEAN.numpy(),
            "deviation": DEVIATION.double().numpy(),
        },
        {"labels": LABELS.int()},
    ],
    ids=["scaled", "normalised", "numpy", "int32"],
)
def test_images_that_come_in_another_form_are_the_same_examples(data):
    both = torch.arange(3)
    if "mean" in data and len(data["mean"]) == 1:  # of every channel
        expected = _image_data(mean=torch.full((2,), 0.5), deviation=torch.full((2,), 0.25)).examples("train", both)
    else:
        expected = _image_data().examples("train", both)

    found = _image_data(**data).examples("train", both)

    torch.testing.assert_close(found["image"], expected["image"], rtol=0, atol=1e-6)  # float32
    assert torch.equal(found["label"], expected["label"])


def test_features_without_an_image_are_normalised_each():
    data = _image_data(images=torch.tensor([[1.0, 20.0], [3.0, 40.0], [5.0, 0.0]]), mean=torch.tensor([3.0, 20.0]))

    assert data.examples("test", torch.tensor([0, 1]))["image"].tolist() == [[-8.0, 0.0], [0.0, 200.0]]


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"images": PIXELS.float()},
            "train_images must be pixels in [0, 1] where they are floats, got float32 from 0 to",
        ),
        ({"images": PIXELS.long()}, "train_images must be uint8 (0 to 255) or finite floats, got int64 from 0 to 255"),
        ({"images": PIXELS / 0}, "train_images must be uint8 (0 to 255) or finite floats"),
        ({"images": PIXELS[:, 0]}, "got the shape (3, 3, 3): grey images get a channel by images[:, None]"),
        ({"mean": torch.zeros(3)}, "mean and deviation must have a number for each of the 2 channels"),
        ({"deviation": torch.zeros(2)}, "deviations above 0, got [0.5, 0.20000000298023224] and [0.0, 0.0]"),
        ({"labels": LABELS[:2]}, "train_labels must have one label an image (3), got the shape (2,)"),
        ({"labels": LABELS / 4}, "train_labels must be whole numbers, a class each, got float32 from 0 to 0.5: real"),
        ({"labels": LABELS - 1}, "train_labels must be classes from 0 on, got int64 from -1 to 1"),
        ({"label_names": ("cat", "dog")}, "label_names has 2 names for 3 labels: name every label, or none"),
    ],
)
def test_images_and_labels_that_would_give_wrong_numbers_are_refused(data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _image_data(**data)


def test_names_of_labels_are_no_tensors():
    data = _image_data(label_names=("cat", "dog", "owl"))

    assert data.label_names == ("cat", "dog", "owl")
    assert set(data.tensors()) == set(vars(data)) - {"label_names"}


def test_a_dataset_of_another_kind_cannot_be_restored():
    with pytest.raises(ValueError, match=r"A source must give ImageData or TextData; .* holds features, labels"):
        restore_data({"features": torch.ones(2), "labels": torch.ones(2)}, {"kind": "tabular"})
