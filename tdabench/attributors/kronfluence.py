"""EK-FAC, K-FAC, diagonal Fisher and GradSim through kronfluence (Grosse et al., 2023, arXiv:2308.03296)."""

import dataclasses

import torch
from jaxtyping import Float
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from tdabench.attributors.base import Examples, Problem, Unsupported, copy_model, num_examples, take
from tdabench.attributors.passes import GRADIENT, counted
from tdabench.attributors.processes import data_parallel
from tdabench.cost import phase
from tdabench.seeds import isolated_random_state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kronfluence:
    r"""Influence with a factored Gauss-Newton Hessian: :math:`g_j^T (H + \lambda I)^{-1} g_i`, by kronfluence.

    kronfluence tracks exact ``nn.Linear`` and ``nn.Conv2d`` layers only; other parameters are left out, and so are
    layers whose weight is frozen. Its labels of the Fisher are sampled from the model; the sampling is seeded.

    Attributes:
        strategy: ``ekfac``, ``kfac``, ``diagonal``, or ``identity`` (GradSim: plain gradient dot products).
        damping: :math:`\lambda`; ``null`` means 0.1 times each layer's mean eigenvalue. ``identity`` ignores it.
        fit_batch_size: Examples a batch when fitting the factors.
        train_batch_size: Training examples a batch when scoring.
        query_batch_size: Queries a batch when scoring; training gradients are computed once for each such batch.
        processes: Processes that share the examples, each with a GPU of its own (kronfluence's data parallelism). With
            another number of them the Fisher's labels are sampled otherwise, and the scores are others.
    """

    strategy: str
    damping: float | None = None
    fit_batch_size: int = 250
    train_batch_size: int = 250
    query_batch_size: int = 1000
    processes: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in ("ekfac", "kfac", "diagonal", "identity"):
            raise ValueError(f"strategy must be ekfac, kfac, diagonal or identity, got {self.strategy!r}.")
        if self.damping is not None and not self.damping >= 0:
            raise ValueError(f"damping must be at least 0 or null, got {self.damping}.")
        for name in ("fit_batch_size", "train_batch_size", "query_batch_size", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Fit the factors on the reference set and score every pair.

        Raises:
            Unsupported: If the model has no layer that kronfluence can track, or has several processes and no GPU.
        """
        if self.processes == 1:
            return attribute_part(self, problem, generator)
        if not next(iter(problem.train.values())).is_cuda:
            raise Unsupported(f"{self.processes} processes share kronfluence's work on GPUs only: set processes to 1.")
        with data_parallel(attribute_part, self, problem, processes=self.processes, generator=generator):
            return attribute_part(self, problem, generator)


def attribute_part(
    attributor: Kronfluence, problem: Problem, generator: torch.Generator
) -> Float[Tensor, "query train"]:
    """Do this process's part, and give all scores, whichever process it is."""
    task = make_task(problem)
    device = next(iter(problem.train.values())).device
    with isolated_random_state(generator):
        model = prepare_model(copy_model(problem.models[0]), task)
        alone = attributor.processes == 1
        if not alone:
            model = nn.parallel.DistributedDataParallel(model)
        options = {"cpu": device.type == "cpu" and alone, "disable_tqdm": False, "output_dir": str(problem.workspace)}
        analyzer = Analyzer("kronfluence", model, task, **options)
        # The data lie on the device as tensors: a batch is one indexing, with no collation by example.
        analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=lambda batch: batch, num_workers=0))
        with phase("fit"):
            analyzer.fit_all_factors(
                factors_name="factors",
                dataset=ExampleDataset(problem.reference),
                per_device_batch_size=min(attributor.fit_batch_size, num_examples(problem.reference)),
                factor_args=FactorArguments(strategy=attributor.strategy),
            )
        analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="factors",
            query_dataset=ExampleDataset(problem.query),
            train_dataset=ExampleDataset(problem.train),
            per_device_query_batch_size=min(attributor.query_batch_size, num_examples(problem.query)),
            per_device_train_batch_size=min(attributor.train_batch_size, num_examples(problem.train)),
            score_args=ScoreArguments(damping_factor=attributor.damping),
        )
        # kronfluence's score is the predicted drop of the query's loss: positive means helpful, as here.
        return analyzer.load_pairwise_scores("scores")["all_modules"]


class ExampleDataset(Dataset):
    """Examples as a dataset that gives whole batches."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        """Count the examples."""
        return num_examples(self.examples)

    def __getitems__(self, indices: list[int]) -> Examples:
        """Give a batch."""
        device = next(iter(self.examples.values())).device
        return take(self.examples, torch.tensor(indices, device=device))


def tracked_layers(model: nn.Module) -> list[str]:
    """Name the layers that kronfluence can track and whose weight is trained.

    Raises:
        Unsupported: If there are none.
    """
    names = [
        name
        for name, module in model.named_modules()
        if name and type(module) in (nn.Linear, nn.Conv2d) and module.weight.requires_grad
    ]
    if not names:
        raise Unsupported("kronfluence needs trained nn.Linear or nn.Conv2d layers (exact types) inside a model.")
    return names


def make_task(problem: Problem) -> Task:
    """Make kronfluence's task of a problem: summed training loss with sampled labels, the loss as measurement."""
    if "image" not in problem.train or "label" not in problem.train:
        raise Unsupported(f"kronfluence's adapter needs image and label, got {', '.join(problem.train)}.")
    layers = tracked_layers(problem.models[0])

    class ClassificationTask(Task):
        def compute_train_loss(self, batch: Examples, model: nn.Module, sample: bool = False) -> Tensor:
            if not sample:
                return problem.loss(model, batch).sum()
            with counted(GRADIENT * num_examples(batch)):
                logits = model(batch["image"]).float()
            with torch.no_grad():
                labels = torch.multinomial(logits.softmax(dim=-1), num_samples=1).flatten()
            return functional.cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Examples, model: nn.Module) -> Tensor:
            return problem.loss(model, batch).sum()

        def get_influence_tracked_modules(self) -> list[str]:
            return layers

    return ClassificationTask()
