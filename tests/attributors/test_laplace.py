import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from linear_losses import Linear, linear_loss
from torch import Tensor, nn
from walks import make_walker_on

from tdabench.attributors.base import Examples, LossFn
from tdabench.attributors.sampling.laplace import LocalCurvature, measure_curvature, posterior_variances, visit_draws
from tdabench.attributors.sampling.walker import Walker
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, quadratic_loss

# Of values of order one: the sums of ten products or so.
ROUNDING = {torch.float32: 5e-6, torch.float64: 1e-14}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draws", [4, 50])
def test_draws_have_exactly_the_mean_and_covariance_of_the_posterior(draws, dtype):
    curvature = _made_up_curvature(dtype)
    variances = torch.tensor([2.0, 0.5, 0.01], dtype=torch.float64)
    checkpoint = torch.linspace(-1, 1, 5, dtype=dtype)

    positions = _draw(Linear(checkpoint), curvature, variances, draws=draws)

    assert positions.dtype == dtype
    assert len(positions) == draws
    directions = (curvature.basis * curvature.scale).double()
    expected = directions.T @ variances.diag() @ directions
    atol = ROUNDING[dtype] * expected.max().item()
    torch.testing.assert_close(positions.double().T.cov(), expected, rtol=0, atol=atol)
    torch.testing.assert_close(positions.double().mean(dim=0), checkpoint.double(), rtol=0, atol=atol)


def test_quadratic_functions_of_the_draws_have_the_covariance_of_a_gaussian():
    # Not so for other designs with exact moments: a square of +1 and -1 has none.
    curvature = _made_up_curvature(torch.float64)
    variances, count = torch.tensor([2.0, 0.5, 0.01], dtype=torch.float64), 4000
    model = Linear(torch.zeros(5, dtype=torch.float64))
    squares = torch.eye(5, dtype=torch.float64)[:2] @ (curvature.basis * curvature.scale).T  # along two parameters

    measured = _draw(model, curvature, variances, draws=count)[:, :2].square().T.cov()

    covariance = squares @ variances.diag() @ squares.T
    expected = 2 * covariance.square()  # Isserlis
    # A covariance's standard error is the deviation of the centred squares' product over sqrt(count), here simulated.
    simulated = np.random.default_rng(0).multivariate_normal(np.zeros(2), covariance.numpy(), size=100_000) ** 2
    simulated -= simulated.mean(axis=0)
    tolerance = 4 * (simulated[:, :, None] * simulated[:, None]).std(axis=0) / math.sqrt(count)
    assert (np.abs((measured - expected).numpy()) < tolerance).all()
    assert (expected.diagonal().numpy() > 2 * tolerance.diagonal()).all()


