"""For authors of a method: the public contract, and problems whose answer is known."""

import copy
import dataclasses
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tdabench.attributors.base import Attributor, ChainAttributor, Examples, LossFn, Problem, take
from tdabench.attributors.running.like import check_self_influence
from tdabench.attributors.running.run import batches_of, run_attributor, run_chain, score_chains
from tdabench.examples import IGNORED
from tdabench.seeds import make_generator

VOCABULARY = 40  # of the text problem


def check_attributor(attributor: Attributor, *, informative: bool = True, text: bool = False, seed: int = 0) -> None:
    """Check a method against the public contract, on a small problem of images or of text.

    Shape (query, train), finite floating-point scores, positive self-influence on average, the same scores from the
    same generator, and nothing touched: the models, the examples and the global random states. If it samples chains
    apart (``tdabench.attributors.base.ChainAttributor``), also that they give the same scores in any order; if it says
    what its batches are (``Batched``), that this can be used; if it knows its self-influence, that this is the scores'
    diagonal (``SelfInfluential``).

    Args:
        informative: Whether self-influence should be positive; not so for baselines that ignore the data.
        text: Whether the problem is of language (extra ``language``).

    Raises:
        TypeError: If it has no ``attribute`` method, or that returns no floating-point tensor.
        ValueError: If a point of the contract is broken.
        Unsupported: If the method can't run on such a problem.

    Example:
        >>> from tdabench.attributors.baselines import Random
        >>> check_attributor(Random(), informative=False)
    """
    name = type(attributor).__name__
    if not isinstance(attributor, Attributor):
        raise TypeError(f"{name} has no method attribute(problem, *, generator).")
    with tempfile.TemporaryDirectory() as folder:
        problem = (make_text_problem if text else make_image_problem)(Path(folder), seed=seed)
        batches_of(attributor, problem)
        first = _run(attributor, problem, seed)
        second = _run(attributor, problem, seed)
        if not torch.equal(first, second):
            raise ValueError(
                f"{name} gives other scores on a second run (largest difference {(first - second).abs().max():.3g}): "
                "draw every random number from the generator that attribute() is given."
            )
        if isinstance(attributor, ChainAttributor):
            _check_chains(attributor, problem, first, seed)
        if informative:
            _check_informative(attributor, make_self_problem(problem), seed)


def _run(attributor: Attributor, problem: Problem, seed: int) -> Float[Tensor, "query train"]:
    name = type(attributor).__name__
    untouched, states = copy.deepcopy(_examples_of(problem)), _random_states()
    for path in problem.workspace.iterdir():
        _remove(path)
    scores = run_attributor(attributor, problem, generator=make_generator(seed, "check")).scores
    for library, state in _random_states().items():
        if state != states[library]:
            raise ValueError(
                f"{name} moved {library}'s global random state: use the generator that attribute() is given, or "
                "tdabench.seeds.isolated_random_state."
            )
    for role, examples in _examples_of(problem).items():
        for key, values in examples.items():
            if not torch.equal(values, untouched[role][key]):
                raise ValueError(f"{name} changed problem.{role}[{key!r}]: work on a copy.")
    return scores


def _check_chains(
    attributor: ChainAttributor, problem: Problem, scores: Float[Tensor, "query train"], seed: int
) -> None:
    """Check that chains which are sampled last to first, as jobs of their own, give the scores of ``attribute``."""
    name, chains = type(attributor).__name__, {}
    for chain in reversed(range(attributor.chains)):
        chains[chain], _ = run_chain(attributor, problem, chain, generator=make_generator(seed, "check"))
    apart = score_chains(attributor, problem, [chains[chain] for chain in range(attributor.chains)]).scores
    if not torch.equal(apart, scores):
        raise ValueError(
            f"{name} gives other scores if its chains are sampled apart (largest difference "
            f"{(apart - scores).abs().max():.3g}): derive each chain's stream from the generator by "
            "tdabench.attributors.base.chain_generator, and let attribute() be score_chains() of all chains."
        )


