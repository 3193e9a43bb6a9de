"""How cost grows with the model, and from how many queries on a method that is fitted first is the cheaper one."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit  # scipy.stats takes seconds to import

Line = statistics.LinearRegression


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """A cost that was not measured, with the interval in which a single measurement would lie."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerLaw:
    r"""A line through logarithms: :math:`\mathrm{cost} = e^{c} \, (\mathrm{size} / s)^{k}`, s the geometric mean.

    Attributes:
        exponent: k.
        low: Lower end of Student's t interval of k; NaN with two points, through which every line goes exactly.
        high: Upper end.
        points: Different sizes that it was fitted to.
        intercept: c.
        centre: log s.
        squares: Sum of the squared deviations of the logarithmic sizes from ``centre``.
        residual: Standard deviation of the logarithmic costs about the line; NaN with two points.
    """

    exponent: float
    low: float
    high: float
    points: int
    intercept: float
    centre: float
    squares: float
    residual: float

    def predict(self, size: float, confidence: float) -> Prediction:
        """Predict the cost at a size; the interval also counts that line and exponent are not known exactly."""
        away = math.log(size) - self.centre
        value = self.intercept + self.exponent * away
        reach = _quantile(self.points, confidence) * self.residual
        reach *= math.sqrt(1 + 1 / self.points + away**2 / self.squares)
        return Prediction(value=math.exp(value), low=_exp(value - reach), high=_exp(value + reach))


def fit_power_law(sizes: Sequence[float], costs: Sequence[float], *, confidence: float) -> PowerLaw | None:
    """Fit a power law by least squares of the logarithms; none if there are fewer than two different sizes.

    Measurements of one size are one point, their geometric mean: they share whatever keeps the size off the line, and
    would make the interval too narrow. Missing costs (NaN) are left out; there is no law where one is 0.

    Args:
        sizes: Positive, one a measurement.
        costs: One a measurement.
        confidence: Of the exponent's interval, in (0, 1).
    """
    known = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if not math.isnan(cost)]
    if any(cost <= 0 for _, cost in known):
        return None
    points = _mean_by([(math.log(size), math.log(cost)) for size, cost in known])
    if len(points) < 2:
        return None
    across = statistics.fmean(x for x, _ in points)
    squares = sum((x - across) ** 2 for x, _ in points)
    exponent, up = statistics.linear_regression([x - across for x, _ in points], [y for _, y in points])
    freedom = len(points) - 2
    misfit = sum((y - up - exponent * (x - across)) ** 2 for x, y in points)
    residual = math.sqrt(misfit / freedom) if freedom else math.nan
    reach = _quantile(len(points), confidence) * residual / math.sqrt(squares)
    return PowerLaw(
        exponent=exponent,
        low=exponent - reach,
        high=exponent + reach,
        points=len(points),
        intercept=up,
        centre=across,
        squares=squares,
        residual=residual,
    )


def hold_out_largest(
    sizes: Sequence[float], costs: Sequence[float], *, confidence: float
) -> tuple[float, Prediction] | None:
    """Predict the cost of the largest measured size from all smaller ones; none if those give no law.

    Returns:
        The size, and its prediction.
    """
    measured = [size for size, cost in zip(sizes, costs, strict=True) if not math.isnan(cost)]
    if not measured:
        return None
    largest = max(measured)
    smaller = [(size, cost) for size, cost in zip(sizes, costs, strict=True) if size < largest]
    law = fit_power_law([size for size, _ in smaller], [cost for _, cost in smaller], confidence=confidence)
    return None if law is None else (largest, law.predict(largest, confidence))


def predict_break_even(fitted: Line, other: Line) -> float:
    """Return the number of queries from which ``fitted`` is cheaper than ``other``; 0: always, infinity: never."""
    ahead = other.intercept - fitted.intercept
    saved = other.slope - fitted.slope
    if ahead >= 0 and saved >= 0:
        return 0.0
    return -ahead / saved if saved > 0 else math.inf


def find_break_even(
    queries: Sequence[int], fitted: Sequence[float], other: Sequence[float]
) -> tuple[float, float, float]:
    """Find from how many queries on one method was measured to be cheaper than another.

    Args:
        queries: Ascending numbers of queries at which both were measured, at least one.
        fitted: Cost of the method that is fitted first, at each.
        other: Cost of the other one.

    Returns:
        Where it becomes cheaper for good, by linear interpolation, and the two measured numbers of queries between
        which that is: (NaN, 0, the first) if it always was cheaper, (NaN, the last, infinity) if it is not at the last.
    """
    dearer = [one - two for one, two in zip(fitted, other, strict=True)]
    if dearer[-1] >= 0:
        return math.nan, float(queries[-1]), math.inf
    last = max((place for place, excess in enumerate(dearer) if excess >= 0), default=None)
    if last is None:
        return math.nan, 0.0, float(queries[0])
    low, high = float(queries[last]), float(queries[last + 1])
    share = dearer[last] / (dearer[last] - dearer[last + 1])
    return low + share * (high - low), low, high


def _mean_by(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the mean of the second entries for each first entry, in ascending order."""
    keys = sorted({key for key, _ in pairs})
    return [(key, statistics.fmean(value for other, value in pairs if other == key)) for key in keys]


def _quantile(points: int, confidence: float) -> float:
    return float(stdtrit(points - 2, (1 + confidence) / 2)) if points > 2 else math.nan


def _exp(value: float) -> float:
    """Return the exponential; of a wide interval it may be infinite."""
    return math.inf if value > 709 else math.exp(value)
