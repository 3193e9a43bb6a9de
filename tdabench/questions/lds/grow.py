"""How a method's LDS grows with its draws, what they cost, and where the LDS would end."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tdabench.attributors.estimates.estimators import loss_correlation, loss_covariance
from tdabench.evaluation.lds import GroundTruth
from tdabench.experiment.sections import EvaluationSettings
from tdabench.questions.diagnostics.diagnose import find_converged
from tdabench.questions.lds.extrapolation import extrapolate
from tdabench.questions.lds.growth import Estimate, measure_growth
from tdabench.seeds import make_generator


def grow_from(
    traces: Mapping[str, Tensor],
    record: Mapping[str, Any],
    truth: GroundTruth,
    settings: EvaluationSettings,
    *,
    num_scored: int,
    markov: bool,
    seed: int,
    place: tuple[int, int],
) -> tuple[str, dict[str, Any]]:
    """Return the status, and the growth of the LDS with the draws of a method; nothing but a reason if there is none.

    Args:
        traces: Losses over the draws: ``train`` and ``query``, and what else the method kept.
        record: Of the method's scores: its ``attributor``, whose ``estimate`` made them, and its ``cost``.
        truth: The bank, with the losses of all queries.
        markov: Whether a draw depends on the one before it.
        place: Repeat and train size: they name the stream of the bootstrap, so that the last point is the table's.
    """
    if not markov:
        return "no growth: the draws are laid out as a whole, so that the first of them are no smaller design", {}
    converged = find_converged(traces["train"], traces["query"])
    train, query = traces["train"][converged], traces["query"][converged, :, :num_scored]
    estimate = estimate_of(record.get("attributor"), record.get("method"))
    if estimate is None or not len(train) or train.shape[1] < 2:
        return "no growth: the scores are neither the covariance nor the correlation of the traces", {}
    scored = dataclasses.replace(truth, losses=truth.losses[:, :num_scored])
    asked = query, train, estimate, scored, settings
    points = measure_growth(*asked, generator=make_generator(seed, "bootstrap", *place))
    limit = extrapolate(*asked, generator=make_generator(seed, "bootstrap", *place))
    spent = _Spent(traces, record)
    rows = [{**point, **spent.at(point["draws"])} for point in points]
    found = {"chains": len(converged), "queries": num_scored, "points": rows, "limit": dataclasses.asdict(limit)}
    return "ok", found


def estimate_of(attributor: Any, method: Any = None) -> Estimate | None:
    """Return the function of the losses that made a method's scores, by its recorded settings; None for another one.

    Correlations of single tokens, summed, are not those of whole sequences; covariances are. A covariance that is
    divided by self-influence is a correlation, up to a factor of the query; a mean over checkpoints is neither.

    Args:
        method: The method's line in the file, as recorded.
    """
    line = method if isinstance(method, Mapping) else {}
    if line.get("average", 1) > 1:
        return None
    settings = attributor if isinstance(attributor, Mapping) else {}
    estimates = {"covariance": loss_covariance}
    if settings.get("level", "sequence") == "sequence":
        estimates["correlation"] = loss_correlation
    estimate = estimates.get(settings.get("estimate"))
    return loss_correlation if estimate is not None and line.get("normalize") == "self" else estimate


class _Spent:
    """What a method had spent when every chain was at some draw."""

    def __init__(self, traces: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        settings = record.get("attributor")
        settings = settings if isinstance(settings, Mapping) else {}
        parts = list(record.get("cost", {}).values())
        self.burn_in, self.steps = settings.get("burn_in", 0), settings.get("steps_between_draws", 1)
        # A chain that diverged has stopped.
        self.clock = traces["cpu_seconds"].nan_to_num(0).cummax(dim=1).values if "cpu_seconds" in traces else None
        self.draws = traces["train"].shape[1]
        # Losses at a draw: of every chain, for every example.
        self.measured = len(traces["train"]) * (traces["train"].shape[2] + traces["query"].shape[2])
        self.before = self.measured if "train_checkpoint" in traces else 0
        self.seconds, self.passes = _sum_of(parts, "cpu_seconds"), _sum_of(parts, "passes")

    def at(self, draws: int) -> dict[str, int | float | None]:
        """Return CPU seconds, by the chains' own clock if they have one, and passes: of the draws, and of all steps."""
        share = (self.burn_in + draws * self.steps) / (self.burn_in + self.draws * self.steps)
        seconds, passes = self.seconds, self.passes
        if self.clock is not None:
            seconds = self.clock[:, draws - 1].sum().item()
        elif seconds is not None:
            seconds *= share
        if passes is not None:
            steps = max(passes - self.before - self.draws * self.measured, 0)
            left = passes - steps - self.before
            passes = round(self.before + left * draws / self.draws + steps * share)
        return {"cpu_seconds": seconds, "passes": passes}


def _sum_of(parts: list[dict[str, Any]], name: str) -> int | float | None:
    """Add up the phases; nothing is known of the whole if a phase has nothing."""
    values = [part.get(name) for part in parts]
    return sum(values) if values and None not in values else None
