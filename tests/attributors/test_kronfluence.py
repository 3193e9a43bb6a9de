import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors.adapters import kronfluence_layers
from tdabench.attributors.base import Examples, Problem, Unsupported, copy_model, take
from tdabench.attributors.kronfluence import Kronfluence
from tdabench.attributors.running.run import AttributionWarning
from tdabench.seeds import isolated_random_state, make_generator
from tdabench.testing import Quadratic, make_image_problem, quadratic_loss
from tdabench.training.losses import image_loss


def test_identity_gives_gradient_dot_products(tmp_path, example_gradients):
    problem = make_image_problem(tmp_path, num_train=30, num_query=8)  # convolution and head, both with biases

    scores = Kronfluence(strategy="identity").attribute(problem, generator=make_generator(0, "kronfluence"))

    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    expected = query @ train.T
    # float32 sums of some 200 products.
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


class _Thrice(nn.Sequential):
    """Calls its second layer three times."""

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self[0](inputs.flatten(1)).relu()
        for _ in range(3):
            hidden = self[1](hidden).relu() + hidden
        return self[2](hidden)


class _Unused(nn.Sequential):
    """Never calls its last layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        return self[1](self[0](inputs.flatten(1)).relu())


def _unusual_model(fault: str) -> nn.Module:
    with isolated_random_state(make_generator(0, fault)):
        first, second, head = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        if fault == "thrice":
            return _Thrice(first, second, head).eval()
        if fault == "unused":
            return _Unused(first, head, second).eval()
        if fault == "tied":
            third = nn.Linear(8, 8)
            third.weight = second.weight
            return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), head).eval()
        convolutions = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4)
        return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 4)).eval()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("thrice", "left out of the layers: 1 (called 3 times in a pass); 89% of the trained parameters are tracked"),
        ("unused", "left out of the layers: 2 (without a gradient); 89% of the trained parameters are tracked"),
        ("tied", "left out of the layers: 3 (its parameters are another module's too), 5 (its parameters are another"),
        ("grouped", "left out of the layers: 2 (a convolution in 4 groups); 88% of the trained parameters are tracked"),
    ],
)
def test_layers_that_kronfluence_computes_wrongly_are_left_out_and_named(tmp_path, example_gradients, fault, told):
    problem = dataclasses.replace(
        make_image_problem(tmp_path, num_train=12, num_query=5), models=(_unusual_model(fault),)
    )

    with pytest.warns(AttributionWarning, match=re.escape(told)):
        scores = Kronfluence(strategy="identity").attribute(problem, generator=make_generator(0, "kronfluence"))

    left_out = re.findall(r"(\d) \(", told)
    for name in left_out:
        problem.models[0].get_submodule(name).requires_grad_(False)
    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    expected = query @ train.T
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_a_model_of_nothing_but_such_layers_is_not_supported(tmp_path):
    problem = dataclasses.replace(make_image_problem(tmp_path), models=(_unusual_model("grouped"),))
    problem.models[0][0].requires_grad_(False)
    problem.models[0][4].requires_grad_(False)

    with pytest.raises(Unsupported, match=re.escape("inside a model besides 2 (a convolution in 4 groups).")):
        Kronfluence(strategy="ekfac").attribute(problem, generator=make_generator(0, "kronfluence"))


def test_products_of_gradients_that_differ_from_those_of_autograd_are_an_error(tmp_path, monkeypatch):
    # Were the probe to miss a layer that is called three times, the scores would be wrong by a quarter.
    monkeypatch.setattr(kronfluence_layers, "_find_faults", lambda problem, names: iter(()))
    problem = dataclasses.replace(make_image_problem(tmp_path), models=(_unusual_model("thrice"),))

    with pytest.raises(ValueError, match=r"differ from autograd's by 0\.\d+ of their size: .*layers 0, 1, 2"):
        Kronfluence(strategy="ekfac").attribute(problem, generator=make_generator(0, "kronfluence"))


@pytest.mark.parametrize("strategy", ["ekfac", "kfac"])
@pytest.mark.parametrize("damping", [0.05, None])
def test_factored_influence_is_exact_where_the_hessian_is_a_kronecker_product(
    tmp_path, example_gradients, strategy, damping
):
    problem = _uniform_problem(tmp_path)

    scores = Kronfluence(strategy=strategy, damping=damping).attribute(problem, generator=make_generator(0, "fisher"))

    hessian = _fisher(problem.reference)
    expected = _influence(problem, example_gradients, hessian, damping)
    # float32 gradients and preconditioning; the damped Hessian's condition number is below 100.
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_diagonal_influence_uses_the_diagonal_of_the_mean_fisher(tmp_path, example_gradients):
    problem = _uniform_problem(tmp_path)

    scores = Kronfluence(strategy="diagonal", damping=0.05).attribute(problem, generator=make_generator(0, "fisher"))

    hessian = _fisher(problem.reference).diagonal().diag()
    expected = _influence(problem, example_gradients, hessian, 0.05)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_scores_equal_those_of_kronfluence_called_directly(tmp_path):
    problem = _soften(make_image_problem(tmp_path, num_train=48, num_query=8))
    problem = dataclasses.replace(problem, reference=take(problem.train, slice(40)))
    method = Kronfluence(strategy="ekfac", damping=0.1, fit_batch_size=16, train_batch_size=20, query_batch_size=5)

    scores = method.attribute(problem, generator=make_generator(0, "ekfac"))

    with isolated_random_state(make_generator(0, "ekfac")):
        expected = _score_directly(problem, method)
        other_labels = _score_directly(problem, method)
    # float32 rounding of batches that lie otherwise in memory; other labels of the Fisher make a larger difference.
    tolerance = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerance)
    assert (scores - other_labels).abs().max() > 100 * tolerance


def test_labels_of_the_fisher_are_drawn_from_the_generator(tmp_path):
    problem = _soften(make_image_problem(tmp_path, num_train=24, num_query=4))
    method = Kronfluence(strategy="ekfac", damping=1e-3)

    first, again, other = (
        method.attribute(
            dataclasses.replace(problem, workspace=tmp_path / f"{run}"), generator=make_generator(0, "labels", index)
        )
        for run, index in enumerate((0, 0, 1))
    )

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_frozen_layers_are_left_out(tmp_path, example_gradients):
    problem = make_image_problem(tmp_path, num_train=12, num_query=4)
    problem.models[0][0].requires_grad_(False)

    scores = Kronfluence(strategy="identity").attribute(problem, generator=make_generator(0, "kronfluence"))

    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    assert train.shape == (12, 36 * 4 + 4)  # the head's weight and bias
    torch.testing.assert_close(scores.double(), query @ train.T, rtol=1e-4, atol=1e-4)


def test_problem_is_left_as_it_was(tmp_path):
    problem = make_image_problem(tmp_path, num_train=12, num_query=4)
    model = problem.models[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}

    Kronfluence(strategy="ekfac").attribute(problem, generator=make_generator(0, "kronfluence"))

    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert [type(module) for module in model] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Linear]
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_a_model_without_linear_or_convolution_is_unsupported(tmp_path):
    problem = make_image_problem(tmp_path, num_train=12, num_query=4)
    norms = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)).eval()

    with pytest.raises(Unsupported, match=re.escape("needs trained nn.Linear or nn.Conv2d layers")):
        Kronfluence(strategy="ekfac").attribute(
            dataclasses.replace(problem, models=(norms,)), generator=make_generator(0, "kronfluence")
        )


def test_a_wholly_frozen_model_is_unsupported(tmp_path):
    problem = make_image_problem(tmp_path, num_train=12, num_query=4)
    problem.models[0].requires_grad_(False)

    with pytest.raises(Unsupported, match=re.escape("needs trained nn.Linear or nn.Conv2d layers")):
        Kronfluence(strategy="ekfac").attribute(problem, generator=make_generator(0, "kronfluence"))


def test_examples_other_than_labelled_images_are_unsupported(tmp_path):
    examples = {"centre": torch.zeros(3, 2), "hessian": torch.eye(2).repeat(3, 1, 1)}
    problem = Problem(
        models=(Quadratic(torch.zeros(2)),),
        loss=quadratic_loss,
        train=examples,
        query=examples,
        reference=examples,
        workspace=tmp_path,
    )

    with pytest.raises(Unsupported, match="needs image and label, or input_ids and labels, got centre, hessian"):
        Kronfluence(strategy="ekfac").attribute(problem, generator=make_generator(0, "kronfluence"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"strategy": "newton"}, "strategy must be ekfac, kfac, diagonal or identity, got 'newton'"),
        ({"damping": -1e-3}, "damping must be at least 0 or null, got -0.001"),
        ({"damping": float("nan")}, "damping must be at least 0 or null, got nan"),
        ({"fit_batch_size": 0}, "fit_batch_size must be at least 1, got 0"),
        ({"train_batch_size": 0}, "train_batch_size must be at least 1, got 0"),
        ({"query_batch_size": 0}, "query_batch_size must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_an_error(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Kronfluence(**{"strategy": "ekfac", **setting})


def _soften(problem: Problem) -> Problem:
    """Make the first model unsure, so that the labels which it samples vary."""
    problem.models[0][-1].weight.data.mul_(0.1)
    return problem


def _uniform_problem(workspace: Path) -> Problem:
    """Make a linear model without bias whose parameters are zero, for two classes.

    Its probabilities are 1/2, so that the gradient of the loss in the logits is (1/2, -1/2) or its negative: its outer
    product G is the same for either label, sampled or true. The Fisher information is then G (x) E[x x^T], exactly.
    """
    generator = make_generator(0, "uniform")
    mixing = torch.randn(5, 5, generator=generator)
    sets = {
        role: {
            "image": torch.randn(count, 5, generator=generator) @ mixing,
            "label": torch.randint(2, (count,), generator=generator),
        }
        for role, count in {"train": 12, "query": 6, "reference": 40}.items()
    }
    with isolated_random_state(generator):
        model = nn.Sequential(nn.Linear(5, 2, bias=False))
    model[0].weight.data.zero_()
    return Problem(models=(model.eval(),), loss=image_loss, workspace=workspace, **sets)


def _fisher(reference: Examples) -> Tensor:
    """Return the Fisher information: kronfluence takes the mean over the reference set, not the sum."""
    inputs = reference["image"].double()
    logit_gradient = torch.tensor([[0.25, -0.25], [-0.25, 0.25]], dtype=torch.float64)
    return torch.kron(logit_gradient, inputs.T @ inputs / len(inputs))


def _influence(problem: Problem, example_gradients, hessian: Tensor, damping: float | None) -> Tensor:
    if damping is None:
        damping = 0.1 * hessian.diagonal().mean().item()  # the mean eigenvalue
    train, query = (
        example_gradients(problem.models[0], problem.loss, examples) for examples in (problem.train, problem.query)
    )
    damped = hessian + damping * torch.eye(len(hessian), dtype=torch.float64)
    return query @ torch.linalg.solve(damped, train.T)


def _score_directly(problem: Problem, method: Kronfluence) -> Tensor:
    """Use kronfluence as its own documentation does: a dataset of pairs, the default collation."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import TensorDataset

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            images, labels = batch
            logits = model(images)
            if sample:
                with torch.no_grad():
                    labels = torch.multinomial(functional.softmax(logits, dim=-1), num_samples=1).flatten()
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    datasets = {
        role: TensorDataset(examples["image"], examples["label"])
        for role, examples in {"train": problem.train, "query": problem.query, "reference": problem.reference}.items()
    }
    task = Classification()
    model = prepare_model(copy_model(problem.models[0]), task)
    analyzer = Analyzer("direct", model, task, cpu=True, disable_tqdm=True, output_dir=str(problem.workspace))
    analyzer.fit_all_factors(
        factors_name="factors",
        dataset=datasets["reference"],
        per_device_batch_size=method.fit_batch_size,
        factor_args=FactorArguments(strategy=method.strategy),
        overwrite_output_dir=True,
    )
    analyzer.compute_pairwise_scores(
        scores_name="scores",
        factors_name="factors",
        query_dataset=datasets["query"],
        train_dataset=datasets["train"],
        per_device_query_batch_size=method.query_batch_size,
        per_device_train_batch_size=method.train_batch_size,
        score_args=ScoreArguments(damping_factor=method.damping),
        overwrite_output_dir=True,
    )
    return analyzer.load_pairwise_scores("scores")["all_modules"]
