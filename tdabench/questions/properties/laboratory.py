"""Run one method on made-up problems, and watch what it does."""

import dataclasses
import functools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tdabench.attributors.base import Attributor, Problem
from tdabench.attributors.running.run import run_attributor
from tdabench.cost import current_phase
from tdabench.questions.properties.problems import rewrite
from tdabench.seeds import make_generator
from tdabench.testing import make_image_problem

# Sizes of the image problem. TRAK needs more than 200 examples, and more parameters than half of them.
NUM_TRAIN, NUM_QUERY, WIDTH = 208, 24, 4


class Instrument(TorchDispatchMode):
    """Watch a method's computation below autograd and torch.func: what the model works, which matrices are factorised.

    Attributes:
        work: Floating-point operations of forward convolutions, by phase of the cost.
        largest_factorised: Side of the largest matrix that was inverted, solved or decomposed; 0 if none was.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else every operation passes through torch._dynamo, whose import alone takes two seconds

    def __init__(self) -> None:
        super().__init__()
        self.work: Counter[str | None] = Counter()
        self.largest_factorised = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and note it."""
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # here operations arrive that are made of others
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.convolution:
            self.work[current_phase()] += flop_registry[func.overloadpacket](*args, **kwargs, out_val=result)
        elif _factorises(func):
            tensors = [entry for entry in tree_leaves((args, kwargs)) if isinstance(entry, Tensor) and entry.ndim > 1]
            sides = [min(entry.shape[-2:]) for entry in tensors]
            self.largest_factorised = max(self.largest_factorised, *sides, 0)
        return result


@functools.cache
def _factorises(operation: torch._ops.OpOverload) -> bool:
    name = operation.overloadpacket.__name__
    return ("linalg" in name or "cholesky" in name) and not name.endswith(("norm", "cross"))


def count_one_pass(problem: Problem) -> int:
    """Count the work of one example's forward pass, in ``Instrument``'s operations."""
    one = {name: values[:1] for name, values in problem.train.items()}
    with Instrument() as instrument, torch.no_grad():
        problem.loss(problem.models[0], one)
    return instrument.work.total()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """A run of a method on the image problem."""

    scores: Float[Tensor, "query train"]
    passes: dict[str | None, float]
    largest_factorised: int
    kept: float
    parameters: int


class Laboratory:
    """Run one method on made-up problems; a run that two checks need is made once."""

    def __init__(self, attributor: Attributor, *, num_models: int, seed: int, folder: Path) -> None:
        self.attributor, self.num_models, self.seed, self.folder = attributor, num_models, seed, folder
        self.networks: dict[tuple[int, int], tuple[nn.Module, ...]] = {}
        self.measure = functools.cache(self._measure)
        self._score_both = functools.cache(self._score_both)

    def workspace(self) -> Path:
        """Make an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def images(self, *, train: int = NUM_TRAIN, query: int = NUM_QUERY, width: int = WIDTH) -> Problem:
        """Make the image problem; the same networks are trained once."""
        known = self.networks.get((train, width))
        problem = make_image_problem(
            self.workspace(), num_train=train, num_query=query, num_models=0 if known else self.num_models,
            width=width, seed=self.seed,
        )  # fmt: skip
        models = self.networks.setdefault((train, width), known or problem.models)
        return dataclasses.replace(problem, models=models)

    def score(self, problem: Problem, *, run: int = 0) -> Float[Tensor, "query train"]:
        """Run the method; runs differ in their random numbers."""
        return run_attributor(self.attributor, problem, generator=make_generator(self.seed, "properties", run)).scores

    def _measure(self, *, train: int = NUM_TRAIN, query: int = NUM_QUERY, width: int = WIDTH) -> Measurement:
        """Run the method on the image problem, watched."""
        problem = self.images(train=train, query=query, width=width)
        with Instrument() as instrument:
            generator = make_generator(self.seed, "properties", 0)
            attribution = run_attributor(self.attributor, problem, generator=generator)
        one = count_one_pass(problem)
        kept = sum(part.disk_bytes for part in attribution.cost.phases.values())
        return Measurement(
            scores=attribution.scores,
            passes={phase: work / one for phase, work in instrument.work.items()},
            largest_factorised=instrument.largest_factorised,
            kept=kept / torch.float32.itemsize,
            parameters=sum(parameter.numel() for parameter in problem.models[0].parameters()),
        )

    def score_rewritten(self, **changes: bool) -> Float[Tensor, "query train"]:
        """Run the method on the image problem with the networks written in another way.

        Both changes at once come first: whom they leave exactly where it was, neither alone would move.
        """
        both = self._score_both()
        return self._rewrite(**changes) if both is None or not both.equal(self.measure().scores) else both

    def _score_both(self) -> Float[Tensor, "query train"] | None:
        try:
            return self._rewrite(own_layers=True, false_curvature=True)
        except Exception:  # who does not run on own layers is asked about the other change alone
            return None

    def _rewrite(self, **changes: bool) -> Float[Tensor, "query train"]:
        problem = self.images()
        models = tuple(rewrite(model, **changes) for model in problem.models)
        return self.score(dataclasses.replace(problem, models=models))
