import dataclasses
import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, Unsupported
from tdabench.attributors.trak import TRAK
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, make_image_problem, quadratic_loss
from tdabench.training.losses import image_loss, image_loss_and_margin


@pytest.mark.parametrize("regularization", [0.0, 5.0])
def test_scores_equal_the_written_out_formula(tmp_path, example_gradients, regularization):
    problem = _linear_problem(tmp_path)
    method = TRAK(proj_dim=110, batch_size=64, regularization=regularization)

    scores = method.attribute(problem, generator=make_generator(0, "trak"))

    expected = _score_by_formula(problem, method, make_generator(0, "trak"), example_gradients)
    # float32, and the inverse of a Gram matrix with a condition number of some 10^4: 10^4 * 6e-8 < 1e-3.
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_only_the_asked_number_of_checkpoints_is_used(tmp_path):
    problem = _linear_problem(tmp_path / "both")
    first = dataclasses.replace(problem, models=problem.models[:1], workspace=tmp_path / "first")

    one, alone, both = (
        method.attribute(chosen, generator=make_generator(0, "trak"))
        for method, chosen in (
            (TRAK(proj_dim=110, checkpoints=1), problem),
            (TRAK(proj_dim=110), first),
            (TRAK(proj_dim=110), dataclasses.replace(problem, workspace=tmp_path / "all")),
        )
    )

    assert torch.equal(one, alone)
    assert not torch.equal(one, both)


def test_projection_has_half_as_many_dimensions_as_training_examples_by_default(tmp_path):
    problem = _linear_problem(tmp_path / "default")

    default, half = (
        method.attribute(dataclasses.replace(problem, workspace=tmp_path / name), generator=make_generator(0, "trak"))
        for name, method in {"default": TRAK(), "half": TRAK(proj_dim=150)}.items()
    )

    assert torch.equal(default, half)


def test_frozen_parameters_are_left_out(tmp_path, example_gradients):
    problem = _linear_problem(tmp_path)
    for model in problem.models:
        model[1].bias.requires_grad_(False)
    method = TRAK(proj_dim=110, batch_size=64)

    scores = method.attribute(problem, generator=make_generator(0, "trak"))

    expected = _score_by_formula(problem, method, make_generator(0, "trak"), example_gradients)
    torch.testing.assert_close(scores.double(), expected, rtol=0, atol=1e-3 * expected.abs().max().item())


def test_projection_is_drawn_from_the_generator(tmp_path):
    problem = _linear_problem(tmp_path)

    first, again, other = (
        TRAK(proj_dim=110).attribute(
            dataclasses.replace(problem, workspace=tmp_path / f"{run}"), generator=make_generator(0, "trak", index)
        )
        for run, index in enumerate((0, 0, 1))
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_root_logger_is_left_as_it_was(tmp_path):
    problem = _linear_problem(tmp_path)
    root = logging.getLogger()
    captured, level = root.handlers[:], root.level
    root.handlers.clear()  # pytest's own, without which basicConfig adds one
    try:
        TRAK(proj_dim=110).attribute(problem, generator=make_generator(0, "trak"))

        assert root.handlers == []
        assert root.level == level
    finally:
        root.handlers[:] = captured


@pytest.mark.parametrize("proj_dim", [300, 512])
def test_a_projection_as_large_as_the_training_set_is_unsupported(tmp_path, proj_dim):
    problem = _linear_problem(tmp_path)

    with pytest.raises(
        Unsupported,
        match=re.escape(f"above 100 and below the number of training examples (300), got {proj_dim}"),
    ):
        TRAK(proj_dim=proj_dim).attribute(problem, generator=make_generator(0, "trak"))


def test_too_few_training_examples_for_half_as_many_dimensions_are_unsupported(tmp_path):
    problem = make_image_problem(tmp_path)  # 144 training examples

    with pytest.raises(Unsupported, match=re.escape("above 100 and below the number of training examples (144)")):
        TRAK().attribute(problem, generator=make_generator(0, "trak"))


def test_more_checkpoints_than_there_are_is_unsupported(tmp_path):
    problem = _linear_problem(tmp_path)

    with pytest.raises(Unsupported, match=re.escape("TRAK is asked for 3 checkpoints and there are 2")):
        TRAK(proj_dim=110, checkpoints=3).attribute(problem, generator=make_generator(0, "trak"))


def test_examples_other_than_labelled_images_are_unsupported(tmp_path):
    examples = {"centre": torch.zeros(300, 2), "hessian": torch.eye(2).repeat(300, 1, 1)}
    problem = Problem(
        models=(Quadratic(torch.zeros(2)),),
        loss=quadratic_loss,
        train=examples,
        query=examples,
        reference=examples,
        workspace=tmp_path,
    )

    with pytest.raises(Unsupported, match="needs image and label, or input_ids and labels, got centre, hessian"):
        TRAK(proj_dim=110).attribute(problem, generator=make_generator(0, "trak"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"proj_dim": 100}, "proj_dim must be above 100 (traker's projector breaks otherwise), got 100"),
        ({"checkpoints": 0}, "checkpoints must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"regularization": -1.0}, "regularization must be at least 0, got -1.0"),
    ],
)
def test_a_setting_out_of_range_is_an_error(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TRAK(**setting)


def _linear_problem(workspace: Path) -> Problem:
    """Make two linear classifiers: 5 classes, 64 pixels, 300 training examples and 10 queries."""
    generator = make_generator(0, "linear")
    models = []
    for _ in range(2):
        with isolated_random_state(generator):
            models.append(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval())
    train, query = (
        {
            "image": torch.randn(count, 1, 8, 8, generator=generator),
            "label": torch.randint(5, (count,), generator=generator),
        }
        for count in (300, 10)
    )
    workspace.mkdir(exist_ok=True)
    return Problem(
        models=tuple(models), loss=image_loss, train=train, query=query, reference=train, workspace=workspace
    )


def _score_by_formula(problem: Problem, method: TRAK, generator: torch.Generator, example_gradients) -> Tensor:
    """Compute mean_c(q_c^T (X_c^T X_c + rI)^-1 X_c^T) * mean_c(1 - p_c), as traker scales it.

    X_c and q_c are gradients of the margin, projected by a matrix of their checkpoint and divided by the square root of
    the number of parameters; traker divides the inverse by the mean of its entries' absolute values.
    """
    seed = int(torch.randint(2**20, (), generator=generator).item())
    products, doubts = [], []
    for index, model in enumerate(problem.models):
        train, query = (
            _project(example_gradients(model, _margin, examples), method.proj_dim, seed, index)
            for examples in (problem.train, problem.query)
        )
        ridge = method.regularization * torch.eye(method.proj_dim, dtype=torch.float64)
        inverse = (train.T @ train + ridge).inverse()
        products.append(query @ (inverse / inverse.abs().mean()) @ train.T)
        doubts.append(1 - (-image_loss(model, problem.train).double()).exp())
    return torch.stack(products).mean(dim=0) * torch.stack(doubts).mean(dim=0).detach()


def _margin(model: nn.Module, examples: Examples) -> Tensor:
    return image_loss_and_margin(model, examples)[1]


def _project(gradients: Tensor, proj_dim: int, seed: int, checkpoint: int) -> Tensor:
    from trak.projectors import BasicProjector, ProjectionType

    projector = BasicProjector(
        grad_dim=gradients.shape[1],
        proj_dim=proj_dim,
        seed=seed,
        proj_type=ProjectionType.normal,
        device="cpu",
        model_id=checkpoint,
    )
    return projector.project(gradients.float(), model_id=checkpoint).double() / gradients.shape[1] ** 0.5
