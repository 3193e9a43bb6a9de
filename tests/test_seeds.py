import random

import numpy as np
import pytest
import torch

from tdabench.seeds import fork_generator, isolated_random_state, make_generator, stream_seed


def test_equal_addresses_give_equal_streams():
    first, again = (_draw(make_generator(0, "bif", "chain", 2)) for _ in range(2))

    assert torch.equal(first, again)


def test_streams_of_different_addresses_are_independent():
    addresses = [(seed, name, index) for seed in range(3) for name in ("bif", "bank") for index in range(5)]

    draws = torch.stack([_draw(make_generator(*address)) for address in addresses])

    # 435 pairs of streams of 1,000 draws: a correlation has the standard error 1 / sqrt(1000), the largest of 435 stays
    # below 4.5 of them with a probability of 99.7%.
    correlations = torch.corrcoef(draws) - torch.eye(len(addresses))
    assert correlations.abs().max() < 4.5 / 1000**0.5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, "ab"), (0, "a", "b")),
        ((0, "1"), (0, 1)),
        ((1, 2), (12,)),
        ((0, "a", "b"), (0, "b", "a")),
        ((0,), (1,)),
        ((0, 'a", "b'), (0, "a", "b")),
    ],
)
def test_addresses_that_look_alike_have_other_seeds(first, second):
    assert stream_seed(*first) != stream_seed(*second)


def test_seeds_are_the_same_on_every_machine_and_fit_63_bits():
    seeds = [stream_seed(0, "bif", index) for index in range(1000)]

    # sha256 of '[0, "bif", 0]', its first eight bytes as a whole number, halved: results depend on it for good.
    assert seeds[0] == 7_140_208_180_993_032_044
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 1000


def test_forked_generators_are_repeatable_and_differ_from_their_parent_and_each_other():
    parent, twin = (make_generator(0, "parent") for _ in range(2))

    first, second = fork_generator(parent), fork_generator(parent)
    first_again = fork_generator(twin)

    draws = [_draw(generator) for generator in (first, second, parent)]
    assert torch.equal(draws[0], _draw(first_again))
    assert not any(torch.equal(draws[a], draws[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_isolated_code_gets_all_its_randomness_from_the_stream():
    first, again, other = (_draw_globally(make_generator(0, "isolated", index)) for index in (0, 0, 1))

    assert first == again
    assert all(ours != theirs for ours, theirs in zip(first, other, strict=True))


def test_consecutive_isolated_blocks_of_one_stream_differ():
    generator = make_generator(0, "isolated")

    assert _draw_globally(generator) != _draw_globally(generator)


def test_global_random_states_are_restored():
    before = _global_states()

    _draw_globally(make_generator(0, "isolated"))

    assert _global_states() == before


def test_global_random_states_are_restored_also_on_error():
    before = _global_states()

    def fail() -> None:
        with isolated_random_state(make_generator(0, "isolated")):
            torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert _global_states() == before


def _draw(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(1000, generator=generator)


def _draw_globally(generator: torch.Generator) -> tuple[float, float, float]:
    with isolated_random_state(generator):
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def _global_states() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()
