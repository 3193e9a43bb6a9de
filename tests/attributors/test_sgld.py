import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tdabench.attributors.sampling.sgld import sample_chain
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, quadratic_loss


def test_position_has_the_exact_stationary_covariance_with_the_bias_of_the_step_size():
    # A = n*beta*H + gamma*I has the eigenvalues 2.3 and 3.5, so that eps*A is 1.61 and 2.45: far from the limit of
    # small steps (there S = A^-1), and successive positions have the correlations 1 - eps*A/2 = 0.195 and -0.225.
    inverse_temperature, localization, step_size, steps = 2.0, 0.7, 0.7, 4000
    turn = _rotation(0.5)
    hessian = turn @ torch.diag(torch.tensor([0.8, 1.4])) @ turn.T
    checkpoint = torch.tensor([1.0, -2.0])
    examples = {"centre": checkpoint.repeat(3, 1), "hessian": hessian.repeat(3, 1, 1)}
    chain = sample_chain(
        Quadratic(checkpoint),
        quadratic_loss,
        examples,
        steps=steps,
        step_size=step_size,
        inverse_temperature=inverse_temperature,
        localization=localization,
        batch_size=3,
        generator=make_generator(0, "chain"),
    )

    positions = torch.stack([step.model.position.detach().clone() for step in chain]).double()

    precision = (inverse_temperature * hessian + localization * torch.eye(2)).double()
    eye = torch.eye(2, dtype=torch.float64)
    expected = precision.inverse() @ (eye - step_size * precision / 4).inverse()
    # A product of two Gaussians has the variance S_aa S_bb + S_ab^2; its autocorrelation is at most 0.225^2 = 0.05,
    # so that a draw is worth (1 - 0.05) / (1 + 0.05) > 0.9 draws.
    diagonal = expected.diagonal()
    standard_error = ((diagonal[:, None] * diagonal + expected.square()) / (0.9 * steps)).sqrt()
    assert ((positions.T.cov() - expected).abs() < 4 * standard_error).all()
    # The autocorrelation lengthens the mean's standard error by sqrt((1 + 0.195) / (1 - 0.195)) < 1.25.
    assert ((positions.mean(dim=0) - checkpoint).abs() < 4 * 1.25 * (diagonal / steps).sqrt()).all()


def test_minibatches_widen_the_stationary_variance_by_their_gradient_noise():
    # One parameter, curvature 1, centres +1 and -1: a minibatch of one has a gradient with variance 1, so that
    # each step's noise is eps + (eps * n*beta / 2)^2. (Without replacement a batch of both has none.)
    inverse_temperature, localization, step_size, steps = 3.0, 1.0, 0.4, 4000
    examples = {"centre": torch.tensor([[1.0], [-1.0]]), "hessian": torch.ones(2, 1, 1)}
    chain = sample_chain(
        Quadratic(torch.zeros(1)),
        quadratic_loss,
        examples,
        steps=steps,
        step_size=step_size,
        inverse_temperature=inverse_temperature,
        localization=localization,
        batch_size=1,
        generator=make_generator(0, "chain"),
    )

    positions = torch.stack([step.model.position.detach().clone() for step in chain]).double()

    precision = inverse_temperature + localization
    noise = 1 + step_size * inverse_temperature**2 / 4
    expected = noise / (precision * (1 - step_size * precision / 4))
    # Successive positions have the correlation 1 - eps*A/2 = 0.2, their squares at most 0.04; the kurtosis is at most
    # the Gaussian's, since a coin's is lower: the variance's standard error is below expected * sqrt(2 * 1.1 / steps).
    assert positions.var().item() == pytest.approx(expected, abs=4 * expected * math.sqrt(2.2 / steps))


def test_chain_is_the_same_for_the_same_generator_and_another_for_another():
    first, again, other = (_last_position(make_generator(0, "chain", index)) for index in (0, 0, 1))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_frozen_parameters_and_batch_norm_statistics_do_not_move():
    model = _small_network()
    model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    moved = _sample_last(model)

    unmoved = {name for name, value in moved.state_dict().items() if torch.equal(value, before[name])}
    assert unmoved == {"0.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not moved.training


def test_given_model_is_left_as_it_was():
    model = _small_network().train()
    model[0].bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    _sample_last(model)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["0.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_sampling_a_wholly_frozen_model_is_an_error():
    model = _small_network().requires_grad_(False)

    with pytest.raises(ValueError, match="Sampling needs parameters that require a gradient"):
        _sample_last(model)


def _rotation(angle: float) -> torch.Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _last_position(generator: torch.Generator) -> torch.Tensor:
    examples = {"centre": torch.arange(8.0)[:, None], "hessian": torch.ones(8, 1, 1)}
    settings = {"steps": 5, "step_size": 0.1, "inverse_temperature": 1.0, "localization": 1.0, "batch_size": 2}
    chain = sample_chain(Quadratic(torch.zeros(1)), quadratic_loss, examples, **settings, generator=generator)
    return [step.model.position.detach().clone() for step in chain][-1]


def _small_network() -> nn.Sequential:
    with isolated_random_state(make_generator(0, "network")):
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def _sample_last(model: nn.Module) -> nn.Module:
    generator = make_generator(0, "examples")
    examples = {"image": torch.randn(6, 1, 4, 4, generator=generator), "label": torch.arange(6) % 3}
    settings = {"steps": 3, "step_size": 1e-3, "inverse_temperature": 10.0, "localization": 1.0, "batch_size": 4}
    *_, last = sample_chain(model, _cross_entropy, examples, **settings, generator=generator)
    return last.model


def _cross_entropy(model: nn.Module, examples: dict[str, torch.Tensor]) -> torch.Tensor:
    return functional.cross_entropy(model(examples["image"]), examples["label"], reduction="none")
