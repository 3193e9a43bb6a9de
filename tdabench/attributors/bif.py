"""The local Bayesian influence function: covariance of per-sample losses over SGLD draws."""

import dataclasses
import math
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, Problem, batches, num_examples
from tdabench.attributors.run import AttributionWarning
from tdabench.attributors.sgld import sample_chain
from tdabench.progress import progress
from tdabench.records import save_tensors
from tdabench.seeds import fork_generator

# Nats: a chain that ever has such a loss has left the model's neighbourhood for good.
DIVERGED = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class BIF:
    r"""Local Bayesian influence function (Kreer et al., 2025).

    .. math:: \mathrm{score}(j, i) = \mathrm{Cov}_\gamma(\ell_j(w), \ell_i(w)) = -\mathrm{BIF}(i, j)

    over the local posterior :math:`p(w) \propto \exp(-n\beta L(w) - \tfrac{\gamma}{2} |w - w^*|^2)`, sampled by SGLD.
    The losses of every draw are kept in the workspace (``traces.safetensors``: ``train`` and ``query``, each
    (chain, draw, example)).

    Attributes:
        step_size: :math:`\epsilon` of SGLD.
        inverse_temperature: :math:`n\beta`.
        localization: :math:`\gamma`.
        chains: Independent chains; covariances are centred in each.
        draws: Draws a chain, at least 2.
        burn_in: Steps of each chain before its first draw.
        steps_between_draws: SGLD steps a draw: draws one step apart are almost copies.
        batch_size: Minibatch of a step, from the reference set.
        estimate: ``covariance``, or ``correlation`` (the normalised BIF, in [-1, 1]).
        loss_batch_size: Examples a forward pass at a draw; changes speed and memory only.
    """

    step_size: float
    inverse_temperature: float
    localization: float
    chains: int
    draws: int
    burn_in: int = 0
    steps_between_draws: int = 1
    batch_size: int = 128
    estimate: str = "covariance"
    loss_batch_size: int = 500

    def __post_init__(self) -> None:
        lowest = {
            "chains": 1,
            "draws": 2,
            "burn_in": 0,
            "steps_between_draws": 1,
            "batch_size": 1,
            "loss_batch_size": 1,
        }
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}.")
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}.")
        for name in ("inverse_temperature", "localization"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}.")
        if self.estimate not in ("covariance", "correlation"):
            raise ValueError(f"estimate must be covariance or correlation, got {self.estimate!r}.")

    def attribute(self, problem: Problem, *, generator: torch.Generator) -> Float[Tensor, "query train"]:
        """Sample the chains, keep their traces, and give the covariance or correlation of the losses.

        Raises:
            ValueError: If every chain diverged.
        """
        examples = {name: torch.cat([problem.train[name], problem.query[name]]) for name in problem.train}
        device = next(iter(examples.values())).device
        chains = []
        for index in range(self.chains):
            stream = fork_generator(generator, device)
            chains.append(self._sample_traces(problem, examples, stream, f"BIF chain {index + 1}/{self.chains}"))
        traces = torch.stack(chains)
        num_train = num_examples(problem.train)
        train, query = traces[..., :num_train], traces[..., num_train:]
        save_tensors(problem.workspace / "traces.safetensors", {"train": train, "query": query}, {"settings": self})
        converged = (traces.abs() < DIVERGED).all(dim=(1, 2))  # NaN is not
        if not converged.any():
            raise ValueError(f"Every BIF chain diverged at step_size={self.step_size}: lower it.")
        if not converged.all():
            lost = (~converged).nonzero().flatten().tolist()
            warnings.warn(
                AttributionWarning(f"BIF chains {lost} of {self.chains} diverged and are left out: lower step_size."),
                stacklevel=2,
            )
        estimate = loss_covariance if self.estimate == "covariance" else loss_correlation
        return estimate(query[converged], train[converged])

    def _sample_traces(
        self, problem: Problem, examples: Examples, generator: torch.Generator, description: str
    ) -> Float[Tensor, "draw example"]:
        steps = self.burn_in + self.draws * self.steps_between_draws
        chain = sample_chain(
            problem.models[0],
            problem.loss,
            problem.reference,
            steps=steps,
            step_size=self.step_size,
            inverse_temperature=self.inverse_temperature,
            localization=self.localization,
            batch_size=self.batch_size,
            generator=generator,
        )
        draws = []
        for step, model in enumerate(progress(chain, description, total=steps), start=1 - self.burn_in):
            if step > 0 and step % self.steps_between_draws == 0:
                draws.append(self._losses(model, problem, examples))
        return torch.stack(draws)

    @torch.no_grad()
    def _losses(self, model: nn.Module, problem: Problem, examples: Examples) -> Float[Tensor, " example"]:
        return torch.cat([problem.loss(model, batch) for batch in batches(examples, self.loss_batch_size)])


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
    return centred_query.T @ centred_train / (chains * (draws - 1))


def loss_correlation(
    query: Float[Tensor, "chain draw query"], train: Float[Tensor, "chain draw train"]
) -> Float[Tensor, "query train"]:
    """Pearson correlation of losses over draws, centred in each chain; 0 where a loss never moved.

    Raises:
        ValueError: If a chain has fewer than two draws.
    """
    if query.shape[1] < 2:
        raise ValueError(f"A correlation needs at least 2 draws a chain, got {query.shape[1]}.")
    centred_query, centred_train = (nn.functional.normalize(_centre(losses), dim=0) for losses in (query, train))
    return centred_query.T @ centred_train


def _centre(losses: Float[Tensor, "chain draw example"]) -> Float[Tensor, "sample example"]:
    # float64: losses vary little around means of order one.
    losses = losses.double()
    return (losses - losses.mean(dim=1, keepdim=True)).flatten(0, 1)
