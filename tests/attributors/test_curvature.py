import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from tdabench.attributors.calibration.curvature import Landscape, find_spectrum
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, make_image_problem, quadratic_loss


def test_the_ends_of_the_spectrum_are_those_of_the_whole_hessian(tmp_path):
    problem = _small_problem(tmp_path)
    hessian = _whole_hessian(problem)
    landscape = Landscape(problem.models[0], problem.loss, problem.train, batch_size=7)

    spectrum, top = _spectrum(landscape.hessian_product, landscape, tolerance=1e-4)

    values = torch.linalg.eigvalsh(hessian)
    # Losses in float32: the Hessian's entries have relative errors of some 1e-6.
    assert spectrum.largest == pytest.approx(values[-1].item(), rel=1e-4)
    assert spectrum.smallest == pytest.approx(values[0].item(), abs=0.02 * values[-1].item())
    assert spectrum.converged
    assert spectrum.products < len(values)
    torch.testing.assert_close(hessian @ top.double(), values[-1] * top.double(), rtol=0, atol=1e-3 * values[-1].item())


def test_the_spectrum_in_a_metric_is_that_of_the_preconditioned_hessian(tmp_path):
    problem = _small_problem(tmp_path)
    hessian = _whole_hessian(problem)
    metric = torch.rand(len(hessian), generator=make_generator(0, "metric")) + 0.1
    landscape = Landscape(problem.models[0], problem.loss, problem.train, batch_size=50, metric=metric)

    spectrum, _ = _spectrum(landscape.hessian_product, landscape, tolerance=1e-4)

    root = metric.double().sqrt()
    expected = torch.linalg.eigvalsh(root[:, None] * hessian * root)[-1].item()
    assert spectrum.largest == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=0.1)


def test_the_spectrum_of_a_quadratic_loss_is_exact_once_its_space_is_exhausted():
    hessian = torch.diag(torch.tensor([-2.0, 0.5, 3.0]))
    examples = {"centre": torch.ones(4, 3), "hessian": hessian.repeat(4, 1, 1)}
    landscape = Landscape(Quadratic(torch.zeros(3)), quadratic_loss, examples, batch_size=4)

    spectrum, top = _spectrum(landscape.hessian_product, landscape, tolerance=1e-9)

    assert (spectrum.smallest, spectrum.largest) == pytest.approx((-2, 3), rel=1e-5)
    assert (spectrum.products, spectrum.residual) == (3, 0)
    assert top.abs().tolist() == pytest.approx([0, 0, 1], abs=1e-3)


def test_a_bound_on_the_products_leaves_an_eigenvalue_that_is_known_within_its_residual(tmp_path):
    problem = _small_problem(tmp_path)
    exact = torch.linalg.eigvalsh(_whole_hessian(problem))
    landscape = Landscape(problem.models[0], problem.loss, problem.train, batch_size=50)

    start = landscape.random_direction(make_generator(0, "start"))
    spectrum, _ = find_spectrum(landscape.hessian_product, start, tolerance=1e-9, most_products=3)

    assert not spectrum.converged
    assert spectrum.products == 3
    assert (exact - spectrum.largest).abs().min().item() <= spectrum.residual * 1.001


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return inputs @ self.slope

    examples = {"inputs": torch.eye(2)}
    landscape = Landscape(Linear(), lambda model, part: model(part["inputs"]), examples, batch_size=2)

    spectrum, _ = _spectrum(landscape.hessian_product, landscape, tolerance=1e-3)

    assert (spectrum.smallest, spectrum.largest) == (0, 0)
    assert landscape.gradient().tolist() == [0.5, 0.5]


def test_the_noise_of_minibatches_is_the_exact_variance_of_means_without_replacement():
    # Gradients -c_i and Hessians h_i * I at the origin, of 12 examples; minibatches of 5.
    numbers = np.random.default_rng(0)
    centres, curvatures = numbers.normal(size=(12, 3)), numbers.uniform(1, 2, size=12)
    hessians = curvatures[:, None, None] * np.eye(3)
    examples = {"centre": torch.tensor(centres).float(), "hessian": torch.tensor(hessians).float()}
    landscape = Landscape(Quadratic(torch.zeros(3)), quadratic_loss, examples, batch_size=4)
    direction = torch.tensor([0.6, 0.0, 0.8])

    noise = landscape.minibatch_noise(direction, batch_size=5, population=12)

    share = (1 - 5 / 12) / 5
    gradients = -curvatures[:, None] * centres
    assert noise.along == pytest.approx(share * (gradients @ direction.numpy()).var(ddof=1), rel=1e-5)
    assert noise.mean == pytest.approx(share * gradients.var(axis=0, ddof=1).sum() / 3, rel=1e-5)
    assert noise.curvature == pytest.approx(share * curvatures.var(ddof=1), rel=1e-4)


