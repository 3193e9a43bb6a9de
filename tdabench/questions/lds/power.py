"""Before the compute is spent: how many subsets and retrains a wished precision needs."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from tdabench.evaluation.reliability import lds_ceiling
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.lds.judge import judge_cell
from tdabench.seeds import make_generator

# A simulated pilot: large enough that its variances scale, several so that they are known to some 5 %.
PILOTS, PILOT_SUBSETS, PILOT_RETRAINS, PILOT_RESAMPLES = 6, 60, 2, 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pilot:
    """What is known beforehand of a mean LDS, or of a difference of two.

    Attributes:
        lds: The mean, or the difference.
        agreement: Between two retrains; None if the pilot had one retrain a subset.
        over_queries: Variance of the mean that comes from the queries, at so many queries.
        over_subsets: That from the subsets, without their models' noise, at so many subsets.
        over_retrains: That from the retrained models' noise, at so many subsets and retrains; NaN with one retrain.
    """

    subsets: int
    retrains: int
    queries: int
    lds: float
    agreement: float | None
    over_queries: float
    over_subsets: float
    over_retrains: float

    @property
    def knows_noise(self) -> bool:
        """Whether it can tell the models' noise from the subsets."""
        return self.agreement is not None and self.agreement > 0


def pilot_of(comparison: Mapping[str, Any], method: str | None, against: str | None) -> Pilot:
    """Take a pilot from a file of the stage ``compare``.

    Args:
        method: None for the best of the ranking.
        against: A second method, to plan for the difference to it; None to plan for the LDS itself.

    Raises:
        ValueError: If the file is of another stage, or has no such method or no number for it.
    """
    if not {"methods", "pairs", "reliability", "ranking"} <= set(comparison):
        raise ValueError("The pilot is no comparison: give results/EXPERIMENT/REPEAT/SIZE/compare/comparison.json.")
    if not comparison["methods"]:
        raise ValueError("The pilot has no method that could run.")
    method = method or comparison["ranking"][0]["method"]
    for name in (method, against):
        if name is not None and name not in comparison["methods"]:
            raise ValueError(f"The pilot has no method {name}; there are {', '.join(comparison['methods'])}.")
    if against is None:
        row, value = comparison["methods"][method], comparison["methods"][method]["lds"]
    elif against == method:
        raise ValueError(f"A method has no difference to itself, got {method} twice.")
    else:
        row = next(row for row in comparison["pairs"] if {row["first"], row["second"]} == {method, against})
        value = None if row["difference"] is None else row["difference"] * (1 if row["first"] == method else -1)
    if value is None:
        raise ValueError(f"The pilot has no LDS of {method}: its scores are the same for every subset.")
    noise = row["variance"]["retrains"]
    return Pilot(
        subsets=comparison["subsets"],
        retrains=comparison["retrains"],
        queries=comparison["queries"],
        lds=value,
        agreement=comparison["reliability"]["agreement"],
        over_queries=row["variance"]["queries"],
        over_subsets=row["variance"]["subsets"],
        over_retrains=math.nan if noise is None else noise,
    )


def simulate_pilot(
    *, agreement: float, lds: float, queries: int, shared: float, query_spread: float, paired: bool, seed: int = 0
) -> Pilot:
    r"""Make a pilot from planning values, by a linear Gaussian model of a bank.

    A subset's expected loss on a query is :math:`\sqrt c\,u_s + \sqrt{1 - c}\,u_{sj}` with the share c that all queries
    have in common; retraining adds noise of the same kind, as large as the agreement says; a method's prediction is
    correlated with the expected loss by the query's LDS, its error of the same kind again. Banks drawn so are compared
    as real ones are, and the variances averaged.

    Args:
        agreement: Spearman's correlation of two retrains, in (0, 1).
        lds: Of the method against the expected loss (that is, with very many retrains), in (-1, 1).
        shared: The share c, in [0, 1]; it decides how much more queries help.
        query_spread: Standard deviation of the LDS over queries.
        paired: Plan for the difference of two methods of the same LDS, with independent errors.

    Raises:
        ValueError: If a value is out of its range.
    """
    for name, value, low, high in (("agreement", agreement, 0, 1), ("lds", lds, -1, 1)):
        if not low < value < high:
            raise ValueError(f"--{name} must lie in ({low}, {high}), got {value}.")
    if not 0 <= shared <= 1:
        raise ValueError(f"--shared must lie in [0, 1], got {shared}.")
    if query_spread < 0 or queries < 2:
        raise ValueError(f"--query-spread must be at least 0 and --queries 2, got {query_spread} and {queries}.")
    settings = EvaluationSettings(resamples=PILOT_RESAMPLES)
    found = []
    for index in range(PILOTS):
        generator = make_generator(seed, "pilot", index)
        scores, losses = _draw_bank(agreement, lds, queries, shared, query_spread, generator)
        masks = torch.eye(PILOT_SUBSETS, dtype=torch.bool)  # a score a subset: the prediction itself
        judged = judge_cell(scores, masks, losses, settings, num_scored=queries, seed=seed, place=(index, 0))
        found.append(pilot_of(judged["comparison"], "first", "second" if paired else None))
    means = {
        name: sum(getattr(pilot, name) for pilot in found) / PILOTS
        for name in ("lds", "over_queries", "over_subsets", "over_retrains")
    }
    return dataclasses.replace(found[0], agreement=agreement, **means)


