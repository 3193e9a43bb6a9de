"""Chains for tests: any sampler on any model and loss, and a method one of whose chains breaks."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tdabench.attributors.base import Examples, LossFn, Problem
from tdabench.attributors.sampling import method
from tdabench.attributors.sampling.walker import Sampler, Step, Walker, make_walker, walk


def make_walker_on(model: nn.Module, loss: LossFn, examples: Examples, **settings) -> Walker:
    roles = dict.fromkeys(("train", "query", "reference"), examples)
    return make_walker(model, Problem(models=(model,), loss=loss, workspace=Path(), **roles), **settings)


def walk_on(
    sampler: Sampler, model: nn.Module, loss: LossFn, examples: Examples, *, steps: int, **settings
) -> Iterator[Step]:
    return walk(sampler, make_walker_on(model, loss, examples, **settings), steps)


def break_chain(monkeypatch: pytest.MonkeyPatch, broken: int) -> None:
    """Let the parameters of one of the chains that are sampled from now on become NaN at its last step."""
    started = itertools.count()

    def walk_and_break(sampler: Sampler, walker: Walker, steps: int) -> Iterator[Step]:
        index = next(started)
        for count, step in enumerate(walk(sampler, walker, steps)):
            if index == broken and count == steps - 1:
                step.position.fill_(torch.nan)
            yield step

    monkeypatch.setattr(method, "walk", walk_and_break)
