"""Forward passes that a method makes, counted without its knowing."""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor  # there is no public way to ask

from tdabench.attributors.base import Examples, LossFn, Problem, num_examples
from tdabench.cost import count_passes

FORWARD, GRADIENT = 1, 3

_COUNTED: contextvars.ContextVar[bool] = contextvars.ContextVar("counted", default=False)


@contextlib.contextmanager
def counted(passes: int | float) -> Iterator[None]:
    """Count the body as so many passes, whatever it calls; inside another such body, count nothing.

    For what calls the model by another way than the problem's loss, such as a library.
    """
    if _COUNTED.get():
        yield
        return
    token = _COUNTED.set(True)
    try:
        yield
    finally:
        _COUNTED.reset(token)
    count_passes(passes)


@contextlib.contextmanager
def counted_problem(problem: Problem) -> Iterator[Problem]:
    """Return the problem with losses that count their passes, and watch the models for calls that nothing counts.

    A call of a loss counts its examples once, or three times if a gradient can be taken of what it gives. A call of a
    model, of its copies or their parts by another way, outside of ``counted``, makes the number unknown (NaN); so does
    a loss inside a transform of ``torch.func``, where the number of examples can't be seen.
    """
    watched = [module.register_forward_hook(_lose_count) for model in problem.models for module in model.modules()]
    token_loss = problem.token_loss and _CountingLoss(problem.token_loss)
    try:
        yield dataclasses.replace(problem, loss=_CountingLoss(problem.loss), token_loss=token_loss)
    finally:
        for handle in watched:
            handle.remove()


@dataclasses.dataclass(frozen=True)
class _CountingLoss:
    """A loss that counts its passes; it can be pickled where the loss can."""

    loss: LossFn

    def __call__(self, model: nn.Module, examples: Examples) -> Tensor:
        if _COUNTED.get():
            return self.loss(model, examples)
        with counted(0):
            losses = self.loss(model, examples)
        count_passes(_passes_of(losses, examples))
        return losses


def _passes_of(losses: Tensor, examples: Examples) -> int | float:
    if is_functorch_wrapped_tensor(losses):
        return math.nan
    return num_examples(examples) * (GRADIENT if losses.requires_grad else FORWARD)


def _lose_count(module: nn.Module, inputs: Any, output: Any) -> None:
    # A function of the module's own, so that models with it can still be pickled.
    if not _COUNTED.get():
        count_passes(math.nan)
