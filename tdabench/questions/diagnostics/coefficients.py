"""Learning coefficient and singular fluctuation of single examples, from their losses at draws around a checkpoint."""

import torch
from jaxtyping import Float
from torch import Tensor

# Examples at a time: bounds the memory.
CHUNK = 1000


def learning_coefficients(
    losses: Float[Tensor, "chain draw example"], checkpoint: Float[Tensor, " example"], inverse_temperature: float
) -> Float[Tensor, " example"]:
    r"""Return each example's local learning coefficient.

    .. math:: \hat\lambda_i = n\beta (\mathbb{E}[\ell_i(w)] - \ell_i(w^*))

    whose mean over the training examples is the estimator of Lau et al. (2023, arXiv:2308.12108): for a regular model
    half its number of parameters, less where localization holds them. How much moving about a checkpoint without
    leaving its valley costs this example. Negative where the draws fit it better than the checkpoint does.

    Args:
        losses: In nats, of chains that did not diverge.
        checkpoint: The losses at :math:`w^*`.
        inverse_temperature: :math:`n\beta` of the draws.
    """
    means = [part.double().mean(dim=(0, 1)) for part in losses.split(CHUNK, dim=2)]
    return inverse_temperature * (torch.cat(means) - checkpoint.double())


def singular_fluctuations(
    losses: Float[Tensor, "chain draw example"], inverse_temperature: float
) -> Float[Tensor, " example"]:
    r"""Return each example's singular fluctuation, at least 0.

    .. math:: \hat\nu_i = \tfrac{n\beta}{2} \mathrm{Var}(\ell_i(w))

    whose mean over the training examples is half Watanabe's functional variance times :math:`\beta` (2009, *Algebraic
    geometry and statistical learning theory*): for a regular model that is true, half its number of parameters. The
    variance is that of draws about their own chain's mean: the diagonal of the Bayesian influence function.

    Args:
        losses: In nats, of chains that did not diverge, at least two draws each.
        inverse_temperature: :math:`n\beta` of the draws.
    """
    variances = [part.double().var(dim=1).mean(dim=0) for part in losses.split(CHUNK, dim=2)]
    return inverse_temperature / 2 * torch.cat(variances)
