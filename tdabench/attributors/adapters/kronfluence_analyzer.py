"""kronfluence's analyzer of a problem, and a look whether it computes gradients as autograd does."""

import contextlib
import gc
import tempfile
from collections.abc import Iterator

import torch
from jaxtyping import Float
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.utils.data import Dataset

from tdabench.attributors.adapters.kronfluence_task import make_task
from tdabench.attributors.base import Examples, Problem, batches, copy_model, device_of, num_examples, take
from tdabench.attributors.running.passes import counted
from tdabench.seeds import isolated_random_state

# Examples whose scores are compared, and the difference that is more than rounding: relative to the largest product of
# two gradients' lengths.
CHECKED, TOLERANCE = 3, 1e-3


@contextlib.contextmanager
def open_analyzer(
    problem: Problem, layers: list[str], *, processes: int, generator: torch.Generator
) -> Iterator[Analyzer]:
    """Return the analyzer of a copy of the model, whose files lie in the workspace, for a body with its own stream."""
    task, alone = make_task(problem, layers), processes == 1
    with isolated_random_state(generator), heap_passed_over():
        model = prepare_model(copy_model(problem.models[0]), task)
        if not alone:
            model = nn.parallel.DistributedDataParallel(model)
        yield make_analyzer(problem, model, task, cpu=alone, folder=str(problem.workspace), quiet=False)


def make_analyzer(problem: Problem, model: nn.Module, task: Task, *, cpu: bool, folder: str, quiet: bool) -> Analyzer:
    """Make the analyzer, which writes to a folder."""
    on_cpu = device_of(problem.train).type == "cpu" and cpu
    analyzer = Analyzer("kronfluence", model, task, cpu=on_cpu, disable_tqdm=quiet, output_dir=folder)
    # The data lie on the device as tensors: a batch is one indexing, with no collation by example.
    analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda batch: batch, num_workers=0))
    return analyzer


@contextlib.contextmanager
def heap_passed_over() -> Iterator[None]:
    """Let the garbage collector pass over what exists: kronfluence collects at every step, which else takes 0.2 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def compare_with_autograd(problem: Problem, layers: list[str]) -> None:
    """Let kronfluence score a few pairs without a Hessian, and compare; nothing of it stays, and no pass is counted.

    Raises:
        ValueError: If products of gradients differ from autograd's by more than rounding.
    """
    few = {role: take(getattr(problem, role), slice(CHECKED)) for role in ("query", "train")}
    task = make_task(problem, layers)
    own_stream = torch.Generator().manual_seed(0)  # the method's generator is not moved
    with (
        tempfile.TemporaryDirectory() as folder,
        isolated_random_state(own_stream),
        counted(0),
        heap_passed_over(),
    ):
        model = prepare_model(copy_model(problem.models[0]), task)
        analyzer = make_analyzer(problem, model, task, cpu=True, folder=folder, quiet=True)
        analyzer.fit_all_factors("none", ExampleDataset(few["train"]), factor_args=FactorArguments(strategy="identity"))
        analyzer.compute_pairwise_scores(
            "few", "none", ExampleDataset(few["query"]), ExampleDataset(few["train"]), CHECKED,
            per_device_train_batch_size=CHECKED,
        )  # fmt: skip
        scores = analyzer.load_pairwise_scores("few")["all_modules"]
    _compare(scores, problem, layers, **few)


def _compare(
    scores: Float[Tensor, "query train"], problem: Problem, layers: list[str], *, query: Examples, train: Examples
) -> None:
    """Compare products of gradients, as kronfluence gives them, with those that autograd gives."""
    model = copy_model(problem.models[0])
    parameters = [value for name in layers for value in model.get_submodule(name).parameters() if value.requires_grad]
    with counted(0), torch.enable_grad():  # the benchmark's check, no cost of the method
        of_query, of_train = (
            torch.stack([_differentiate(problem, model, parameters, one) for one in batches(part, 1)])
            for part in (query, train)
        )
    scale = (of_query.norm(dim=1)[:, None] * of_train.norm(dim=1)).max().item()
    difference = (scores.to(of_query) - of_query @ of_train.T).abs().max().item()
    if scale > 0 and not difference <= TOLERANCE * scale:
        raise ValueError(
            f"kronfluence's products of gradients differ from autograd's by {difference / scale:.2g} of their size: it "
            f"computes one of the layers {', '.join(layers)} in another way than the model does. Freeze the parameters "
            "of unusual layers, or use a method that differentiates the whole model."
        )


def _differentiate(
    problem: Problem, model: nn.Module, parameters: list[nn.Parameter], example: Examples
) -> Float[Tensor, " parameter"]:
    parts = torch.autograd.grad(problem.loss(model, example).sum(), parameters, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts]).float()


class ExampleDataset(Dataset):
    """Examples as a dataset that gives whole batches."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        """Count the examples."""
        return num_examples(self.examples)

    def __getitems__(self, indices: list[int]) -> Examples:
        """Return a batch."""
        device = next(iter(self.examples.values())).device
        return take(self.examples, torch.tensor(indices, device=device))
