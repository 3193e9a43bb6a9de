"""Sections of an experiment file, as frozen dataclasses that check themselves. Imports no torch."""

import dataclasses
import math
import re
from typing import Any, Literal

from tdabench.experiment.components import Component, build


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    train_sizes: tuple[int, ...]
    queries: int
    tuning_queries: int = 0
    warmup: int = 0
    reference: int | str = "train"
    mislabelled: float = 0.0

    @property
    def component(self) -> Component:
        """Return the dataset's class with its settings."""
        return Component(path=self.source, settings=self.options)

    def __post_init__(self) -> None:
        Component(path=self.source, settings=self.options)
        if not self.train_sizes or min(self.train_sizes) < 2 or len(set(self.train_sizes)) < len(self.train_sizes):
            raise ValueError(f"data.train_sizes must be different sizes of at least 2, got {list(self.train_sizes)}.")
        require_at_least("data", self, queries=1, tuning_queries=0, warmup=0)
        if self.reference != "train" and (isinstance(self.reference, str) or self.reference < max(self.train_sizes)):
            raise ValueError(
                "data.reference must be 'train' or a number of examples that is at least the largest of "
                f"data.train_sizes ({max(self.train_sizes)}), got {self.reference!r}."
            )
        if not 0 <= self.mislabelled < 1:
            raise ValueError(f"data.mislabelled must lie in [0, 1), got {self.mislabelled}.")
        if 0 < self.mislabelled < 1 / min(self.train_sizes):
            raise ValueError(
                f"A data.mislabelled of {self.mislabelled} of {min(self.train_sizes)} examples is less than one."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    optimizer: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    momentum: float = 0.0
    bias_scaler: float = 1.0
    label_smoothing: float = 0.0
    schedule_start: float = 0.2
    schedule_peak: float = 0.25
    schedule_end: float = 0.07
    warmup_steps: int = 0
    recalibrate_norm: bool = False
    precision: str = "float32"
    microbatch: int | None = None

    def __post_init__(self) -> None:
        if self.microbatch is not None and self.microbatch < 1:
            raise ValueError(f"training.microbatch must be at least 1 or null, got {self.microbatch}.")
        require_choice("training", self, optimizer=("sgd", "adamw"), precision=("float32", "bfloat16"))
        require_at_least(
            "training", self, epochs=1, batch_size=1, weight_decay=0, schedule_start=0, schedule_end=0, warmup_steps=0
        )
        for name in ("learning_rate", "bias_scaler"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"training.{name} must be positive and finite, got {getattr(self, name)}.")
        for name in ("weight_decay", "schedule_start", "schedule_end"):
            if getattr(self, name) == math.inf:
                raise ValueError(f"training.{name} must be finite, got {getattr(self, name)}.")
        for name in ("momentum", "label_smoothing", "schedule_peak"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.{name} must lie in [0, 1), got {getattr(self, name)}.")


def build_pretraining(content: dict[str, Any]) -> Recipe:
    """Make the recipe of a pretraining, whose errors say so.

    Raises:
        ValueError: If a key is unknown or missing, or a value is wrong.
    """
    try:
        return build(Recipe, content, where="pretraining")
    except ValueError as error:  # a recipe's own checks call it training
        raise ValueError(re.sub(r"\btraining\.", "pretraining.", str(error))) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    subsets: int
    fraction: float
    sampling: str = "fixed"
    retrains: int = 1
    shards: int | Literal["auto"] = 1

    def __post_init__(self) -> None:
        require_choice("bank", self, sampling=("fixed", "bernoulli"))
        require_at_least("bank", self, subsets=3, retrains=1, **({} if self.shards == "auto" else {"shards": 1}))
        if not 0 < self.fraction < 1:
            raise ValueError(f"bank.fraction must lie in (0, 1), got {self.fraction}.")
        if self.shards != "auto" and self.shards > self.subsets:
            raise ValueError(f"bank.shards must be at most bank.subsets ({self.subsets}), got {self.shards}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemovalSettings:
    """Models retrained without the examples that a method calls most helpful for a query.

    Attributes:
        counts: How many are removed: 1 is leave-one-out.
        queries: The first so many scored queries; each is a removal of its own.
        retrains: Models a query and arm, with different seeds (the same ones in every arm).
        methods: Keys of the methods that are asked; ``null`` means all.
    """

    counts: tuple[int, ...]
    queries: int
    retrains: int = 1
    methods: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 1 or len(set(self.counts)) < len(self.counts):
            raise ValueError(f"removal.counts must be different numbers of at least 1, got {list(self.counts)}.")
        # An interval over a single query says nothing.
        require_at_least("removal", self, queries=2, retrains=1)
        if self.methods is not None and (not self.methods or len(set(self.methods)) < len(self.methods)):
            raise ValueError(f"removal.methods must be null or different methods, got {list(self.methods)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
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

    resamples: int = 1000
    confidence: float = 0.95
    top: int = 10
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        require_at_least("evaluation", self, resamples=100, top=1)
        if not 0 < self.confidence < 1:
            raise ValueError(f"evaluation.confidence must lie in (0, 1), got {self.confidence}.")
        if self.memory_gib is not None and not 0 < self.memory_gib < math.inf:
            raise ValueError(
                f"evaluation.memory_gib must be positive and finite, or null for no limit, got {self.memory_gib}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VarianceSettings:
    """Attributions once more, to tell what the checkpoint's seed and the method's random numbers do to the LDS.

    Attributes:
        checkpoints: So many checkpoints are attributed, each in turn the first of the models.
        runs: Attributions of each checkpoint, with other random numbers.
        methods: Which methods; null for all.
    """

    checkpoints: int = 2
    runs: int = 2
    methods: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # With a single run, the two can't be told apart.
        require_at_least("variance", self, checkpoints=1, runs=2)
        if self.methods is not None and (not self.methods or len(set(self.methods)) < len(self.methods)):
            raise ValueError(f"variance.methods must be different methods, or null for all, got {list(self.methods)}.")


def require_at_least(section: str, settings: Any, **lowest: int) -> None:
    """Check settings against their lowest values; the message names section, setting and value."""
    for name, low in lowest.items():
        if not getattr(settings, name) >= low:
            raise ValueError(f"{section}.{name} must be at least {low}, got {getattr(settings, name)}.")


def require_choice(section: str, settings: Any, **choices: tuple[str, ...]) -> None:
    """Check settings against the words that they may be."""
    for name, options in choices.items():
        if getattr(settings, name) not in options:
            raise ValueError(f"{section}.{name} must be {' or '.join(options)}, got {getattr(settings, name)!r}.")
