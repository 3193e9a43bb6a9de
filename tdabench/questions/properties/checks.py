"""Properties of a method (the paper's Table 2), each found by running it on a made-up problem: none is declared."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tdabench.attributors.base import Attributor, Unsupported, num_examples
from tdabench.questions.properties.laboratory import NUM_QUERY, NUM_TRAIN, WIDTH, Laboratory, Measurement
from tdabench.questions.properties.problems import GROUPS, make_flat_problem, make_token_problem
from tdabench.seeds import make_generator

# Relative difference of scores up to which they are the same: rounding in another order.
SAME = 1e-3
# Forward passes, with their backward ones or without, that an added query may cost a checkpoint.
PASSES_PER_QUERY = 2
# Kept float32 numbers a parameter from which something is kept for every parameter, be it in bfloat16.
KEPT_PER_PARAMETER = 0.5
# Standard errors beyond which a mean is no Monte Carlo error: for no true effect, one method in three million.
BEYOND_ERROR = 5.0
# Runs whose scores are averaged where one run is within its error, but not zero.
MORE_RUNS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found.

    Attributes:
        holds: None if the check could not run.
        measured: The numbers, or why it could not run.
    """

    holds: bool | None
    measured: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Property:
    """A property, what counts as having it, and the check."""

    key: str
    title: str
    how: str
    check: Callable[["Laboratory"], Finding]


def find_properties(attributor: Attributor, *, num_models: int = 1, seed: int = 0) -> dict[str, Finding]:
    """Run every check on a method; a check that can't run says why, and stops no other.

    Args:
        num_models: Checkpoints of the made-up problems.
    """
    findings = {}
    with tempfile.TemporaryDirectory() as folder:
        laboratory = Laboratory(attributor, num_models=num_models, seed=seed, folder=Path(folder))
        for entry in PROPERTIES:
            try:
                findings[entry.key] = entry.check(laboratory)
            except Exception as error:  # a method of anyone's, on problems that it was not made for
                findings[entry.key] = Finding(holds=None, measured=_reason(error))
    return findings


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, Unsupported) else f"{type(error).__name__}: {text}"


def check_hessian_free(laboratory: Laboratory) -> Finding:
    """Look for second derivatives, and for curvature that is kept or factorised."""
    plain, wide = laboratory.measure(), laboratory.measure(width=2 * WIDTH)
    falsified = laboratory.score_rewritten(own_layers=False, false_curvature=True)
    difference = _difference(falsified, plain.scores)
    grown = wide.largest_factorised > plain.largest_factorised
    kept = _kept_a_parameter(plain, wide)
    free = difference <= SAME and not grown
    if free and kept >= KEPT_PER_PARAMETER:
        sizes = {"train": 2 * NUM_TRAIN}
        # What is kept of each example and parameter is no curvature: it doubles with the examples.
        kept = 2 * kept - _kept_a_parameter(laboratory.measure(**sizes), laboratory.measure(**sizes, width=2 * WIDTH))
    measured = (
        f"scores change by {difference:.2g} with the second derivatives; {kept:.2f} numbers kept a parameter; largest "
        f"matrix factorised {plain.largest_factorised}, {wide.largest_factorised} in a network of twice the width"
    )
    return Finding(holds=free and kept < KEPT_PER_PARAMETER, measured=measured)


def _kept_a_parameter(plain: Measurement, wide: Measurement) -> float:
    return (wide.kept - plain.kept) / (wide.parameters - plain.parameters)


def check_architecture_agnostic(laboratory: Laboratory) -> Finding:
    """Compare the scores of one network, written with the library's layers and with own ones."""
    plain = laboratory.measure()
    try:
        rewritten = laboratory.score_rewritten(own_layers=True, false_curvature=False)
    except Exception as error:  # whatever it says: it doesn't run on this network, and did on its twin
        return Finding(holds=False, measured=_reason(error))
    difference = _difference(rewritten, plain.scores)
    return Finding(holds=difference <= SAME, measured=f"scores change by {difference:.2g}")


def _difference(scores: Float[Tensor, "query train"], reference: Float[Tensor, "query train"]) -> float:
    return ((scores - reference).norm() / reference.norm().clamp_min(torch.finfo(torch.float32).tiny)).item()


def check_no_fit_phase(laboratory: Laboratory) -> Finding:
    """Count the model's passes in the phase ``fit`` of the cost."""
    passes = laboratory.measure().passes.get("fit", 0.0)
    return Finding(holds=passes == 0, measured=f"{passes:,.0f} forward passes in the phase fit")