@pytest.mark.parametrize("at_once", [128, 3])
def test_the_noise_of_minibatches_is_unbiased_from_groups_of_examples(at_once):
    # 1,280 examples are measured in 64 groups of 20, whose means spread as those of any 20 examples.
    centres = 2 * torch.randn(1280, 1, generator=make_generator(0, "centres"))
    examples = {"centre": centres, "hessian": torch.ones(1280, 1, 1)}
    sizes = set()

    def loss(model, part):
        sizes.add(len(part["centre"]))
        return quadratic_loss(model, part)

    landscape = Landscape(Quadratic(torch.zeros(1)), loss, examples, batch_size=at_once)

    noise = landscape.minibatch_noise(torch.ones(1), batch_size=10, population=1280)
    assert max(sizes) == at_once

    expected = centres.var().item() / 10 * (1 - 10 / 1280)
    # A variance of 64 numbers has the relative standard error sqrt(2 / 63).
    assert noise.along == pytest.approx(expected, rel=4 * math.sqrt(2 / 63))
    assert noise.mean == pytest.approx(noise.along)


@pytest.mark.parametrize(("batch_size", "population"), [(4, 4), (9, 4)])
def test_a_minibatch_of_everything_has_no_noise(batch_size, population):
    examples = {"centre": torch.arange(4.0)[:, None], "hessian": torch.ones(4, 1, 1)}
    landscape = Landscape(Quadratic(torch.zeros(1)), quadratic_loss, examples, batch_size=2)

    noise = landscape.minibatch_noise(torch.ones(1), batch_size=batch_size, population=population)

    assert (noise.along, noise.mean, noise.curvature) == (0, 0, 0)


def test_a_model_without_parameters_that_move_is_an_error():
    model = Quadratic(torch.zeros(1)).requires_grad_(False)
    examples = {"centre": torch.zeros(1, 1), "hessian": torch.ones(1, 1, 1)}

    with pytest.raises(ValueError, match="needs parameters that require a gradient"):
        Landscape(model, quadratic_loss, examples, batch_size=1)


def test_a_loss_that_is_not_finite_is_an_error():
    examples = {"centre": torch.tensor([[0.0], [math.nan]]), "hessian": torch.ones(2, 1, 1)}

    with pytest.raises(ValueError, match=re.escape("loss is NaN or infinite on 1 of 2 reference examples")):
        Landscape(Quadratic(torch.zeros(1)), quadratic_loss, examples, batch_size=1)


def test_a_derivative_that_is_not_finite_is_an_error():
    examples = {"centre": torch.zeros(2, 1), "hessian": torch.ones(2, 1, 1)}
    landscape = Landscape(
        Quadratic(torch.zeros(1)), lambda model, part: model(part["centre"])[:, 0].abs().sqrt(), examples, batch_size=2
    )

    with pytest.raises(ValueError, match="1 of 1 derivatives of the loss at the checkpoint are NaN or infinite"):
        landscape.gradient()


def _spectrum(product, landscape, *, tolerance):
    start = landscape.random_direction(make_generator(0, "start"))
    return find_spectrum(product, start, tolerance=tolerance, most_products=60)


def _small_problem(workspace):
    problem = make_image_problem(workspace, num_train=50, num_query=4, num_models=0, width=2)
    with isolated_random_state(make_generator(0, "model")):
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 4)
        )
    model = model.to(memory_format=torch.channels_last).eval()
    model[0].bias.requires_grad_(False)
    return dataclasses.replace(problem, models=(model,))


def _whole_hessian(problem):
    """Differentiate twice by autograd, in float64, over all parameters that move at once."""
    model = problem.models[0]
    moving = {name: value.detach().double() for name, value in model.named_parameters() if value.requires_grad}
    fixed = {name: value.detach().double() for name, value in model.state_dict().items() if name not in moving}
    images, labels = problem.train["image"].double(), problem.train["label"]

    def mean_loss(vector):
        parts = vector.split([value.numel() for value in moving.values()])
        named = {name: part.view(value.shape) for part, (name, value) in zip(parts, moving.items(), strict=True)}
        logits = functional_call(model, {**fixed, **named}, (images,))
        return nn.functional.cross_entropy(logits, labels)

    start = torch.cat([value.flatten() for value in moving.values()])
    return torch.autograd.functional.hessian(mean_loss, start)
