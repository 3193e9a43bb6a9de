import re

import pytest
import torch

from tdabench.data.base import ImageData, split_indices
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


def make_named(label_names: tuple[str, ...]) -> ImageData:
    images, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 2, 1])
    return ImageData(
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        mean=torch.zeros(1),
        deviation=torch.ones(1),
        label_names=label_names,
    )


def test_names_of_labels_are_no_tensors():
    data = make_named(("cat", "dog", "owl"))

    assert data.label_names == ("cat", "dog", "owl")
    assert set(data.tensors()) == set(vars(data)) - {"label_names"}


def test_names_for_some_labels_only_are_an_error():
    with pytest.raises(ValueError, match="label_names has 2 names for 3 labels: name every label, or none"):
        make_named(("cat", "dog"))
