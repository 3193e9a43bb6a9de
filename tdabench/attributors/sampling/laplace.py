"""Draws from a Laplace approximation of the local posterior, in the space that stochastic gradients span."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, LossFn, batches, copy_model, num_examples, take
from tdabench.attributors.sampling.sgld import Step, draw_batch, flatten_parameters


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
    model: nn.Module,
    loss: LossFn,
    reference: Examples,
    *,
    directions: int,
    batch_size: int,
    microbatch: int | None = None,
    metric_damping: float,
    generator: torch.Generator,
    token_loss: LossFn | None = None,
) -> LocalCurvature:
    r"""Measure the local curvature from ``directions`` randomly signed minibatch gradients.

    .. math:: v_t = b^{-1/2} \sum_{i \in B_t} s_i \nabla \ell_i(w^*), \quad s_i = \pm 1, \qquad
        \mathbb{E}\, v v^T = F, \quad \mathbb{E}\, v \odot v = \mathrm{diag}\, F

    with :math:`F` the empirical Fisher: no per-sample gradient is ever made.

    With ``token_loss``, the space and :math:`D` are the same, and the Fisher within it is that of tokens, from as many
    more gradients whose signs are of tokens: a token's gradient has mean zero given the text before it, so that
    the curvature of a row's loss is the sum of its tokens' and not the square of their sum.

    Args:
        directions: Number of gradients. Fewer directions come back if they are linearly dependent.
        batch_size: Examples of each gradient.
        microbatch: Most of them in memory at once; None: all of them.
        metric_damping: Added to the diagonal Fisher, relative to its mean over each parameter tensor.
        generator: The stream of minibatches and signs.
        token_loss: Gives every token's loss (example, position); None for a Fisher of whole examples.

    Raises:
        ValueError: If no parameter requires a gradient, all gradients are zero, or one is not finite.
    """
    model = copy_model(model)
    position, gradient = flatten_parameters(model)
    wide = torch.promote_types(position.dtype, torch.float32)
    gradients = torch.empty(directions, len(position), device=position.device, dtype=wide)

    def sign(loss: LossFn, shape: Sequence[int] = ()) -> Float[Tensor, " parameter"]:
        gradient.zero_()
        batch = draw_batch(reference, batch_size, generator=generator)
        _backpropagate_signed(model, loss, batch, shape, microbatch=microbatch, generator=generator)
        return gradient.to(wide)

    for row in gradients:
        row.copy_(sign(loss))
    scale = _invert_root(gradients.square().mean(dim=0), model, metric_damping)
    gradients *= scale
    gram = (gradients @ gradients.T).double()
    if not gram.isfinite().all():
        raise ValueError("A gradient at the checkpoint is not finite: give a checkpoint whose losses are finite.")
    eigenvalues, vectors = torch.linalg.eigh(gram)
    kept = eigenvalues > 1e-6 * eigenvalues[-1]
    if not eigenvalues[-1] > 0:
        raise ValueError("Every gradient at the checkpoint is zero: there is no local curvature to sample from.")
    basis = (vectors[:, kept] / eigenvalues[kept].sqrt()).T.to(gradients.dtype) @ gradients
    if token_loss is None:
        mean = gram.trace().item() / directions / num_examples(reference)
        return LocalCurvature(
            scale=scale, basis=basis, eigenvalues=eigenvalues[kept] / directions, mean_eigenvalue=mean
        )
    del gradients
    with torch.no_grad():
        shape = token_loss(model, take(reference, slice(1))).shape[1:]
    projected = torch.stack([basis @ (sign(token_loss, shape) * scale) for _ in range(directions)]).double()
    eigenvalues, vectors = torch.linalg.eigh(projected.T @ projected / directions)
    return LocalCurvature(
        scale=scale,
        basis=vectors.T.to(basis) @ basis,
        eigenvalues=eigenvalues.clamp_min(0),
        mean_eigenvalue=eigenvalues.mean().item(),
    )


def _backpropagate_signed(
    model: nn.Module,
    loss: LossFn,
    batch: Examples,
    shape: Sequence[int],
    *,
    microbatch: int | None,
    generator: torch.Generator,
) -> None:
    """Add the gradient of a batch's losses with random signs, over the root of its size, to the parameters'.

    Args:
        shape: Of an example's losses.
    """
    count = num_examples(batch)
    signs = torch.randint(2, (count, *shape), generator=generator, device=generator.device) * 2.0 - 1.0
    size = min(microbatch or count, count)
    for part, part_signs in zip(batches(batch, size), signs.split(size), strict=True):
        with torch.enable_grad():
            losses = loss(model, part)
            ((losses * part_signs.to(losses)).sum() / count**0.5).backward()


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


def sample_laplace(
    model: nn.Module,
    curvature: LocalCurvature,
    variances: Float[Tensor, " direction"],
    *,
    draws: int,
    generator: torch.Generator,
) -> Iterator[Step]:
    r"""Return the model at draws from :math:`N(w^*, D^{-1/2} Q^T \Sigma Q D^{-1/2})` whose sample covariance is exact.

    Orthogonal Monte Carlo (Choromanski et al., 2017, arXiv:1703.00864): a random rotation of an orthogonal design, so
    that the draws' sample covariance (unbiased, centred) is the posterior's, without the noise of independent draws.

    The given model is not touched: the one that is yielded is a copy, the same at each draw.

    Args:
        variances: Along each direction of the curvature; at most ``draws - 1``.
        draws: At least 2.
        generator: The stream of the rotation.

    Raises:
        ValueError: If there are no more draws than directions.
    """
    directions = len(variances)
    if draws <= directions:
        raise ValueError(f"Exact moments in {directions} directions need at least {directions + 1} draws, got {draws}.")
    model = copy_model(model)
    position, _ = flatten_parameters(model)
    checkpoint = position.clone()
    noise = torch.randn(draws, directions, generator=generator, device=generator.device, dtype=torch.float64)
    ones = torch.ones(draws, 1, dtype=noise.dtype, device=noise.device)
    design = torch.linalg.qr(torch.cat([ones, noise], dim=1)).Q[:, 1:]  # orthonormal columns that sum to zero
    coordinates = design.to(variances.device) * (draws - 1) ** 0.5 * variances.sqrt()
    no_minibatch = torch.tensor(torch.nan)
    for row in coordinates.to(curvature.basis):
        position.copy_(checkpoint).addcmul_(row @ curvature.basis, curvature.scale)
        yield Step(model=model, loss=no_minibatch, position=position, checkpoint=checkpoint)
