import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from linear_losses import Linear, linear_loss
from torch import Tensor, nn

from tdabench.attributors.base import Attributor, ChainAttributor, Problem, Unsupported
from tdabench.attributors.baselines import Random
from tdabench.attributors.bif import BIF
from tdabench.attributors.laplace_bif import LaplaceBIF
from tdabench.attributors.run import run_attributor, run_chain, score_chains
from tdabench.attributors.sampling.chains import DIVERGED, chain_generator, join_examples, measure_losses, record_chain
from tdabench.attributors.sampling.sgld import Step
from tdabench.seeds import fork_generator, make_generator
from tdabench.testing import make_image_problem

BIF_SETTINGS = {"step_size": 1e-4, "inverse_temperature": 10.0, "localization": 100.0, "draws": 4}
METHODS = [BIF(**BIF_SETTINGS, chains=3), LaplaceBIF(draws=4, chains=3, batch_size=8)]
method_of = pytest.mark.parametrize("method", METHODS, ids=["BIF", "LaplaceBIF"])


# Streams


def test_the_streams_of_chains_are_the_forks_of_the_methods_generator_in_order(tmp_path):
    problem = _problem(tmp_path)
    generator = make_generator(0, "method")

    apart = [chain_generator(problem, chain, generator) for chain in (2, 0, 1)]

    forks = [fork_generator(generator) for _ in range(3)]
    assert [stream.initial_seed() for stream in apart] == [forks[chain].initial_seed() for chain in (2, 0, 1)]


def test_asking_for_a_chains_stream_leaves_the_methods_generator_where_it_is(tmp_path):
    generator = make_generator(0, "method")
    torch.rand(7, generator=generator)
    before = generator.get_state()

    chain_generator(_problem(tmp_path), 3, generator)

    assert torch.equal(generator.get_state(), before)


# What is recorded of a chain


def test_a_chain_is_recorded_with_the_losses_of_its_draws_and_of_its_checkpoint(tmp_path):
    problem = _problem(tmp_path)
    positions = torch.arange(8.0)[:, None].expand(8, 4) / 10

    found = _record(problem, positions, draws=3, burn_in=2, steps_between_draws=2)

    drawn = positions[[3, 5, 7]]  # counted from 1: the steps 4, 6 and 8
    torch.testing.assert_close(found["train"], drawn @ problem.train["slope"].T)
    torch.testing.assert_close(found["query"], drawn @ problem.query["slope"].T)
    start = problem.models[0].blocks[0].detach()
    torch.testing.assert_close(found["train_checkpoint"], problem.train["slope"] @ start)
    torch.testing.assert_close(found["query_checkpoint"], problem.query["slope"] @ start)
    torch.testing.assert_close(found["distance"], (drawn - start).norm(dim=1))
    torch.testing.assert_close(found["step_loss"], torch.arange(8.0))
    assert found["draw_step"].tolist() == [4, 6, 8]


def test_the_cpu_time_of_a_chain_grows_from_draw_to_draw(tmp_path):
    def work(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            sum(range(200_000))
            yield step

    found = _record(_problem(tmp_path), torch.zeros(4, 4), draws=4, change=work)

    assert (found["cpu_seconds"].diff() > 0).all()
    assert found["cpu_seconds"][0] > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 2 * DIVERGED])
def test_a_chain_that_diverges_ends_there_and_the_rest_is_nan(tmp_path, value):
    positions = torch.zeros(6, 4)
    positions[3] = value
    taken = []

    def count(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            taken.append(step)
            yield step

    found = _record(_problem(tmp_path), positions, draws=6, change=count)

    assert len(taken) == 4
    for name in ("train", "query"):
        assert found[name][:3].isfinite().all()
        assert not (found[name][3].abs() < DIVERGED).all()
        assert found[name][4:].isnan().all()
    assert found["step_loss"][:4].isfinite().all()
    assert found["step_loss"][4:].isnan().all()
    assert found["distance"][4:].isnan().all()
    assert found["cpu_seconds"][4:].isnan().all()
    assert found["draw_step"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("model_type", "kept"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_losses_are_kept_as_exactly_as_the_model_gives_them_and_in_float32_at_least(tmp_path, model_type, kept):
    problem = _problem(tmp_path, dtype=model_type)

    found = _record(problem, torch.zeros(2, 4, dtype=model_type), draws=2)

    assert {found[name].dtype for name in ("train", "query", "train_checkpoint", "query_checkpoint")} == {kept}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 2 * DIVERGED])
@pytest.mark.parametrize(("part", "counts"), [("train", "1 of 5 training examples and 0 of 3 queries"),
                                              ("query", "0 of 5 training examples and 1 of 3 queries")])  # fmt: skip
def test_a_checkpoint_without_a_loss_is_an_error_before_a_step_is_taken(tmp_path, part, counts, value):
    problem = _problem(tmp_path)
    getattr(problem, part)["slope"][1] = value * problem.models[0].blocks[0].detach().sign()

    def refuse(steps: Iterator[Step]) -> Iterator[Step]:
        raise AssertionError("a step was taken")
        yield

    with pytest.raises(
        ValueError, match=re.escape(f"The checkpoint's loss is NaN or beyond 1,000,000 nats on {counts}")
    ):
        _record(problem, torch.zeros(2, 4), draws=2, change=refuse)


@method_of
def test_a_checkpoint_of_nan_is_named_by_the_methods_that_sample(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    problem.models[0][0].weight.data[0] = math.nan

    with pytest.raises(ValueError, match=r"loss is NaN .* 8 of 8 training examples and 4 of 4 queries"):
        method.attribute(problem, generator=make_generator(0, "bif"))


# Chains as pieces of work


@method_of
def test_scores_of_chains_that_are_sampled_apart_are_those_of_the_method(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)
    generator = make_generator(0, "bif")

    whole = run_attributor(method, problem, generator=generator).scores
    chains = {chain: run_chain(method, problem, chain, generator=generator)[0] for chain in (2, 0, 1)}
    apart = score_chains(method, problem, [chains[chain] for chain in range(3)]).scores

    assert torch.equal(apart, whole)


@method_of
def test_a_chain_does_not_depend_on_how_many_there_are(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)

    first, second = (
        run_chain(dataclasses.replace(method, chains=chains), problem, 1, generator=make_generator(0, "bif"))[0]
        for chains in (2, 5)
    )

    for name in first.keys() - {"cpu_seconds"}:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, equal_nan=True)


@method_of
def test_the_cost_of_a_chain_is_measured_and_that_of_its_scores_apart(tmp_path, method):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)

    chain, cost = run_chain(method, problem, 0, generator=make_generator(0, "bif"))
    attribution = score_chains(dataclasses.replace(method, chains=1), problem, [chain])

    assert set(cost.phases) == ({"score"} if isinstance(method, BIF) else {"fit", "score"})
    assert cost.phases["score"].seconds > 0
    assert set(attribution.cost.phases) == {"score"}
    assert attribution.cost.phases["score"].disk_bytes > 0  # the traces


