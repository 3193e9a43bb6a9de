"""Removal, with models that are solved in closed form: ridge regression on labels of 0, 1 and 2."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tdabench.experiment.sections import RemovalSettings
from tdabench.questions.removal.retrain import align_arms, draw_matched, keep_all, most_helpful, remove_most_helpful
from tdabench.seeds import make_generator

SETTINGS = RemovalSettings(counts=(1, 5), queries=3, retrains=2)
RIDGE = 0.5
DRAWS = st.tuples(st.integers(2, 12), st.integers(1, 11), st.integers(0, 99)).filter(lambda draw: draw[1] < draw[0])


# Choosing


def test_the_most_helpful_have_the_highest_scores_best_first():
    assert most_helpful(torch.tensor([0.5, -3.0, 2.0, 1.0]), 2).tolist() == [2, 3]


def test_of_equally_helpful_examples_the_first_are_chosen():
    scores = torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]).repeat(20)

    assert most_helpful(scores, 42).tolist() == [
        *(place for place in range(100) if scores[place] == 2), 0, 2,
    ]  # fmt: skip


@pytest.mark.parametrize("count", [-1, 0, 4, 5])
def test_removing_none_or_all_is_an_error(count):
    with pytest.raises(ValueError, match=f"Of 4 examples, 1 to 3 can be removed, got {count}"):
        most_helpful(torch.ones(4), count)


@given(draw=DRAWS)
@settings(max_examples=60)
def test_a_matched_draw_has_the_same_labels_and_no_example_twice(draw):
    labels, removed, matched = _draw_arms(*draw)

    assert labels[matched].sort().values.equal(labels[removed].sort().values)
    assert len(set(matched.tolist())) == len(removed)


def test_a_matched_draw_is_uniform_over_all_of_its_class_the_removed_included():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    removed = torch.tensor([0, 1, 4])

    counts = torch.zeros(8)
    for seed in range(1000):
        counts[draw_matched(removed, labels, generator=make_generator(seed, "matched"))] += 1

    # Standard error below 0.0158: the largest of eight is within 4.
    assert torch.allclose(counts / 1000, torch.tensor([0.5] * 4 + [1 / 3] * 3 + [0.0]), atol=0.064)


@given(draw=DRAWS)
@settings(max_examples=60)
def test_aligned_arms_keep_the_rest_and_differ_only_where_they_must_and_within_a_class(draw):
    labels, removed, matched = _draw_arms(*draw)

    first, second = align_arms(removed, matched, labels)

    everything = set(range(len(labels)))
    assert sorted(first.tolist()) == sorted(everything - set(removed.tolist()))
    assert sorted(second.tolist()) == sorted(everything - set(matched.tolist()))
    assert labels[first].equal(labels[second])
    assert int((first != second).sum()) == len(set(removed.tolist()) - set(matched.tolist()))


# Retraining


def test_leave_one_out_is_the_closed_form_of_sherman_and_morrison():
    train, query = _draw_problem()
    exact = _leave_one_out(train, query)  # (query, train)
    scores = exact - _solve_losses(train, query)[:, None]

    losses = _remove(train, query, scores)

    expected = exact[:3].max(dim=1).values
    assert losses["removed"][:, 0].tolist() == exact[:3].argmax(dim=1).tolist()
    for retrain in range(2):
        torch.testing.assert_close(losses["removed_loss"][0, :, retrain], expected.float(), rtol=1e-4, atol=1e-6)


def test_removing_what_helps_costs_more_than_a_random_removal_and_what_harms_less():
    train, query = _draw_problem()
    scores = _leave_one_out(train, query) - _solve_losses(train, query)[:, None]

    helpful, harmful = (_remove(train, query, sign * scores) for sign in (1, -1))

    # At one example, exact scores make it so for every query and draw.
    assert (helpful["removed_loss"][0] >= helpful["matched_loss"][0] - 1e-6).all()
    assert (harmful["removed_loss"][0] <= harmful["matched_loss"][0] + 1e-6).all()
    for losses, sign in ((helpful, 1), (harmful, -1)):
        assert (sign * (losses["removed_loss"] - losses["matched_loss"]).mean(dim=(1, 2)) > 0).all()


def test_an_arm_is_trained_on_exactly_what_is_kept():
    train, query = _draw_problem()
    scores = torch.randn(4, 30, generator=make_generator(0, "scores"))
    seen: list[set[int]] = []

    def retrain(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
        seen.append(set(examples["place"].tolist()))
        return _retrain(examples, generator)

    losses = _remove({**train, "place": torch.arange(30)}, query, scores, retrain=retrain)

    removed = [set(row[:count].tolist()) for _ in range(2) for row in losses["removed"] for count in (1, 5)]
    assert [set(range(30)) - kept for kept in seen[::2]] == removed
    assert [len(kept) for kept in seen[1::2]] == [29, 25] * 6


def test_a_querys_retrain_has_one_seed_in_every_arm_and_method_and_no_other_has_it():
    train, query = _draw_problem()
    runs = []
    for method in range(2):
        seeds: list[int] = []
        scores = torch.randn(4, 30, generator=make_generator(method, "scores"))
        _remove(train, query, scores, retrain=_noting(seeds))
        runs.append(seeds)
    kept: list[int] = []
    keep_all(train, query, SETTINGS, seed=0, stream=("removal",), retrain=_noting(kept), measure=_measure)

    # Each (retrain, query) in turn: two counts, two arms.
    assert runs[0] == runs[1] == [seed for seed in kept for _ in range(4)]
    assert len(set(kept)) == 6


def test_two_methods_that_remove_the_same_labels_are_matched_with_the_same_examples():
    train, query = _draw_problem()
    train["label"] = torch.zeros(30, dtype=torch.int64)
    scores = torch.randn(4, 30, generator=make_generator(0, "scores"))

    first, second = _remove(train, query, scores), _remove(train, query, -scores)

    torch.testing.assert_close(first["matched_loss"], second["matched_loss"])


def test_the_overlap_is_the_share_of_the_matched_that_are_removed_and_1_where_a_class_is_emptied():
    train, query = _draw_problem()
    train["label"] = (torch.arange(30) < 25).long()
    scores = torch.arange(30.0).expand(4, 30)  # the last five, which are a class of their own

    losses = _remove(train, query, scores)

    assert losses["overlap"].shape == (2, 3, 2)
    assert set(losses["overlap"][0].flatten().tolist()) <= {0.0, 1.0}
    assert (losses["overlap"][1] == 1).all()
    assert losses["removed_loss"][1].equal(losses["matched_loss"][1])


def test_matched_draws_differ_between_retrains():
    train, query = _draw_problem()

    losses = _remove(train, query, torch.randn(4, 30, generator=make_generator(0, "scores")))

    assert (losses["matched_loss"][1, :, 0] != losses["matched_loss"][1, :, 1]).all()


def test_more_queries_counts_or_retrains_change_none_that_were_there():
    train, query = _draw_problem()
    scores = torch.randn(4, 30, generator=make_generator(0, "scores"))

    few = _remove(train, query, scores)
    more = _remove(train, query, scores, settings=RemovalSettings(counts=(1, 5, 9), queries=4, retrains=3))

    for name in ("removed_loss", "matched_loss"):
        torch.testing.assert_close(more[name][:2, :3, :2], few[name])


def test_everything_is_kept_in_the_arm_without_a_removal():
    train, query = _draw_problem()

    loss = keep_all(train, query, SETTINGS, seed=0, stream=("removal",), retrain=_retrain, measure=_measure)["loss"]

    expected = _solve_losses(train, query)[:3, None].expand(3, 2)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-4, atol=1e-6)


def test_a_model_that_diverges_is_nan_and_no_other_is():
    train, query = _draw_problem()
    calls: list[int] = []

    def retrain(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
        model = _retrain(examples, generator)
        calls.append(len(calls))
        if len(calls) == 2:
            nn.init.constant_(model.weight, torch.nan)
        return model

    losses = _remove(train, query, torch.randn(4, 30, generator=make_generator(0, "scores")), retrain=retrain)

    assert losses["matched_loss"].isnan().nonzero().tolist() == [[0, 0, 0]]
    assert losses["removed_loss"].isfinite().all()


def _draw_arms(num_train: int, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = make_generator(seed, "arms")
    labels = torch.randint(3, (num_train,), generator=generator)
    removed = torch.randperm(num_train, generator=generator)[:count]
    return labels, removed, draw_matched(removed, labels, generator=generator)


def _draw_problem() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = make_generator(0, "problem")
    images = torch.randn(34, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (34,), generator=generator)
    return {"image": images[:30], "label": labels[:30]}, {"image": images[30:], "label": labels[30:]}


def _retrain(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
    """Solve ridge regression."""
    images, labels = examples["image"], examples["label"].double()
    precision = images.T @ images + RIDGE * torch.eye(4, dtype=torch.float64)
    with torch.random.fork_rng():
        model = nn.Linear(4, 1, bias=False, dtype=torch.float64)
    model.weight.data = torch.linalg.solve(precision, images.T @ labels)[None]
    return model


def _noting(seeds: list[int]):
    def retrain(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
        seeds.append(generator.initial_seed())
        return _retrain(examples, generator)

    return retrain


def _measure(model: nn.Module, examples: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    residual = model(examples["image"]).squeeze(1) - examples["label"]
    return residual.square() / 2, residual


def _solve_losses(train: dict[str, Tensor], query: dict[str, Tensor]) -> Tensor:
    return _measure(_retrain(train, torch.Generator()), query)[0].detach()


def _leave_one_out(train: dict[str, Tensor], query: dict[str, Tensor]) -> Tensor:
    """Loss of every query without each training example, by a downdate of the inverse: (query, train)."""
    images, labels = train["image"], train["label"].double()
    inverse = torch.linalg.inv(images.T @ images + RIDGE * torch.eye(4, dtype=torch.float64))
    weights = inverse @ images.T @ labels
    leverage = ((images @ inverse) * images).sum(dim=1)
    moved = weights[:, None] - inverse @ images.T * ((labels - images @ weights) / (1 - leverage))  # (4, train)
    return (query["image"] @ moved - query["label"][:, None]).square() / 2


def _remove(train, query, scores, *, retrain=_retrain, settings=SETTINGS) -> dict[str, Tensor]:
    return remove_most_helpful(
        train, query, scores, settings, seed=0, stream=("removal",), retrain=retrain, measure=_measure
    )
