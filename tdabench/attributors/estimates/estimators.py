"""Covariance and correlation of losses over draws, of all draws at once or from a stream of them."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Below it a loss counts as one that never moved (as in torch.nn.functional.normalize).
SMALLEST_NORM = 1e-12


def require_estimate(estimate: str) -> None:
    """Check the name of an estimate."""
    if estimate not in ("covariance", "correlation"):
        raise ValueError(f"estimate must be covariance or correlation, got {estimate!r}.")


def loss_covariance(
    query: Float[Tensor, "chain draw query"], train: Float[Tensor, "chain draw train"]
) -> Float[Tensor, "query train"]:
    """Covariance of losses over draws, centred in each chain and averaged over chains (unbiased).

    Raises:
        ValueError: If a chain has fewer than two draws.
    """
    chains, draws = query.shape[:2]
    if draws < 2:
        raise ValueError(f"A covariance needs at least 2 draws a chain, got {draws}.")
    centred_query, centred_train = _centre(query), _centre(train)
    return (centred_query.T @ centred_train).div_(chains * (draws - 1))


def loss_correlation(
    query: Float[Tensor, "chain draw query"], train: Float[Tensor, "chain draw train"]
) -> Float[Tensor, "query train"]:
    """Pearson correlation of losses over draws, centred in each chain; 0 where a loss never moved.

    Raises:
        ValueError: If a chain has fewer than two draws.
    """
    if query.shape[1] < 2:
        raise ValueError(f"A correlation needs at least 2 draws a chain, got {query.shape[1]}.")
    centred = (_centre(losses) for losses in (query, train))
    first, second = (nn.functional.normalize(losses, dim=0, eps=SMALLEST_NORM) for losses in centred)
    return first.T @ second


def _centre(losses: Float[Tensor, "chain draw example"]) -> Float[Tensor, "sample example"]:
    # float64: losses vary little around means of order one.
    losses = losses.double()
    return (losses - losses.mean(dim=1, keepdim=True)).flatten(0, 1)


@dataclasses.dataclass
class _Means:
    """How many draws of a chain were seen, and the mean losses over them."""

    draws: int
    query: Float[Tensor, " query"]
    train: Float[Tensor, " train"]


class StreamingCovariance:
    r"""``loss_covariance`` and ``loss_correlation`` of draws that come in blocks, in any order (Chan et al., 1979).

    .. math:: C = C_a + C_b + \frac{m_a m_b}{m_a + m_b} (\bar q_b - \bar q_a)(\bar t_b - \bar t_a)^T

    for two blocks of one chain; those of different chains add up without the last term, so that each is centred about
    its own mean. In memory are one query x train matrix and the means of each chain, in float64, but no draw.
    """

    def __init__(self, num_query: int, num_train: int, *, device: torch.device | str = "cpu") -> None:
        self._products = torch.zeros(num_query, num_train, dtype=torch.float64, device=device)
        self._query_squares = torch.zeros(num_query, dtype=torch.float64, device=device)
        self._train_squares = torch.zeros(num_train, dtype=torch.float64, device=device)
        self._chains: dict[int, _Means] = {}

    def update(self, chain: int, query: Float[Tensor, "draw query"], train: Float[Tensor, "draw train"]) -> None:
        """Add draws of a chain.

        Args:
            chain: Which one: any number, the same for all blocks of a chain.
        """
        first, second = query.double(), train.double()
        means = _Means(len(first), first.mean(dim=0), second.mean(dim=0))
        first, second = first - means.query, second - means.train
        self._products.addmm_(first.T, second)
        self._query_squares += first.square().sum(dim=0)
        self._train_squares += second.square().sum(dim=0)
        self._join(chain, means)

    def estimate(self, estimate: str) -> Float[Tensor, "query train"]:
        """Return the ``covariance`` or the ``correlation``."""
        return self.covariance() if estimate == "covariance" else self.correlation()

    def covariance(self) -> Float[Tensor, "query train"]:
        """Return the covariance, centred in each chain (unbiased).

        Raises:
            ValueError: If no chain has two draws.
        """
        return self._products / self._degrees("covariance")

    def correlation(self) -> Float[Tensor, "query train"]:
        """Return the Pearson correlation, centred in each chain; 0 where a loss never moved.

        Raises:
            ValueError: If no chain has two draws.
        """
        self._degrees("correlation")
        first, second = (
            squares.sqrt().clamp(min=SMALLEST_NORM) for squares in (self._query_squares, self._train_squares)
        )
        return (self._products / first[:, None]).div_(second)

    def _join(self, chain: int, new: _Means) -> None:
        """Move a chain's means by new draws, whose sums about their own means are in already."""
        old = self._chains.get(chain)
        if old is None:
            self._chains[chain] = new
            return
        draws = old.draws + new.draws
        query, train, share = new.query - old.query, new.train - old.train, new.draws / draws
        self._products.addr_(query, train, alpha=old.draws * share)
        self._query_squares += query.square() * (old.draws * share)
        self._train_squares += train.square() * (old.draws * share)
        self._chains[chain] = _Means(draws, old.query + share * query, old.train + share * train)

    def _degrees(self, estimate: str) -> int:
        degrees = sum(means.draws - 1 for means in self._chains.values())
        if degrees < 1:
            most = max((means.draws for means in self._chains.values()), default=0)
            raise ValueError(f"A {estimate} needs at least 2 draws a chain, got {most}.")
        return degrees
