"""Sections of an experiment file, as frozen dataclasses that check themselves. Imports no torch."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from tdabench.experiment.components import Component
from tdabench.experiment.settings import Count, Finite, Natural, Positive, Share, different, settings

Methods = Annotated[tuple[str, ...], different("methods")] | None


@settings("data")
class DataSettings:
    """What is attributed.

    Attributes:
        source: Import path of the dataset's class.
        options: The settings of that class.
        train_sizes: Sizes of the attribution set. Each is the start of one random order, so that they are nested.
        queries: Scored queries, drawn from the test set.
        tuning_queries: Further queries, for settings that are chosen by looking at the LDS.
        warmup: Held-out examples for the recipe's warm-up phase.
        reference: Examples that define the loss landscape (factors, SGLD's minibatches): the attribution set
            itself (``train``), or that many from the start of the random order.
        mislabelled: Share of the attribution set that gets a planted wrong label, in [0, 1). Methods then score the
            training examples for themselves too, as further queries after the others.
    """

    source: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    train_sizes: Annotated[tuple[int, ...], different("sizes of at least 2", 2)]
    queries: Count
    tuning_queries: Natural = 0
    warmup: Natural = 0
    reference: int | Literal["train"] = "train"
    mislabelled: Share = 0.0

    @property
    def component(self) -> Component:
        """Return the dataset's class with its settings."""
        return Component(path=self.source, settings=self.options)

    def __post_init__(self) -> None:
        Component(path=self.source, settings=self.options)
        smallest, largest = min(self.train_sizes), max(self.train_sizes)
        if self.reference != "train" and self.reference < largest:
            raise ValueError(
                "data.reference must be 'train' or a number of examples that is at least the largest of "
                f"data.train_sizes ({largest}), got {self.reference}."
            )
        if 0 < self.mislabelled < 1 / smallest:
            raise ValueError(f"A data.mislabelled of {self.mislabelled} of {smallest} examples is less than one.")


@settings("training")
class Recipe:
    """A training run (the paper's Table 4).

    Attributes:
        optimizer: ``sgd`` (Nesterov; learning rate per 1,024 examples of summed loss and decoupled weight decay as in
            Jordan, 2024, independent of batch size and momentum) or ``adamw`` (PyTorch's meaning of every setting).
        epochs: Passes over the training set.
        batch_size: Most examples a step: an epoch is divided into equal batches. ``sgd`` counts each as a full one.
        learning_rate: Peak of the triangular schedule.
        weight_decay: Weight decay.
        momentum: Momentum of ``sgd``.
        bias_scaler: ``sgd``: learning rate of biases, relative to the others'.
        label_smoothing: In training only; the losses of attribution and bank have none.
        schedule_start: Learning rate of the first step, relative to the peak.
        schedule_peak: Where in training the peak is, in [0, 1).
        schedule_end: Learning rate after the last step, relative to the peak.
        warmup_steps: Steps on the held-out warm-up set before training, at the schedule's first learning rate.
        recalibrate_norm: Whether batch norm's statistics are measured anew on the whole training set at the end: the
            running ones of a short training lag behind the weights, which is noise in every loss.
        precision: ``float32``, or ``bfloat16`` (autocast; fast only on devices with bfloat16 arithmetic).
        microbatch: Most examples in memory at once: the gradients of a step's parts are summed; ``null`` for no limit.
            Batch norm sees the parts apart.
    """

    optimizer: Literal["sgd", "adamw"]
    epochs: Count
    batch_size: Count
    learning_rate: Positive
    weight_decay: Finite
    momentum: Share = 0.0
    bias_scaler: Positive = 1.0
    label_smoothing: Share = 0.0
    schedule_start: Finite = 0.2
    schedule_peak: Share = 0.25
    schedule_end: Finite = 0.07
    warmup_steps: Natural = 0
    recalibrate_norm: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    microbatch: Count | None = None


@settings("bank")
class BankSettings:
    """The ground truth: models retrained on subsets.

    Attributes:
        subsets: Number of subsets.
        fraction: Share of the attribution set in each, in (0, 1).
        sampling: ``fixed`` (subsets of equal size) or ``bernoulli`` (each example kept with that probability).
        retrains: Models a subset, with different seeds.
        shards: Jobs that the bank of one attribution set is divided into, or ``auto``: as many as take ten minutes each
            where the workflow measures it. The bank is the same, however it is divided.
    """

    subsets: Annotated[int, Field(ge=3)]
    fraction: Annotated[float, Field(gt=0, lt=1)]
    sampling: Literal["fixed", "bernoulli"] = "fixed"
    retrains: Count = 1
    shards: Count | Literal["auto"] = 1

    def __post_init__(self) -> None:
        if self.shards != "auto" and self.shards > self.subsets:
            raise ValueError(f"bank.shards must be at most bank.subsets ({self.subsets}), got {self.shards}.")


@settings("evaluation")
class EvaluationSettings:
    """How scores are compared with the truth.

    Attributes:
        resamples: Bootstrap resamples: of subsets and queries together (LDS), of queries (removal), of right and wrong
            labels (detection).
        confidence: Of the intervals, in (0, 1).
        top: Most helpful and most harmful examples of a query that two methods are compared on.
        memory_gib: Most resident memory in GiB of a job that reads all scores of a bank (evaluate, compare, agree,
            grow); ``null`` for no limit. It decides how many queries are in memory at once, not the result.
    """

    resamples: Annotated[int, Field(ge=100)] = 1000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    top: Count = 10
    memory_gib: Positive | None = None


@settings("removal")
class RemovalSettings:
    """Models retrained without the examples that a method calls most helpful for a query.

    Attributes:
        counts: How many are removed: 1 is leave-one-out.
        queries: The first so many scored queries; each is a removal of its own.
        retrains: Models a query and arm, with different seeds (the same ones in every arm).
        methods: Keys of the methods that are asked; ``null`` means all.
    """

    counts: Annotated[tuple[int, ...], different("numbers of at least 1", 1)]
    queries: Annotated[int, Field(ge=2)]  # an interval over a single query says nothing
    retrains: Count = 1
    methods: Methods = None


@settings("variance")
class VarianceSettings:
    """Attributions once more, to tell what the checkpoint's seed and the method's random numbers do to the LDS.

    Attributes:
        checkpoints: So many checkpoints are attributed, each in turn the first of the models.
        runs: Attributions of each checkpoint, with other random numbers.
        methods: Which methods; null for all.
    """

    checkpoints: Count = 2
    runs: Annotated[int, Field(ge=2)] = 2  # with a single run, the two can't be told apart
    methods: Methods = None


@settings("tokens")
class TokenSettings:
    """Scores of tokens, for a few queries and the training examples that matter most to them.

    Attributes:
        queries: The first so many scored queries.
        top: Most helpful, and as many most harmful, training examples of each.
        methods: Keys of the methods that are asked; ``null`` means all.
    """

    queries: Count = 8
    top: Count = 10
    methods: Methods = None
