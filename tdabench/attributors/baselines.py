"""Baselines that every table needs: chance, and a ranking that ignores the query."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, Unsupported, batches, copy_model, num_examples
from tdabench.attributors.running.passes import FORWARD, counted
from tdabench.examples import batch_size_of
from tdabench.runtime.progress import progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random:
    """Independent standard normal scores: the null."""

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Draw the scores."""
        shape = num_examples(problem.query), num_examples(problem.train)
        return torch.randn(shape, generator=generator, device=generator.device)

    def self_influence(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, " train"]:
        """Refuse: chance has none.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("scores by chance have no self-influence that they could be divided by (normalize: self)")

    def batch_sizes(self, problem: Problem) -> dict[str, int]:
        """Use none."""
        return {"train": 0, "query": 0, "reference": 0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryIndependent:
    r"""Each training example's mean GradSim score over the queries, :math:`\langle g_i, \bar g \rangle`.

    The same for every query: what a method gains from knowing which examples are good in general. One gradient and one
    forward-mode pass, over every trained parameter; where an operator of the model has no forward-mode rule (attention
    of torch, recurrent layers), a gradient an example.

    Attributes:
        batch_size: Examples a pass, which changes speed and memory only; null: 250 images, or as many rows as have
            4,096 tokens.
    """

    batch_size: int | None = None

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Differentiate every training loss along the mean gradient of the queries' losses."""
        model = copy_model(problem.models[0])
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        parameters = {name: model.get_parameter(name) for name in names}
        num_query = num_examples(problem.query)
        for batch in self._batches(problem.query, "query gradients"):
            (problem.loss(model, batch).sum() / num_query).backward()
        direction = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in parameters.items()
        }
        scores = []
        for batch in self._batches(problem.train, "train derivatives"):
            try:
                scores.append(self._differentiate(model, problem, parameters, direction, batch))
            except NotImplementedError:
                scores.append(self._differentiate_each(model, problem, parameters, direction, batch))
        return torch.cat(scores).expand(num_query, -1).clone()

    def self_influence(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, " train"]:
        """Refuse: no query is an example's own.

        Raises:
            Unsupported: Always.
        """
        raise Unsupported("scores that ignore the query have no self-influence to be divided by (normalize: self)")

    def batch_sizes(self, problem: Problem) -> dict[str, int]:
        """Return the examples of a pass."""
        size = self._size(problem.train)
        return {"train": size, "query": size, "reference": 0}

    def _size(self, examples: Examples) -> int:
        return self.batch_size or batch_size_of(examples, most=250)

    def _batches(self, examples: Examples, description: str) -> Iterator[Examples]:
        size = self._size(examples)
        return progress(batches(examples, size), description, total=-(-num_examples(examples) // size))

    def _differentiate(
        self, model: nn.Module, problem: Problem, parameters: dict, direction: dict, batch: dict
    ) -> Float[Tensor, " train"]:
        def losses(moved: dict[str, Tensor]) -> Tensor:
            return problem.loss(_Functional(model, moved), batch)

        values = {name: parameter.detach() for name, parameter in parameters.items()}
        # The derivative passes forward beside the value.
        with torch.no_grad(), counted(2 * FORWARD * num_examples(batch)):
            return torch.func.jvp(losses, (values,), (direction,))[1]

    def _differentiate_each(
        self, model: nn.Module, problem: Problem, parameters: dict, direction: dict, batch: dict
    ) -> Float[Tensor, " train"]:
        found = []
        for example in batches(batch, 1):
            loss = problem.loss(model, example).sum()
            parts = torch.autograd.grad(loss, [*parameters.values()], materialize_grads=True)
            found.append(sum((part * along).sum() for part, along in zip(parts, direction.values(), strict=True)))
        return torch.stack(found)


class _Functional(nn.Module):
    """Call a model with other parameters than its own."""

    def __init__(self, model: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.call = lambda inputs, named: torch.func.functional_call(model, parameters, inputs, named)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.call(inputs, named)