def check_amortises_over_queries(laboratory: Laboratory) -> Finding:
    """Count the model's passes that an added query costs."""
    measured = laboratory.measure(), laboratory.measure(query=2 * NUM_QUERY)
    few, many = (sum(measurement.passes.values()) for measurement in measured)
    added = (many - few) / NUM_QUERY
    limit = PASSES_PER_QUERY * laboratory.num_models
    measured = f"{added:,.1f} forward passes an added query, with {laboratory.num_models} checkpoints"
    return Finding(holds=added <= limit, measured=measured)


def check_per_token(laboratory: Laboratory) -> Finding:
    """Ask for scores of every pair of tokens on a small language problem."""
    attribute_tokens = getattr(laboratory.attributor, "attribute_tokens", None)
    if attribute_tokens is None:
        return Finding(holds=False, measured="it has no attribute_tokens")
    problem = make_token_problem(laboratory.workspace(), num_models=laboratory.num_models, seed=laboratory.seed)
    scores = attribute_tokens(problem, generator=make_generator(laboratory.seed, "properties", 0))
    positions = problem.query["input_ids"].shape[1] - 1
    expected = (num_examples(problem.query), positions, num_examples(problem.train), positions)
    finite = bool(scores.isfinite().all())
    measured = f"shape {tuple(scores.shape)} for {expected}, {'all' if finite else 'not all'} finite"
    return Finding(holds=tuple(scores.shape) == expected and finite, measured=measured)


def check_higher_order(laboratory: Laboratory) -> Finding:
    """Score examples whose gradient is zero against like ones, with curvature and, if that shows, without.

    Where one run leaves it open, the scores are averaged over more.
    """
    runs = 1
    beyond = _like_beyond_unlike(laboratory, runs=runs)
    if 0 < abs(beyond) <= BEYOND_ERROR:
        runs = MORE_RUNS
        beyond = _like_beyond_unlike(laboratory, runs=runs)
    measured = f"{beyond:.1f} standard errors between like and unlike examples"
    if beyond <= BEYOND_ERROR:
        return Finding(holds=False, measured=measured)
    control = _like_beyond_unlike(laboratory, runs=runs, curved=False)
    return Finding(holds=control <= BEYOND_ERROR, measured=f"{measured}, {control:.1f} without curvature")


def _like_beyond_unlike(laboratory: Laboratory, *, runs: int, curved: bool = True) -> float:
    settings = {"num_models": laboratory.num_models, "seed": laboratory.seed}
    problems = (make_flat_problem(laboratory.workspace(), curved=curved, **settings) for _ in range(runs))
    scores = torch.stack([laboratory.score(problem, run=run) for run, problem in enumerate(problems)]).mean(dim=0)
    flat = scores[:GROUPS, :GROUPS].double()
    like, unlike = flat.diagonal(), flat[~torch.eye(GROUPS, dtype=torch.bool)]
    # A method that gives all of them 0 has no error; the floor is far below any score that counts.
    floor = 1e-6 * scores.abs().max().item() + torch.finfo(torch.float32).tiny
    return ((like.mean() - unlike.mean()) / (unlike.std() / GROUPS**0.5).clamp_min(floor)).item()


PROPERTIES = (
    Property(
        key="hessian_free",
        title="Hessian-free",
        how="The scores are the same with the network's second derivatives falsified, no matrix that grows with the "
        "network is inverted or decomposed, and nothing is kept on disk for every parameter unless it grows with the "
        "examples (a diagonal that is kept in memory only is not seen).",
        check=check_hessian_free,
    ),
    Property(
        key="architecture_agnostic",
        title="Architecture-agnostic",
        how="The scores are the same if the same network is written without nn.Linear and nn.Conv2d.",
        check=check_architecture_agnostic,
    ),
    Property(
        key="no_fit_phase",
        title="No fit phase",
        how="The model makes no pass in the phase that the cost table calls fit.",
        check=check_no_fit_phase,
    ),
    Property(
        key="amortises_over_queries",
        title="Amortises over many queries",
        how=f"An added query costs the model at most {PASSES_PER_QUERY} forward passes a checkpoint, counted at "
        f"{NUM_QUERY} and at {2 * NUM_QUERY} queries in operations of the network's convolution.",
        check=check_amortises_over_queries,
    ),
    Property(
        key="per_token",
        title="Per-token",
        how="attribute_tokens gives a finite score for every pair of tokens of a language problem.",
        check=check_per_token,
    ),
    Property(
        key="higher_order",
        title="Higher-order geometry",
        how="Examples whose gradient is zero but whose Hessian is not score higher with like ones than with unlike "
        f"ones, by more than {BEYOND_ERROR:.0f} standard errors, and not so once their curvature is taken away.",
        check=check_higher_order,
    ),
)