def test_draws_are_the_same_for_the_same_generator_and_others_for_another():
    first, again, other = (
        _draw(Linear(torch.zeros(5)), _made_up_curvature(), torch.ones(3), draws=5, index=index) for index in (0, 0, 1)
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_too_few_draws_for_exact_moments_are_an_error():
    with pytest.raises(ValueError, match="Exact moments in 3 directions need at least 4 draws, got 3"):
        _draw(Linear(torch.zeros(5)), _made_up_curvature(), torch.ones(3), draws=3)


def test_given_model_is_left_as_it_was_and_frozen_parameters_do_not_move():
    frozen, moving = torch.tensor([7.0, 8.0]), torch.linspace(-1, 1, 5)
    model = Linear(frozen, moving).train()
    model.blocks[0].requires_grad_(False)

    draws = _draw(model, _made_up_curvature(), torch.ones(3), draws=5)

    assert all(torch.equal(draw[:2], frozen) for draw in draws)
    assert (draws[:, 2:] != moving).all()
    assert torch.equal(torch.cat([*model.blocks]), torch.cat([frozen, moving]))
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_signed_minibatch_gradients_have_the_fisher_as_their_second_moment():
    # Gradients are H_i (w* - c_i); the curvature of each of five runs gives back the mean of its 200 squares.
    generator = make_generator(0, "examples")
    factors = torch.randn(5, 3, 3, generator=generator)
    examples = {"centre": torch.randn(5, 3, generator=generator), "hessian": factors @ factors.mT}
    checkpoint = torch.tensor([1.0, -2.0, 0.5])

    runs = [
        measure_curvature(
            _walker(Quadratic(checkpoint), quadratic_loss, examples, batch_size=2, index=index),
            directions=200,
            metric_damping=0.1,
        )
        for index in range(5)
    ]

    measured = torch.stack([_second_moment(curvature) for curvature in runs]).mean(dim=0).numpy()
    gradients = torch.einsum("iab,ib->ia", examples["hessian"], checkpoint - examples["centre"]).double().numpy()
    # Every pair of examples with every relative sign is as likely.
    pairs = itertools.product(itertools.combinations(gradients, 2), (-1, 1))
    signed = np.stack([(first + sign * second) / math.sqrt(2) for (first, second), sign in pairs])
    tolerance = 4 * (signed[:, :, None] * signed[:, None]).std(axis=0) / math.sqrt(5 * 200)
    fisher = gradients.T @ gradients / 5
    assert (np.abs(measured - fisher) < tolerance).all()
    assert (fisher.diagonal() > 2 * tolerance.diagonal()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curvature_is_the_eigendecomposition_of_the_scaled_second_moment_of_its_gradients(dtype):
    slopes = torch.randn(50, 20, generator=make_generator(0, "examples"), dtype=dtype) * torch.linspace(0.1, 3, 20)
    slopes = slopes.to(dtype)
    model = Linear(torch.zeros(12, dtype=dtype), torch.zeros(8, dtype=dtype))

    curvature, gradients = _measure(model, slopes)

    moment = gradients.T @ gradients / 6
    diagonal = moment.diagonal()
    metric = torch.cat([part + 0.1 * part.mean() for part in (diagonal[:12], diagonal[12:])])
    scaled = moment / metric.sqrt() / metric.sqrt()[:, None]
    eigenvalues, vectors = torch.linalg.eigh(scaled)
    close = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-12}
    assert {field.dtype for field in (curvature.scale, curvature.basis)} == {dtype}
    torch.testing.assert_close(curvature.scale.double(), metric.rsqrt(), rtol=close["atol"], atol=0)
    basis = curvature.basis.double()
    torch.testing.assert_close(curvature.eigenvalues, eigenvalues[-6:], **close)
    torch.testing.assert_close(basis @ basis.T, torch.eye(6, dtype=torch.float64), **close)
    torch.testing.assert_close(basis.T @ basis, vectors[:, -6:] @ vectors[:, -6:].T, **close)
    torch.testing.assert_close(_second_moment(curvature), moment, **close)
    assert curvature.mean_eigenvalue == pytest.approx(scaled.trace().item() / 50, rel=1e-5)


def test_a_curvature_of_tokens_is_the_sum_over_tokens_in_the_space_that_examples_span():
    # Two of a row's three tokens cancel in its loss, and the third is small.
    slopes = torch.randn(40, 3, 6, generator=make_generator(0, "examples")) * torch.tensor([1.0, 1.0, 0.2])[:, None]
    slopes[:, 1] = -0.9 * slopes[:, 0]
    model, examples = Linear(torch.zeros(6)), {"slope": slopes}

    def token_loss(model: nn.Module, examples: Examples) -> Tensor:
        return model(examples["slope"].flatten(0, 1)).view(-1, 3)

    def row_loss(model: nn.Module, examples: Examples) -> Tensor:
        return token_loss(model, examples).sum(dim=1)

    def measure(**options) -> LocalCurvature:
        walker = _walker(model, row_loss, examples, batch_size=40)
        return measure_curvature(walker, directions=3000, metric_damping=0.1, **options)

    of_rows, of_tokens = measure(), measure(token_loss=token_loss)

    torch.testing.assert_close(of_tokens.scale, of_rows.scale)
    torch.testing.assert_close(of_tokens.basis @ of_tokens.basis.T, torch.eye(6), rtol=0, atol=1e-5)
    scaled = slopes * of_tokens.scale
    expected = torch.einsum("ntp,ntq->pq", scaled, scaled).double() / 40
    basis = of_tokens.basis.double()
    found = basis.T @ of_tokens.eigenvalues.diag() @ basis
    # A mean of 3,000 products of sums of 120 terms with random signs.
    assert (found - expected).norm() < 4 * expected.norm() * math.sqrt(6 / 3000)
    assert of_tokens.mean_eigenvalue == pytest.approx(expected.trace().item() / 6, rel=0.1)
    rows = of_rows.basis.double()
    assert (rows.T @ of_rows.eigenvalues.diag() @ rows - expected).norm() > 0.5 * expected.norm()


def test_linearly_dependent_gradients_give_as_many_directions_as_they_span():
    slopes = torch.randn(4, 20, generator=make_generator(0, "examples"))
    model = Linear(torch.zeros(20))

    curvature, _ = _measure(model, slopes, directions=60, batch_size=2)

    assert len(curvature.basis) == len(curvature.eigenvalues) == 4
    scaled = slopes * curvature.scale
    torch.testing.assert_close(scaled @ curvature.basis.T @ curvature.basis, scaled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_size", [5, 500])
def test_a_minibatch_is_never_larger_than_the_reference_set(batch_size):
    # Every example moves a parameter of its own: with all of them in each minibatch no square is lost to chance.
    heights = torch.tensor([3.0, -1.0, 0.5, 2.0, 0.1])

    curvature, _ = _measure(Linear(torch.zeros(5)), heights.diag(), directions=20, batch_size=batch_size)

    torch.testing.assert_close(_second_moment(curvature).diagonal().float(), heights.square() / 5)


def test_a_tensor_that_no_loss_depends_on_does_not_move():
    slopes = torch.randn(10, 8, generator=make_generator(0, "examples"))
    slopes[:, 5:] = 0
    model = Linear(torch.zeros(5), torch.full((3,), 7.0))

    curvature, _ = _measure(model, slopes)

    assert torch.equal(curvature.scale == 0, torch.tensor([False] * 5 + [True] * 3))
    draws = _draw(model, curvature, torch.ones(len(curvature.basis)), draws=7)
    assert (draws[:, :5] != 0).all()
    assert (draws[:, 5:] == 7).all()


def test_frozen_parameters_have_no_curvature():
    slopes = torch.randn(10, 8, generator=make_generator(0, "examples"))
    model = Linear(torch.zeros(5), torch.zeros(3))
    model.blocks[0].requires_grad_(False)

    curvature, gradients = _measure(model, slopes)

    assert curvature.basis.shape == (3, 3)
    moment = gradients[:, 5:].T @ gradients[:, 5:] / 6
    torch.testing.assert_close(_second_moment(curvature), moment, rtol=0, atol=1e-5)


def test_measuring_leaves_the_model_as_it_was():
    with isolated_random_state(make_generator(0, "model")):
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examples = {"slope": torch.randn(6, 4, generator=make_generator(0, "examples"))}

    walker = _walker(model, lambda model, part: model(part["slope"]).sum(dim=1), examples, batch_size=8)
    measure_curvature(walker, directions=6, metric_damping=0.1)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("slope", "message"),
    [
        (0.0, "Every gradient at the checkpoint is zero"),
        (math.nan, "A gradient at the checkpoint is not finite"),
        (math.inf, "A gradient at the checkpoint is not finite"),
    ],
)
def test_gradients_without_a_curvature_are_an_error(slope, message):
    with pytest.raises(ValueError, match=message):
        _measure(Linear(torch.zeros(3)), torch.full((10, 3), slope))


def test_variances_are_the_inverse_precisions_at_the_temperature_of_the_amplitude():
    made_up = _made_up_curvature()
    eigenvalues = torch.tensor([1.0, 3.0], dtype=torch.float64)
    curvature = dataclasses.replace(made_up, basis=made_up.basis[:2], eigenvalues=eigenvalues, mean_eigenvalue=0.5)

    variances = posterior_variances(curvature, localization=2.0, amplitude=0.1)

    # Precisions 2 and 4; n beta = (1/2 + 3/4) / 0.01 = 125.
    torch.testing.assert_close(variances, torch.tensor([1 / 250, 1 / 500], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("localization", [0.01, 1.0, 1e6])
def test_amplitude_is_the_root_mean_square_change_of_a_reference_loss(localization):
    slopes = torch.randn(30, 5, generator=make_generator(0, "examples"), dtype=torch.float64)
    scale = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    eigenvalues, vectors = torch.linalg.eigh((slopes * scale).T @ (slopes * scale) / 30)
    curvature = LocalCurvature(
        scale=scale,
        basis=vectors.T.contiguous(),
        eigenvalues=eigenvalues,
        mean_eigenvalue=eigenvalues.sum().item() / 30,
    )
    model = Linear(torch.linspace(-1, 1, 5, dtype=torch.float64))

    variances = posterior_variances(curvature, localization=localization, amplitude=0.03)
    losses = _draw(model, curvature, variances, draws=8) @ slopes.T

    mean_square = (losses - model(slopes).detach()).square().sum(dim=0).mean().item() / (8 - 1)
    assert math.sqrt(mean_square) == pytest.approx(0.03, rel=1e-9)


def _made_up_curvature(dtype: torch.dtype = torch.float32) -> LocalCurvature:
    """Make three directions of five parameters."""
    generator = make_generator(0, "curvature")
    basis = torch.linalg.qr(torch.randn(5, 3, generator=generator, dtype=torch.float64)).Q.T
    scale = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    eigenvalues = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    return LocalCurvature(
        scale=scale.to(dtype), basis=basis.to(dtype).contiguous(), eigenvalues=eigenvalues, mean_eigenvalue=0.7
    )


def _walker(model: nn.Module, loss: LossFn, examples: Examples, *, batch_size: int, index: int = 0) -> Walker:
    return make_walker_on(model, loss, examples, batch_size=batch_size, generator=make_generator(0, "curvature", index))


def _draw(model: Linear, curvature: LocalCurvature, variances: Tensor, *, draws: int, index: int = 0) -> Tensor:
    """Return all parameters, frozen ones too, at draws."""
    generator = make_generator(0, "draws", index)
    walker = make_walker_on(model, linear_loss, {"slope": torch.zeros(1, 1)}, batch_size=1, generator=generator)
    step = visit_draws(walker, curvature, variances, draws=draws)
    return torch.stack([torch.cat([*walker.model.blocks]).detach() for _ in range(draws) if step().isnan()])


def _measure(
    model: Linear, slopes: Tensor, *, directions: int = 6, batch_size: int = 8
) -> tuple[LocalCurvature, Tensor]:
    """Return the curvature, and the signed gradients that it came from, made from the weights of the losses."""
    gradients = []

    def loss(model: nn.Module, examples: Examples) -> Tensor:
        losses = linear_loss(model, examples)
        if losses.requires_grad:
            losses.register_hook(lambda weights: gradients.append((weights @ examples["slope"]).double()))
        return losses

    walker = _walker(model, loss, {"slope": slopes}, batch_size=batch_size)
    return measure_curvature(walker, directions=directions, metric_damping=0.1), torch.stack(gradients)


def _second_moment(curvature: LocalCurvature) -> Tensor:
    """Return back the mean of the squares of the gradients that a curvature came from."""
    directions = curvature.basis.double() / curvature.scale.double()
    return directions.T @ curvature.eigenvalues.diag() @ directions
