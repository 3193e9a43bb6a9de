import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from linear_losses import Linear, linear_loss
from torch import Tensor, nn

from tdabench.attributors.base import Problem, Unsupported, chain_generator
from tdabench.attributors.running.run import run_chain, score_chains
from tdabench.attributors.sampling.chains import DIVERGED, Schedule, record_chain
from tdabench.attributors.sampling.walker import Step
from tdabench.seeds import fork_generator, make_generator
from tdabench.testing import make_image_problem

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


# Chains as pieces of work


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


def _problem(workspace: Path, dtype: torch.dtype = torch.float32) -> Problem:
    """Make five training examples and three queries with linear losses."""
    slopes = torch.randn(8, 4, generator=make_generator(0, "slopes")).to(dtype)
    train, query = ({"slope": slopes[part].clone()} for part in (slice(5), slice(5, 8)))
    model = Linear(torch.linspace(-1, 1, 4, dtype=dtype))
    return Problem(models=(model,), loss=linear_loss, train=train, query=query, reference=train, workspace=workspace)


def _record(problem: Problem, positions: Tensor, *, change=lambda steps: steps, **settings: int) -> dict[str, Tensor]:
    """Record a chain that goes where a test says; the minibatch loss of a step is its number, from 0."""
    steps = change(_walk(problem.models[0], positions))
    return record_chain(problem, steps, Schedule(**settings), loss_batch_size=3, description="chain")


def _walk(model: nn.Module, positions: Tensor) -> Iterator[Step]:
    moved = Linear(torch.zeros_like(positions[0]))
    checkpoint = model.blocks[0].detach().clone()
    for count, position in enumerate(positions):
        moved.blocks[0].data.copy_(position)
        yield Step(
            model=moved, loss=torch.tensor(float(count)), position=moved.blocks[0].detach(), checkpoint=checkpoint
        )
