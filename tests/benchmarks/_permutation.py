"""An exact test whether two sets of chains have one distribution."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor


def permutation_test(
    first: Float[Tensor, "chain value"], second: Float[Tensor, "chain value"]
) -> tuple[float, float, float]:
    """Compare the means of two sets of independent chains, over all ways to split the chains into two such sets.

    If the chains have one distribution, every split is as likely as the one at hand: the p-value is exact, whatever
    the dependence of the draws in a chain or of the values of one chain.

    Returns:
        Root mean square difference of the two means, its median over the splits (what Monte Carlo error alone gives),
        and the share of splits whose difference is at least as large.
    """
    chains = torch.cat([first, second]).double()
    chains = chains - chains.mean(dim=0)
    gram = chains @ chains.T / chains.shape[1]
    splits = list(itertools.combinations(range(len(chains)), len(first)))  # the first is the one at hand
    signs = torch.full((len(splits), len(chains)), -1 / len(second), dtype=torch.float64)
    signs.scatter_(1, torch.tensor(splits), 1 / len(first))
    squares = ((signs @ gram) * signs).sum(dim=1)
    p_value = (squares >= squares[0] * (1 - 1e-9)).double().mean().item()
    return squares[0].sqrt().item(), squares.median().sqrt().item(), p_value
