import io

import numpy as np
import pytest
import torch
from PIL import Image

from tdabench.report.gallery import (
    COLUMNS,
    choose_queries,
    displayable,
    extreme_examples,
    format_score,
    load_gallery,
    make_sheet,
)
from tdabench.storage.records import save_tensors

TRAIN, TEST, SIDE = 20, 12, 5


def make_results(folder, experiment, *, label_names=("cat", "dog", "owl"), sizes=(8,)):
    """Write a dataset, a split and scores; the last method has none. Give the images and the scores of bif."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (TRAIN + TEST, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.arange(TRAIN + TEST) % 3
    data = {
        "train_images": images[:TRAIN],
        "train_labels": labels[:TRAIN],
        "test_images": images[TRAIN:],
        "test_labels": labels[TRAIN:],
    }
    save_tensors(folder / "dataset.safetensors", data, {"label_names": label_names})
    split = {"query": torch.arange(TEST).flip(0)[:6], "pool": torch.randperm(TRAIN, generator=generator)}
    save_tensors(folder / "0" / "split.safetensors", split, {})
    scores = torch.randn(6, 8, generator=generator)
    *methods, last = experiment.methods
    for method in methods:
        save_tensors(folder / "0" / "8" / "scores" / f"{method}.safetensors", {"scores": scores}, {"status": "ok"})
    reason = {"status": "unsupported: no layers"}
    save_tensors(folder / "0" / "8" / "scores" / f"{last}.safetensors", {}, reason)
    return data, split, scores


def cut(gallery, tile) -> np.ndarray:
    """Cut a tile from the sheet, as the page's style does."""
    sheet = np.asarray(Image.open(io.BytesIO(gallery.sheet)))
    return sheet[tile.row * SIDE : (tile.row + 1) * SIDE, tile.column * SIDE : (tile.column + 1) * SIDE]


def test_helpful_images_have_the_highest_scores_and_harmful_ones_the_lowest(tmp_path, tiny_experiment):
    data, split, scores = make_results(tmp_path, tiny_experiment)

    gallery = load_gallery(tiny_experiment, tmp_path)

    for query in gallery.queries:
        shown = cut(gallery, query.tile)
        (place,) = [
            place
            for place, index in enumerate(split["query"].tolist())
            if np.array_equal(data["test_images"][index].permute(1, 2, 0).numpy(), shown)
        ]
        order = np.argsort(-scores[place].numpy())
        for tiles, expected in (
            (query.neighbours[0].helpful, order[:5]),
            (query.neighbours[0].harmful, order[::-1][:5]),
        ):
            assert [tile.score for tile in tiles] == [format_score(scores[place, one].item()) for one in expected]
            for tile, one in zip(tiles, expected, strict=True):
                image = data["train_images"][split["pool"][int(one)]]
                assert np.array_equal(cut(gallery, tile), image.permute(1, 2, 0).numpy())


def test_an_image_says_its_label_and_whether_it_is_the_querys(tmp_path, tiny_experiment):
    data, _, _ = make_results(tmp_path, tiny_experiment)

    first, *_ = load_gallery(tiny_experiment, tmp_path).queries

    names = ("cat", "dog", "owl")
    for tile in first.neighbours[0].helpful:
        index = int(tile.description.split()[2].rstrip(","))
        assert tile.label == names[data["train_labels"][index]]
        assert tile.same_label == (tile.label == first.tile.label)
        assert tile.description == f"train image {index}, label {tile.label}, score {tile.score}"


@pytest.mark.parametrize("names", [(), None])
def test_without_names_labels_are_numbers(tmp_path, tiny_experiment, names):
    make_results(tmp_path, tiny_experiment, label_names=names)

    gallery = load_gallery(tiny_experiment, tmp_path)

    assert {query.tile.label for query in gallery.queries} == {"0", "1", "2"}


def test_a_method_without_scores_has_its_reason(tmp_path, tiny_experiment):
    make_results(tmp_path, tiny_experiment)

    gallery = load_gallery(tiny_experiment, tmp_path)

    for query in gallery.queries:
        assert [row.method for row in query.neighbours] == ["bif", "ekfac"]
        assert query.neighbours[1].reason == "unsupported: no layers"
        assert query.neighbours[1].helpful == ()


def test_data_that_are_no_images_have_no_gallery(tmp_path, tiny_experiment):
    save_tensors(tmp_path / "dataset.safetensors", {"input_ids": torch.zeros(2)}, {})

    assert load_gallery(tiny_experiment, tmp_path) is None


def test_queries_are_the_first_ones_of_labels_at_equal_distances():
    labels = torch.tensor([9, 3, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0])

    assert labels[choose_queries(labels, 5)].tolist() == [0, 2, 4, 6, 8]
    assert choose_queries(labels, 2).tolist() == [2, 7]


def test_with_few_labels_there_are_second_queries_of_each():
    labels = torch.tensor([1, 1, 1, 0, 0])

    assert choose_queries(labels, 4).tolist() == [3, 0, 4, 1]
    assert choose_queries(labels, 9).tolist() == [3, 0, 4, 1, 2]


def test_extremes_are_ordered_from_the_most_extreme():
    helpful, harmful = extreme_examples(torch.tensor([0.1, -3.0, 2.0, 0.5]), 2)

    assert (helpful, harmful) == ([2, 3], [1, 0])
    assert extreme_examples(torch.tensor([0.1, -3.0])) == ([0, 1], [1, 0])  # fewer examples than places


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.6, "0.60"), (-0.0123, "−0.012"), (58.2, "58"), (52683.0, "52,683"), (-6.8e5, "−6.8e5"), (1e-7, "1.0e−7")],
)
def test_a_score_is_short(score, text):
    assert format_score(score) == text


def test_bytes_are_shown_as_they_are():
    images = torch.tensor([[[[0, 255]], [[7, 8]], [[9, 10]]]], dtype=torch.uint8)

    assert displayable(images, torch.tensor([0]))[0].tolist() == [[[0, 7, 9], [255, 8, 10]]]


def test_other_numbers_are_scaled_by_channel_to_the_whole_tensors_range():
    images = torch.tensor([[[[-2.0, 2.0]], [[0.0, 5.0]], [[1.0, 1.0]]], [[[0.0, 0.0]], [[10.0, 10.0]], [[1.0, 1.0]]]])

    shown = displayable(images, torch.tensor([1, 0]))

    assert shown.tolist() == [[[[128, 255, 0], [128, 255, 0]]], [[[0, 0, 0], [255, 128, 0]]]]


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_than_three_are_grey(channels):
    images = torch.full((1, channels, 2, 2), 50, dtype=torch.uint8)

    assert set(displayable(images, torch.tensor([0])).flatten().tolist()) == {50}


def test_a_sheet_that_would_be_too_large_has_smaller_images():
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (30, 64, 64, 3)).astype(np.uint8)

    large, own = make_sheet(list(noise))
    small, side = make_sheet(list(noise), most_bytes=100_000)

    assert own == 64
    assert side == 32
    assert len(small) <= 100_000 < len(large)
    assert Image.open(io.BytesIO(small)).size == (COLUMNS * side, 2 * side)
    assert make_sheet([np.zeros((200, 300, 3), dtype=np.uint8)])[1] == 96


def test_an_image_that_is_not_square_keeps_its_shape():
    content, side = make_sheet([np.full((4, 8, 3), 255, dtype=np.uint8)])

    sheet = np.asarray(Image.open(io.BytesIO(content)))[..., 0]
    assert side == 8
    assert (sheet == 255).sum() == 32
    assert (sheet[[0, 1, 6, 7]] == 0).all()