def _random_states() -> dict[str, object]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (name, np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


def _check_informative(attributor: Attributor, problem: Problem, seed: int) -> None:
    """Check that an example helps itself most, on a problem whose queries are its training examples."""
    name, scores = type(attributor).__name__, _run(attributor, problem, seed)
    check_self_influence(attributor, problem, scores, generator=make_generator(seed, "check"))
    own = scores.diagonal().mean().item()
    others = (scores.sum() - scores.diagonal().sum()).item() / (scores.numel() - len(scores))
    if own <= 0 or own <= others:
        raise ValueError(
            f"{name} gives an example a mean score of {own:.3g} on itself and {others:.3g} on others. Positive means "
            "helpful: training on an example lowers its own loss. Is the sign the wrong way round?"
        )


def make_image_problem(
    workspace: Path, *, num_train: int = 144, num_query: int = 24, num_models: int = 2, width: int = 4, seed: int = 0
) -> Problem:
    """Make a classification problem of 8x8 images in four noisy classes, with small trained networks.

    Args:
        workspace: An empty folder.
        width: Channels of the networks' convolution.
    """
    generator = make_generator(seed, "problem")
    patterns = torch.randn(4, 1, 8, 8, generator=generator)
    train, query = (_draw_images(patterns, count, generator) for count in (num_train, num_query))
    models = tuple(
        _train_small(train, width, make_generator(seed, "problem", "model", index)) for index in range(num_models)
    )
    return Problem(models=models, loss=_cross_entropy, train=train, query=query, reference=train, workspace=workspace)


def make_text_problem(
    workspace: Path, *, num_train: int = 48, num_query: int = 8, num_models: int = 2, seed: int = 0
) -> Problem:
    """Make a problem of rows of ten tokens in four noisy patterns, some of them padded, with small trained GPT-NeoX.

    Args:
        workspace: An empty folder.
    """
    from tdabench.models.gpt_neox import Pythia
    from tdabench.training.losses import language_loss, token_loss

    generator = make_generator(seed, "text problem")
    patterns = torch.randint(1, VOCABULARY, (4, 10), generator=generator)
    train, query = (_draw_rows(patterns, count, generator) for count in (num_train, num_query))
    builder = Pythia(hidden_size=16, layers=1, heads=2, vocabulary=VOCABULARY, positions=16)
    models = tuple(
        _fit(
            builder.build(train["input_ids"], generator=make_generator(seed, "text problem", index)),
            language_loss,
            train,
        )
        for index in range(num_models)
    )
    return Problem(
        models=models, loss=language_loss, token_loss=token_loss, train=train, query=query, reference=train,
        workspace=workspace,
    )  # fmt: skip


def make_self_problem(problem: Problem) -> Problem:
    """Make the problem whose queries are its training examples."""
    return dataclasses.replace(problem, query=take(problem.train, slice(None)))


class Quadratic(nn.Module):
    r"""A model whose loss on example i is :math:`\tfrac12 (w - c_i)^T H_i (w - c_i)`: every method has a closed form.

    Use it with ``quadratic_loss`` and examples ``{"centre": (example, parameter), "hessian": (example, parameter,
    parameter)}``.
    """

    def __init__(self, position: Float[Tensor, " parameter"]) -> None:
        super().__init__()
        self.position = nn.Parameter(position.clone())

    def forward(self, centre: Tensor) -> Float[Tensor, "example parameter"]:
        """Return the distance of the parameters from each centre."""
        return self.position - centre


def quadratic_loss(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    """Loss of a ``Quadratic`` on each example."""
    distance = model(examples["centre"])
    return torch.einsum("bi,bij,bj->b", distance, examples["hessian"], distance) / 2


def _draw_images(patterns: Tensor, count: int, generator: torch.Generator) -> Examples:
    labels = torch.arange(count) % len(patterns)
    images = patterns[labels] + 0.8 * torch.randn(count, *patterns.shape[1:], generator=generator)
    return {"image": images.to(memory_format=torch.channels_last), "label": labels}


def _draw_rows(patterns: Tensor, count: int, generator: torch.Generator) -> Examples:
    tokens = patterns[torch.arange(count) % len(patterns)]
    noise = torch.randint(1, VOCABULARY, tokens.shape, generator=generator)
    tokens = tokens.where(torch.rand(tokens.shape, generator=generator) > 0.3, noise)
    labels = tokens.clone()
    labels[:, 0] = IGNORED  # nothing predicts it
    tokens[::6, 7:], labels[::6, 7:] = 0, IGNORED
    return {"input_ids": tokens, "labels": labels}


def _train_small(train: Examples, width: int, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed() % 2**31)
        model = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(9 * width, 4))
    return _fit(model, _cross_entropy, train)


def _fit(model: nn.Module, loss: LossFn, train: Examples, *, rate: float = 0.02) -> nn.Module:
    # Adam (Kingma & Ba, 2015), as torch.optim has it, which would import torch._dynamo: two seconds of a CPU.
    parameters = [*model.parameters()]
    moments = [(torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in parameters]
    for step in range(1, 31):
        gradients = torch.autograd.grad(loss(model, train).mean(), parameters)
        with torch.no_grad():
            for parameter, gradient, (mean, square) in zip(parameters, gradients, moments, strict=True):
                mean.lerp_(gradient, 1 - 0.9)
                square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
                size = (square.sqrt() / (1 - 0.999**step) ** 0.5).add_(1e-8)
                parameter.addcdiv_(mean, size, value=-rate / (1 - 0.9**step))
    return model.eval()


def _cross_entropy(model: nn.Module, examples: Examples) -> Float[Tensor, " example"]:
    return functional.cross_entropy(model(examples["image"]), examples["label"], reduction="none")


def _examples_of(problem: Problem) -> dict[str, Examples]:
    return {"train": problem.train, "query": problem.query, "reference": problem.reference}


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