def test_a_method_is_known_to_sample_chains_by_its_methods():
    assert isinstance(METHODS[0], ChainAttributor)
    assert isinstance(METHODS[1], ChainAttributor)
    assert isinstance(Random(), Attributor)
    assert not isinstance(Random(), ChainAttributor)


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A method with chains that does to the problem what a test says."""

    fault: str
    chains: int = 2

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Tensor:
        chains = [self.sample_chain(problem, chain, generator=generator) for chain in range(self.chains)]
        return self.score_chains(chains, problem)

    def sample_chain(self, problem: Problem, chain: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        if self.fault == "unsupported":
            raise Unsupported("needs a language model")
        if self.fault == "changes":
            problem.models[0][0].weight.data.zero_()
        return {"value": torch.ones(())}

    def score_chains(self, chains: Sequence[dict[str, Tensor]], problem: Problem) -> Tensor:
        return torch.full((4, 8), torch.nan if self.fault == "nan" else 1.0)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [("changes", ValueError, "Plugin changed models[0]"), ("unsupported", Unsupported, "needs a language model")],
)
def test_a_fault_of_a_chain_is_that_of_its_job(tmp_path, fault, error, message):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)

    with pytest.raises(error, match=re.escape(message)):
        run_chain(Plugin(fault), problem, 0, generator=make_generator(0, "plugin"))


def test_scores_of_chains_are_checked_as_those_of_a_method(tmp_path):
    problem = make_image_problem(tmp_path, num_train=8, num_query=4, num_models=1)

    with pytest.raises(ValueError, match="32 of 32 scores are NaN or infinite"):
        score_chains(Plugin("nan"), problem, [])


def test_losses_of_training_examples_come_before_those_of_queries(tmp_path):
    problem = _problem(tmp_path)

    losses = measure_losses(problem.models[0], problem, join_examples(problem), 3)

    assert torch.equal(losses[:5], linear_loss(problem.models[0], problem.train).detach())
    assert torch.equal(losses[5:], linear_loss(problem.models[0], problem.query).detach())


def _problem(workspace: Path, dtype: torch.dtype = torch.float32) -> Problem:
    """Make five training examples and three queries with linear losses."""
    slopes = torch.randn(8, 4, generator=make_generator(0, "slopes")).to(dtype)
    train, query = ({"slope": slopes[part].clone()} for part in (slice(5), slice(5, 8)))
    model = Linear(torch.linspace(-1, 1, 4, dtype=dtype))
    return Problem(models=(model,), loss=linear_loss, train=train, query=query, reference=train, workspace=workspace)


def _record(problem: Problem, positions: Tensor, *, change=lambda steps: steps, **settings: int) -> dict[str, Tensor]:
    """Record a chain that goes where a test says; the minibatch loss of a step is its number, from 0."""
    steps = change(_walk(problem.models[0], positions))
    return record_chain(problem, steps, loss_batch_size=3, description="chain", **settings)


def _walk(model: nn.Module, positions: Tensor) -> Iterator[Step]:
    moved = Linear(torch.zeros_like(positions[0]))
    checkpoint = model.blocks[0].detach().clone()
    for count, position in enumerate(positions):
        moved.blocks[0].data.copy_(position)
        yield Step(
            model=moved, loss=torch.tensor(float(count)), position=moved.blocks[0].detach(), checkpoint=checkpoint
        )