def _draw_bank(
    agreement: float, lds: float, queries: int, shared: float, query_spread: float, generator: torch.Generator
) -> tuple[dict[str, Float[Tensor, "query subset"]], Float[Tensor, "subset retrain query"]]:
    def draw(*shape: int) -> Tensor:
        common, own = (torch.randn(*shape, width, generator=generator, dtype=torch.float64) for width in (1, queries))
        return shared**0.5 * common + (1 - shared) ** 0.5 * own

    expected = draw(PILOT_SUBSETS)
    reliability = _pearson(torch.tensor(agreement))
    noise = ((1 - reliability) / reliability) ** 0.5
    per_query = lds + query_spread * torch.randn(queries, generator=generator, dtype=torch.float64)
    slope = _pearson(per_query.clamp(-0.99, 0.99))
    scores = {name: (slope * expected + (1 - slope**2).sqrt() * draw(PILOT_SUBSETS)).T for name in ("first", "second")}
    return scores, -(expected[:, None] + noise * draw(PILOT_SUBSETS, PILOT_RETRAINS))


def _pearson(spearman: Tensor) -> Tensor:
    """Return the correlation of Gaussians with this rank correlation."""
    return 2 * torch.sin(math.pi * spearman / 6)


def plan(
    pilot: Pilot,
    *,
    subsets: Sequence[int],
    retrains: Sequence[int],
    queries: int,
    half_width: float,
    confidence: float,
) -> list[dict[str, Any]]:
    """Predict ceiling, LDS and half-width for each number of subsets and retrains; mark the cheapest that suffices.

    The LDS grows as the ceiling does. The variance from queries falls with their number, that from subsets with
    theirs, and that from the models' noise with both subsets and the noise's share in the mean of the retrains. A
    pilot with one retrain a subset can't tell noise from subsets, and only that number of retrains is planned.

    Raises:
        ValueError: If a number is out of range, or the pilot can't plan for these retrains.
    """
    if not half_width > 0:
        raise ValueError(f"--half-width must be positive, got {half_width}.")
    if not 0 < confidence < 1:
        raise ValueError(f"--confidence must lie in (0, 1), got {confidence}.")
    if min(subsets) < 3 or min(retrains) < 1 or queries < 2:
        raise ValueError(
            f"A plan needs at least 3 subsets, 1 retrain and 2 queries, got {min(subsets)}, {min(retrains)}, {queries}."
        )
    if not pilot.knows_noise and pilot.retrains not in retrains:
        raise ValueError(
            f"The pilot has {pilot.retrains} retrain(s) a subset and no agreement above 0, so that it can plan for "
            "no other number: give --retrains so, or a pilot with 2."
        )
    planned = retrains if pilot.knows_noise else [count for count in retrains if count == pilot.retrains]
    rows = [_plan_one(pilot, *sizes, queries, confidence) for sizes in itertools.product(subsets, planned)]
    enough = [row for row in rows if row["half_width"] <= half_width]
    cheapest = min(enough, key=lambda row: (row["models"], row["half_width"]), default=None)
    return [{**row, "cheapest": row is cheapest} for row in rows]


def _plan_one(pilot: Pilot, subsets: int, retrains: int, queries: int, confidence: float) -> dict[str, Any]:
    ceiling = math.nan if pilot.agreement is None else lds_ceiling(pilot.agreement, retrains)
    growth = noise = 1.0  # what the LDS and the variance from the models' noise are multiplied by
    if pilot.knows_noise:
        before = lds_ceiling(pilot.agreement, pilot.retrains)
        growth, left = ceiling / before, 1 - before**2
        noise = (1 - ceiling**2) / left if left > 0 else 1.0
    over_queries, over_subsets = pilot.over_queries * pilot.queries / queries, pilot.over_subsets * pilot.subsets
    variance = growth**2 * (over_queries + over_subsets / subsets)
    if not math.isnan(pilot.over_retrains):
        variance += pilot.over_retrains * noise * pilot.subsets / subsets
    reach = float(stdtrit(min(subsets, queries) - 1, (1 + confidence) / 2)) * math.sqrt(variance)
    return {"subsets": subsets, "retrains": retrains, "ceiling": ceiling, "lds": pilot.lds * growth,
            "half_width": reach, "models": subsets * retrains}  # fmt: skip
