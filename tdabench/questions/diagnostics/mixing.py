"""How well Markov chains have settled and mixed: split R-hat, effective draws, drift; an answer a series."""

import math

import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor


def split_rhat(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, " example"]:
    r"""Return the rank-normalised split R-hat of each series (Vehtari et al., 2021, arXiv:1903.08008, section 4).

    .. math:: \hat R = \sqrt{\frac{(N - 1) W / N + B / N}{W}}

    of normal scores of the ranks over halves of chains (W: mean variance within, B/N: variance of their means); the
    larger of that of the values, which finds chains apart, and of the values' distances from their median, which
    finds chains of unequal spread. 1 is perfect; NaN where a series never moves.

    Args:
        values: At least 4 draws a chain.
    """
    halves = _halve(values)
    centre = halves.flatten(0, 1).quantile(0.5, dim=0)
    # fmax, not maximum: of two values that lie symmetrically, the distances from the median are constant.
    return torch.fmax(_rhat(_normal_scores(halves)), _rhat(_normal_scores((halves - centre).abs())))


def effective_draws(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, " example"]:
    """Return the effective number of draws of all chains together, for the mean of each series.

    Geyer's (1992) initial monotone sequence on the autocorrelations of half chains, combined so that chains that lie
    apart count as few draws (Vehtari et al., 2021, equations 10 to 13, without ranks). NaN where a series never moves.

    Args:
        values: At least 4 draws a chain.
    """
    return _effective(_halve(values))[0]


def effective_draws_by_chain(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, "chain example"]:
    """Return each chain's own effective number of draws, by the same initial monotone sequence."""
    return torch.stack([_effective(chain[None])[0] for chain in values])


def mean_error(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, " example"]:
    """Return the Monte Carlo standard error of each series' mean over all chains; 0 where it never moves."""
    effective, variance = _effective(_halve(values))
    return torch.where(variance > 0, (variance / effective).sqrt(), 0)


def drift_scores(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, "chain example"]:
    """Return the mean of each chain's last half less that of its first, in units of its Monte Carlo standard error.

    About standard normal for a chain that has settled and is long beside its correlations (Geweke, 1992, with halves
    and Geyer's estimate of the error). NaN where both halves never move.
    """
    draws = values.shape[1] // 2
    first, last = values[:, :draws], values[:, -draws:]
    difference = last.mean(dim=1) - first.mean(dim=1)
    squared = torch.stack([_squared_error(a[None]) + _squared_error(b[None]) for a, b in zip(first, last, strict=True)])
    return difference / torch.where(squared > 0, squared.sqrt(), torch.nan)


def _squared_error(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, " example"]:
    effective, variance = _effective(values)
    return torch.where(variance > 0, variance / effective, 0)


def _halve(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, "half half_draw example"]:
    """Make two chains of each; the middle one of an odd number of draws is left out."""
    draws = values.shape[1] // 2
    return torch.cat([values[:, :draws], values[:, -draws:]])


def _rhat(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, " example"]:
    draws = values.shape[1]
    values = values - values[:1, :1]  # a series that never moves is exactly zero, without rounding
    within = values.var(dim=1).mean(dim=0)
    between = values.mean(dim=1).var(dim=0)
    # 0 / 0 is NaN: nothing moves; x / 0 is infinite: chains that stand still at different places.
    return (((draws - 1) / draws * within + between) / within).sqrt()


def _normal_scores(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, "chain draw example"]:
    """Replace values by the normal quantiles of their ranks over all chains (Blom's)."""
    flat = values.flatten(0, 1)
    ranks = torch.from_numpy(rankdata(flat.numpy(), axis=0))  # ties have their mean rank
    return torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25)).view(values.shape)


def _effective(
    values: Float[Tensor, "chain draw example"],
) -> tuple[Float[Tensor, " example"], Float[Tensor, " example"]]:
    """Return the effective draws of all chains, and the variance of a draw with what the chains lie apart."""
    chains, draws = values.shape[:2]
    products = _autocovariances(values).mean(dim=0)  # (lag, example)
    within = products[0] * draws / (draws - 1)
    variance = products[0] + (values.mean(dim=1).var(dim=0) if chains > 1 else 0)
    correlations = 1 - (within - products) / variance
    correlations[0] = 1
    lags = draws - draws % 2
    pairs = correlations[:lags].view(lags // 2, 2, -1).sum(dim=1)
    initial = (pairs > 0).cumprod(dim=0)  # up to the first pair that is not positive
    time = 2 * (pairs.cummin(dim=0).values * initial).sum(dim=0) - 1
    # A bound for chains that swing: more than N log10(N) draws' worth is an accident of short chains.
    shortest = 1 / math.log10(max(chains * draws, 10))
    effective = chains * draws / time.clamp(min=shortest)
    return torch.where(variance > 0, effective, torch.nan), variance


def _autocovariances(values: Float[Tensor, "chain draw example"]) -> Float[Tensor, "chain draw example"]:
    draws = values.shape[1]
    values = values - values[:, :1]  # a series that never moves is exactly zero, without rounding
    centred = values - values.mean(dim=1, keepdim=True)
    # Twice as long, so that the end of a chain does not meet its beginning.
    spectrum = torch.fft.rfft(centred, n=2 * draws, dim=1).abs().square()
    return torch.fft.irfft(spectrum, n=2 * draws, dim=1)[:, :draws] / draws
