"""Draws from a Laplace approximation of the local posterior, in the space that stochastic gradients span."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import LossFn, Unsupported, batches, num_examples, take
from tdabench.attributors.sampling.walker import Walker
from tdabench.cost import phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class Laplace:
    """Independent draws from a Gaussian local posterior, in the span of randomly signed minibatch gradients.

    Attributes:
        draws: How many, at least 3; also the number of gradients.
        localization: See ``posterior_variances``, and so is amplitude.
        metric_damping: See ``measure_curvature``.
        curvature: Whose Fisher: that of whole examples (``example``) or of tokens (``token``).
    """

    draws: int
    localization: float
    metric_damping: float
    amplitude: float
    curvature: str = "example"
    markov: ClassVar[bool] = False

    def start(self, walker: Walker) -> Callable[[], Float[Tensor, ""]]:
        """Measure the curvature, and return the function that goes to the next draw; see ``Sampler``.

        Raises:
            Unsupported: If the curvature of tokens is asked for, and there are none.
            ValueError: If no gradient differs from zero, or one is not finite.
        """
        token_loss = walker.problem.token_loss if self.curvature == "token" else None
        if self.curvature == "token" and token_loss is None:
            raise Unsupported("curvature: token needs a language model: this problem has no token_loss")
        with phase("fit"):
            curvature = measure_curvature(
                walker, directions=self.draws - 1, metric_damping=self.metric_damping, token_loss=token_loss
            )
            variances = posterior_variances(curvature, localization=self.localization, amplitude=self.amplitude)
        return visit_draws(walker, curvature, variances, draws=self.draws)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalCurvature:
    r"""The Fisher information at a checkpoint, in the space that randomly signed minibatch gradients span.

    Parameters are measured in units of :math:`D^{-1/2}`, with :math:`D` the diagonal Fisher plus damping.

    Attributes:
        scale: :math:`D^{-1/2}`.
        basis: Orthonormal directions of the scaled parameters.
        eigenvalues: Of the scaled Fisher along each direction.
        mean_eigenvalue: Trace of the scaled Fisher divided by the number of examples that it has; of a Fisher of
            tokens, the mean of ``eigenvalues``.
    """

    scale: Float[Tensor, " parameter"]
    basis: Float[Tensor, "direction parameter"]
    eigenvalues: Float[Tensor, " direction"]
    mean_eigenvalue: float


def measure_curvature(
    walker: Walker, *, directions: int, metric_damping: float, token_loss: LossFn | None = None
) -> LocalCurvature:
    r"""Measure the local curvature where a walker is from ``directions`` randomly signed minibatch gradients.

    .. math:: v_t = b^{-1/2} \sum_{i \in B_t} s_i \nabla \ell_i(w^*), \quad s_i = \pm 1, \qquad
        \mathbb{E}\, v v^T = F, \quad \mathbb{E}\, v \odot v = \mathrm{diag}\, F

    with :math:`F` the empirical Fisher: no per-sample gradient is ever made.

    With ``token_loss``, the space and :math:`D` are the same, and the Fisher within it is that of tokens, from as many
    more gradients whose signs are of tokens: a token's gradient has mean zero given the text before it, so that
    the curvature of a row's loss is the sum of its tokens' and not the square of their sum.

    Args:
        directions: Number of gradients. Fewer directions come back if they are linearly dependent.
        metric_damping: Added to the diagonal Fisher, relative to its mean over each parameter tensor.
        token_loss: Gives every token's loss (example, position); None for a Fisher of whole examples.

    Raises:
        ValueError: If all gradients are zero, or one is not finite.
    """
    wide = torch.promote_types(walker.position.dtype, torch.float32)
    gradients = torch.empty(directions, len(walker.position), device=walker.position.device, dtype=wide)
    for row in gradients:
        row.copy_(_signed_gradient(walker, walker.problem.loss))
    scale = _invert_root(gradients.square().mean(dim=0), walker.model, metric_damping)
    gradients *= scale
    eigenvalues, basis, trace = _decompose(gradients)
    if token_loss is None:
        mean = trace / directions / num_examples(walker.problem.reference)
        return LocalCurvature(scale=scale, basis=basis, eigenvalues=eigenvalues / directions, mean_eigenvalue=mean)
    del gradients
    return _turn_to_tokens(walker, token_loss, scale, basis, directions=directions)


def _signed_gradient(walker: Walker, loss: LossFn, shape: Sequence[int] = ()) -> Float[Tensor, " parameter"]:
    """Return the gradient of a new minibatch's losses with random signs, over the root of its size.

    Args:
        shape: Of an example's losses.
    """
    walker.gradient.zero_()
    batch, generator = walker.draw_batch(), walker.generator
    count = num_examples(batch)
    signs = torch.randint(2, (count, *shape), generator=generator, device=generator.device) * 2.0 - 1.0
    size = min(walker.microbatch or count, count)
    for part, part_signs in zip(batches(batch, size), signs.split(size), strict=True):
        with torch.enable_grad():
            losses = loss(walker.model, part)
            ((losses * part_signs.to(losses)).sum() / count**0.5).backward()
    return walker.gradient.to(torch.promote_types(walker.gradient.dtype, torch.float32))


def _decompose(
    gradients: Float[Tensor, "gradient parameter"],
) -> tuple[Float[Tensor, " direction"], Float[Tensor, "direction parameter"], float]:
    """Return what scaled gradients span: the eigenvalues of the sum of their squares, the basis, and the trace."""
    gram = (gradients @ gradients.T).double()
    if not gram.isfinite().all():
        raise ValueError("A gradient at the checkpoint is not finite: give a checkpoint whose losses are finite.")
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > 1e-6 * eigenvalues[-1]
    if not eigenvalues[-1] > 0:
        raise ValueError("Every gradient at the checkpoint is zero: there is no local curvature to sample from.")
    basis = (vectors[:, kept] / eigenvalues[kept].sqrt()).T.to(gradients.dtype) @ gradients
    return eigenvalues[kept], basis, gram.trace().item()


def _turn_to_tokens(
    walker: Walker,
    token_loss: LossFn,
    scale: Float[Tensor, " parameter"],
    basis: Float[Tensor, "direction parameter"],
    *,
    directions: int,
) -> LocalCurvature:
    """Return the curvature of tokens in the space of a basis, which is turned to its eigenvectors."""
    with torch.no_grad():
        shape = token_loss(walker.model, take(walker.problem.reference, slice(1))).shape[1:]
    projected = torch.stack(
        [basis @ (_signed_gradient(walker, token_loss, shape) * scale) for _ in range(directions)]
    ).double()
    eigenvalues, vectors = torch.linalg.eigh(projected.T @ projected / directions)
    return LocalCurvature(
        scale=scale,
        basis=vectors.T.to(basis) @ basis,
        eigenvalues=eigenvalues.clamp_min(0),
        mean_eigenvalue=eigenvalues.mean().item(),
    )


def _invert_root(fisher: Float[Tensor, " parameter"], model: nn.Module, damping: float) -> Float[Tensor, " parameter"]:
    """Return the inverse root of the damped diagonal; a tensor whose gradients are all zero does not move."""
    moving = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    parts = [part + damping * part.mean() for part in fisher.split(moving)]
    return torch.cat([torch.where(part > 0, part, torch.inf) for part in parts]).rsqrt()


def posterior_variances(
    curvature: LocalCurvature, *, localization: float, amplitude: float
) -> Float[Tensor, " direction"]:
    r"""Return the posterior's variance along each direction.

    .. math:: \sigma_k^2 = \frac{1}{n\beta (\lambda_k + \gamma \bar\lambda)}, \qquad
        n\beta = \alpha^{-2} \sum_k \frac{\lambda_k}{\lambda_k + \gamma \bar\lambda}

    Args:
        localization: :math:`\gamma`, relative to the mean eigenvalue :math:`\bar\lambda`.
        amplitude: :math:`\alpha`, root mean square of a reference loss's change in nats, to first order.
    """
    precisions = curvature.eigenvalues + localization * curvature.mean_eigenvalue
    inverse_temperature = (curvature.eigenvalues / precisions).sum() / amplitude**2
    return 1 / (inverse_temperature * precisions)


def visit_draws(
    walker: Walker, curvature: LocalCurvature, variances: Float[Tensor, " direction"], *, draws: int
) -> Callable[[], Float[Tensor, ""]]:
    r"""Return a function that moves a walker to draws from :math:`N(w^*, D^{-1/2} Q^T \Sigma Q D^{-1/2})`.

    Their sample covariance (unbiased, centred) is exactly the posterior's, without the noise of independent draws:
    orthogonal Monte Carlo (Choromanski et al., 2017, arXiv:1703.00864), a random rotation of an orthogonal design.

    Args:
        variances: Along each direction of the curvature; at most ``draws - 1``.
        draws: At least 2; the function can be called so often.

    Raises:
        ValueError: If there are no more draws than directions.
    """
    directions, generator = len(variances), walker.generator
    if draws <= directions:
        raise ValueError(f"Exact moments in {directions} directions need at least {directions + 1} draws, got {draws}.")
    noise = torch.randn(draws, directions, generator=generator, device=generator.device, dtype=torch.float64)
    ones = torch.ones(draws, 1, dtype=noise.dtype, device=noise.device)
    design = torch.linalg.qr(torch.cat([ones, noise], dim=1)).Q[:, 1:]  # orthonormal columns that sum to zero
    coordinates = design.to(variances.device) * (draws - 1) ** 0.5 * variances.sqrt()
    rows, no_minibatch = iter(coordinates.to(curvature.basis)), torch.tensor(torch.nan)

    def step() -> Float[Tensor, ""]:
        walker.position.copy_(walker.checkpoint).addcmul_(next(rows) @ curvature.basis, curvature.scale)
        return no_minibatch

    return step
