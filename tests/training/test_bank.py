import dataclasses
import math
import re

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tdabench.bank.retrain import draw_mask, fill_shard, measure_queries, shard_subsets
from tdabench.experiment.sections import BankSettings
from tdabench.seeds import make_generator
from tdabench.training.losses import image_loss_and_margin

SETTINGS = BankSettings(subsets=7, fraction=0.4, retrains=2)


@given(num_train=st.integers(2, 300), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**40))
@settings(max_examples=50)
def test_a_subset_of_any_fixed_size_has_it_and_is_its_streams_alone(num_train, fraction, seed):
    bank = BankSettings(subsets=3, fraction=fraction)
    assume(0 < round(num_train * fraction) < num_train)

    first, again, more = (
        draw_mask(num_train, bank, generator=make_generator(seed, "mask", subset)) for subset in (0, 0, 1)
    )

    assert int(first.sum()) == int(more.sum()) == round(num_train * fraction)
    assert torch.equal(first, again)
    assert not torch.equal(first, more) or math.comb(num_train, int(first.sum())) < 10**12


@given(subsets=st.integers(3, 500), share=st.floats(0, 1))
@settings(max_examples=50)
def test_any_number_of_shards_holds_every_subset_once_in_order_and_equally_many(subsets, share):
    bank = BankSettings(subsets=subsets, fraction=0.5, shards=1 + int(share * (subsets - 1)))

    shards = [shard_subsets(bank, shard) for shard in range(bank.shards)]

    assert [subset for shard in shards for subset in shard] == list(range(subsets))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_every_example_is_in_a_subset_of_fixed_size_equally_often():
    frequencies = _draw_frequencies(BankSettings(subsets=3, fraction=0.25))

    # 2,000 masks: the standard error of a frequency is sqrt(0.25 * 0.75 / 2000); the largest of 20 is within 4.
    assert frequencies.tolist() == pytest.approx([0.25] * 20, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)


def test_bernoulli_subset_keeps_every_example_with_the_asked_probability():
    settings = BankSettings(subsets=3, fraction=0.25, sampling="bernoulli")

    frequencies = _draw_frequencies(settings)

    assert frequencies.tolist() == pytest.approx([0.25] * 20, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)
    sizes = {int(draw_mask(20, settings, generator=make_generator(0, "mask", index)).sum()) for index in range(50)}
    assert len(sizes) > 3


@pytest.mark.parametrize(("fraction", "what"), [(0.1, "an empty subset"), (0.9, "the whole set")])
def test_an_empty_or_whole_subset_is_an_error(fraction, what):
    with pytest.raises(ValueError, match=re.escape(f"A bank.fraction of {fraction} of 4 examples is {what}")):
        draw_mask(4, BankSettings(subsets=3, fraction=fraction), generator=make_generator(0, "mask"))


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_that_does_not_exist_is_an_error(shard):
    with pytest.raises(ValueError, match=f"There are shards 0 to 2, got {shard}"):
        shard_subsets(dataclasses.replace(SETTINGS, shards=3), shard)


def test_division_into_shards_changes_nothing():
    whole = _fill(SETTINGS)

    shards = [_fill(dataclasses.replace(SETTINGS, shards=3), shard) for shard in range(3)]

    assert {name: tuple(values.shape) for name, values in whole.items()} == {
        "masks": (7, 10),
        "loss": (7, 2, 4),
        "margin": (7, 2, 4),
    }
    assert all(torch.equal(torch.cat([shard[name] for shard in shards]), values) for name, values in whole.items())


def test_subsets_and_retrains_have_streams_of_their_own():
    bank = _fill(SETTINGS)
    other_seed, other_stream = _fill(SETTINGS, seed=1), _fill(SETTINGS, stream=("bank", 1))

    assert len(bank["masks"].unique(dim=0)) == 7
    assert len(bank["loss"].flatten(0, 1).unique(dim=0)) == 14
    assert all(not torch.equal(other["masks"], bank["masks"]) for other in (other_seed, other_stream))


def test_models_are_trained_on_their_subset_alone():
    seen = []

    def retrain(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
        seen.append(examples)
        return _draw_model(examples, generator)

    bank = _fill(SETTINGS, retrain=retrain)

    train = _draw_examples(10, "train")
    for index, examples in enumerate(seen):
        mask = bank["masks"][index // 2]
        assert torch.equal(examples["image"], train["image"][mask])
        assert torch.equal(examples["label"], train["label"][mask])


def test_a_model_that_diverges_is_nan_in_loss_and_margin_and_leaves_the_others():
    calls = iter(range(14))

    def retrain(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
        model = _draw_model(examples, generator)
        if next(calls) == 5:
            model[1].bias.data[0] = torch.nan
        return model

    bank = _fill(SETTINGS, retrain=retrain)

    for values in (bank["loss"], bank["margin"]):
        lost = values.isnan()
        assert lost[2, 1].all()
        assert int(lost.sum()) == 4
    good = _fill(SETTINGS)
    assert torch.equal(bank["loss"][~bank["loss"].isnan()], good["loss"][~bank["loss"].isnan()])


@pytest.mark.parametrize("value", [torch.inf, 2e6])
def test_a_model_with_one_infinite_or_huge_loss_has_diverged_on_every_query(value):
    def measure(model: nn.Module, examples: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = torch.ones(len(examples["label"]))
        return loss.masked_fill(examples["image"].flatten(1)[:, 0] == 3, value), loss

    query = {"image": torch.arange(6.0)[:, None], "label": torch.zeros(6, dtype=torch.int64)}

    loss, margin = measure_queries(nn.Identity(), query, measure, batch_size=2)

    assert loss.isnan().all()
    assert margin.isnan().all()


def test_queries_are_measured_in_order_whatever_the_batch_size():
    query = _draw_examples(7, "query")
    model = _draw_model(query, make_generator(0, "model"))

    whole, divided = (measure_queries(model, query, image_loss_and_margin, batch_size=size) for size in (500, 3))

    for values, parts in zip(whole, divided, strict=True):
        assert not values.requires_grad
        torch.testing.assert_close(values, parts, rtol=1e-6, atol=1e-6)  # float32 sums


def _draw_frequencies(settings: BankSettings) -> Tensor:
    generator = make_generator(0, "masks")
    return torch.stack([draw_mask(20, settings, generator=generator) for _ in range(2000)]).double().mean(dim=0)


def _draw_examples(count: int, name: str) -> dict[str, Tensor]:
    generator = make_generator(0, "examples", name)
    return {
        "image": torch.randn(count, 1, 2, 2, generator=generator),
        "label": torch.randint(3, (count,), generator=generator),
    }


def _draw_model(examples: dict[str, Tensor], generator: torch.Generator) -> nn.Module:
    """Stand in for training: a linear model that depends on the examples and on the stream."""
    model = nn.Sequential(nn.Flatten(), nn.utils.skip_init(nn.Linear, 4, 3))
    model[1].weight.data = torch.randn(3, 4, generator=generator) + examples["image"].mean()
    model[1].bias.data = torch.randn(3, generator=generator)
    return model.eval()


def _fill(settings: BankSettings, shard: int = 0, *, seed: int = 0, stream=("bank", 0), retrain=_draw_model):
    return fill_shard(
        _draw_examples(10, "train"),
        _draw_examples(4, "query"),
        settings,
        shard=shard,
        seed=seed,
        stream=stream,
        retrain=retrain,
        measure=image_loss_and_margin,
    )
