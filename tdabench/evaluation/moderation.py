"""Variances of few repeats, made firmer by what the other comparisons' variances are."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import polygamma, psi


def moderate_variances(variances: Sequence[float], *, freedom: int, most: float | int) -> tuple[list[float], float]:
    r"""Shrink sample variances towards their common size (Smyth, 2004, the moderated t statistic).

    .. math:: \tilde s_k^2 = \frac{d_0 s_0^2 + d s_k^2}{d_0 + d}, \qquad
        s_k^2 \sim \sigma_k^2 \chi^2_d / d, \quad \sigma_k^{-2} \sim \chi^2_{d_0} / (d_0 s_0^2)

    with :math:`d_0` and :math:`s_0^2` from the mean and variance of :math:`\log s_k^2`. With three repeats a variance
    alone has two degrees of freedom, and Student's t needs 4.3 standard errors where the truth needs 2.

    Args:
        variances: Of every comparison, each with ``freedom`` degrees of freedom; those that are not positive stay.
        most: Bound of :math:`d_0`: comparisons that share methods say less than as many independent ones.

    Returns:
        The variances, and their degrees of freedom :math:`d_0 + d`.
    """
    positive = [variance for variance in variances if variance > 0]
    if len(positive) < 3:
        return list(variances), float(freedom)
    logs = np.log(positive) - psi(freedom / 2) + math.log(freedom / 2)
    excess = logs.var(ddof=1) - polygamma(1, freedom / 2)
    prior = min(2 * _inverse_trigamma(excess), most) if excess > 0 else most
    common = math.exp(logs.mean() + psi(prior / 2) - math.log(prior / 2))
    total = prior + freedom
    shrunk = [(prior * common + freedom * value) / total if value > 0 else value for value in variances]
    return shrunk, float(total)


def _inverse_trigamma(value: float) -> float:
    """Solve trigamma(x) = value by Newton's method on its reciprocal, which is nearly linear (Smyth, 2004)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = polygamma(1, x)
        step = trigamma * (1 - trigamma / value) / polygamma(2, x)
        x += step
        if abs(step) < 1e-10 * x:
            break
    return float(x)
