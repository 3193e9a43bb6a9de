import dataclasses
import re
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tdabench.attributors.base import Problem, Unsupported
from tdabench.attributors.running.run import AttributionWarning, run_attributor
from tdabench.cost import phase
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import make_image_problem

QUERIES, TRAIN = 3, 5


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A method that does what a test says, and returns what it gives."""

    behave: Callable[[Problem], object]

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> object:
        return self.behave(problem)


@pytest.fixture
def problem(tmp_path) -> Problem:
    problem = make_image_problem(tmp_path, num_train=TRAIN, num_query=QUERIES, num_models=0)
    models = []
    for index in range(2):
        with isolated_random_state(make_generator(0, "model", index)):
            models.append(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 4)).eval())
    return dataclasses.replace(problem, models=tuple(models))


def test_scores_come_back_as_detached_float32_with_their_cost(problem):
    def behave(problem: Problem) -> Tensor:
        with phase("fit"):
            (problem.workspace / "scratch").write_bytes(bytes(1000))
        return torch.ones(QUERIES, TRAIN, dtype=torch.float64, requires_grad=True)

    attribution = _run(behave, problem)

    assert torch.equal(attribution.scores, torch.ones(QUERIES, TRAIN))
    assert not attribution.scores.requires_grad
    assert set(attribution.cost.phases) == {"fit", "score"}
    assert attribution.cost.phases["fit"].disk_bytes == 1000


def test_warnings_about_the_scores_are_kept_and_others_are_not(problem):
    def behave(problem: Problem) -> Tensor:
        warnings.warn(AttributionWarning("a chain diverged"), stacklevel=2)
        warnings.warn("something else", UserWarning, stacklevel=2)
        return torch.ones(QUERIES, TRAIN)

    attribution = _run(behave, problem)

    assert attribution.warnings == ("a chain diverged",)


def test_unsupported_passes_through(problem):
    def behave(problem: Problem) -> Tensor:
        raise Unsupported("needs a language model")

    with pytest.raises(Unsupported, match="needs a language model"):
        _run(behave, problem)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (
            torch.ones(TRAIN, QUERIES),
            "have the shape (train, query) = (5, 3); return them transposed, as (query, train)",
        ),
        (torch.ones(QUERIES, TRAIN - 1), "must have the shape (query, train) = (3, 5), got (3, 4)"),
        (torch.ones(QUERIES), "must have the shape (query, train) = (3, 5), got (3,)"),
        (torch.ones(QUERIES, TRAIN).log().log(), "15 of 15 scores are NaN or infinite"),
        (torch.ones(QUERIES, TRAIN).index_fill(0, torch.tensor(1), torch.nan), "5 of 15 scores are NaN or infinite"),
    ],
)
def test_scores_of_the_wrong_shape_or_not_finite_are_an_error(problem, unchecked_types, scores, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        _run(lambda _: scores, problem)


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (torch.ones(QUERIES, TRAIN).numpy(), "ndarray"),
        (torch.ones(QUERIES, TRAIN, dtype=torch.int64), "torch.int64"),
        (torch.ones(QUERIES, TRAIN, dtype=torch.bool), "torch.bool"),
        ([[1.0] * TRAIN] * QUERIES, "list"),
        (None, "NoneType"),
    ],
)
def test_scores_that_are_no_floating_point_tensor_are_an_error(problem, unchecked_types, scores, kind):
    with pytest.raises(TypeError, match=re.escape(f"must return a floating-point tensor, got {kind}")):
        _run(lambda _: scores, problem)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        lambda model: model[0].weight.data.mul_(1.001),
        lambda model: model[1].running_mean.add_(0.1),
        lambda model: model[1].num_batches_tracked.add_(1),
        lambda model: model.train(),
        lambda model: model[1].train(),
        lambda model: model[3].bias.requires_grad_(False),
        lambda model: model.__setitem__(0, nn.Identity()),
    ],
    ids=["parameter", "statistics", "counter", "mode", "mode of a layer", "requires_grad", "layer"],
)
def test_changing_a_model_is_an_error(problem, change, index):
    def behave(problem: Problem) -> Tensor:
        change(problem.models[index])
        return torch.ones(QUERIES, TRAIN)

    with pytest.raises(ValueError, match=re.escape(f"Plugin changed models[{index}]")):
        _run(behave, problem)


def _run(behave: Callable[[Problem], object], problem: Problem):
    return run_attributor(Plugin(behave), problem, generator=make_generator(0, "run"))
