"""How sharply a sampler's potential is curved at a checkpoint, and what minibatches add to it."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdabench.attributors.base import Examples, LossFn, batches, copy_model, num_examples, take

# The gradient noise is known from this many disjoint minibatches, and so to sqrt(2 / 63) = 18 % in one direction.
NOISE_BATCHES = 64
# Forward passes that a product with the Hessian costs an example: forward, backward, and backward through both.
PRODUCT_PASSES = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The ends of the spectrum of a symmetric operator.

    Attributes:
        largest: Largest eigenvalue: one lies within ``residual`` of it.
        smallest: The smallest eigenvalue is at most this.
        residual: Of the largest one's eigenvector, Euclidean.
        products: Products with the operator that it took.
        converged: Whether the residual is as small as was asked.
    """

    largest: float
    smallest: float
    residual: float
    products: int
    converged: bool

    def scale(self, factor: float, *, shift: float) -> "Spectrum":
        """Return the spectrum of ``factor`` (at least 0) times the operator plus ``shift`` times the identity."""
        return dataclasses.replace(
            self,
            largest=factor * self.largest + shift,
            smallest=factor * self.smallest + shift,
            residual=factor * self.residual,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MinibatchNoise:
    """Variance that minibatches of a size bring into gradient and curvature of the mean loss.

    Attributes:
        along: Of the gradient, along the direction that was given.
        mean: Of the gradient, over directions: trace by number of parameters.
        curvature: Of the Hessian's product with that direction, summed over coordinates.
    """

    along: float
    mean: float
    curvature: float


class Landscape:
    r"""The mean loss of fixed examples around a checkpoint, in the coordinates :math:`P^{-1/2} w`.

    Batches bound the memory only: it is one function, whose Hessian has one spectrum. Only parameters that require a
    gradient count. The given model is not touched.

    Args:
        metric: A diagonal preconditioner :math:`P`, positive; without one, all ones.

    Raises:
        ValueError: If no parameter requires a gradient, or a loss at the checkpoint is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFn,
        examples: Examples,
        *,
        batch_size: int,
        metric: Float[Tensor, " parameter"] | None = None,
    ) -> None:
        self.model, self.loss, self.examples, self.batch_size = copy_model(model), loss, examples, batch_size
        self.moving = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.moving:
            raise ValueError("A curvature needs parameters that require a gradient; this model has none.")
        self.root = 1.0 if metric is None else metric.sqrt()
        with torch.no_grad():
            losses = torch.cat([loss(self.model, batch) for batch in batches(examples, batch_size)])
        wrong = int((~losses.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"The checkpoint's loss is NaN or infinite on {wrong} of {len(losses)} reference examples: its "
                "training diverged. Lower training.learning_rate."
            )

    @property
    def parameters(self) -> int:
        """Count the parameters that move."""
        return sum(parameter.numel() for parameter in self.moving)

    def random_direction(self, generator: torch.Generator) -> Float[Tensor, " parameter"]:
        """Draw a direction, uniformly; its length is not one."""
        first = self.moving[0]
        return torch.randn(self.parameters, generator=generator, device=first.device, dtype=first.dtype)

    def gradient(self) -> Float[Tensor, " parameter"]:
        """Return the gradient of the mean loss."""
        total = sum(self._differentiate(batch, None)[0] for batch in batches(self.examples, self.batch_size))
        return self._finite(total / num_examples(self.examples))

    def hessian_product(self, direction: Float[Tensor, " parameter"]) -> Float[Tensor, " parameter"]:
        """Return the product of the mean loss's Hessian with a direction."""
        total = sum(self._differentiate(batch, direction)[1] for batch in batches(self.examples, self.batch_size))
        return self._finite(total / num_examples(self.examples))

    def minibatch_noise(
        self, direction: Float[Tensor, " parameter"], *, batch_size: int, population: int
    ) -> MinibatchNoise:
        r"""Measure what minibatches, drawn without replacement, add along a unit direction and on average.

        Disjoint small batches tell one example's variance :math:`S^2`; minibatches of B out of N have the variance
        :math:`S^2 / B \cdot (1 - B / N)`.

        Args:
            batch_size: B, the sampler's.
            population: N, the examples that the sampler draws from; these ones are a random part of them.
        """
        count = num_examples(self.examples)
        if batch_size >= population or count < 2:
            return MinibatchNoise(along=0.0, mean=0.0, curvature=0.0)
        size = max(1, count // NOISE_BATCHES)
        number = count // size
        sums = [torch.zeros_like(direction), torch.zeros_like(direction)]
        squares, slopes = [0.0, 0.0], []
        for batch in batches(take(self.examples, slice(number * size)), size):
            parts = [self._differentiate(part, direction) for part in batches(batch, self.batch_size)]
            found = [sum(vectors) / size for vectors in zip(*parts, strict=True)]
            slopes.append((found[0] @ direction).item())
            for index, vector in enumerate(found):
                sums[index] += vector
                squares[index] += vector.square().sum().item()
        spread = [
            max(0.0, square - total.square().sum().item() / number) / (number - 1)
            for square, total in zip(squares, sums, strict=True)
        ]
        scale = size / batch_size * (1 - batch_size / population)
        along = torch.tensor(slopes, dtype=torch.float64).var().item()
        return MinibatchNoise(
            along=scale * along, mean=scale * spread[0] / self.parameters, curvature=scale * spread[1]
        )

    def _differentiate(
        self, batch: Examples, direction: Float[Tensor, " parameter"] | None
    ) -> tuple[Float[Tensor, " parameter"], Float[Tensor, " parameter"]]:
        """Return gradient and Hessian product of a batch's summed loss; without a direction, the gradient twice."""
        with torch.enable_grad():
            total = self.loss(self.model, batch).sum()
            parts = torch.autograd.grad(total, self.moving, create_graph=direction is not None, materialize_grads=True)
            gradient = self.root * torch.cat([part.flatten() for part in parts])
            if direction is None:
                return gradient, gradient
            slope = gradient @ direction
            if not slope.requires_grad:  # the loss is linear in the parameters
                return gradient.detach(), torch.zeros_like(direction)
            parts = torch.autograd.grad(slope, self.moving, materialize_grads=True)
        return gradient.detach(), self.root * torch.cat([part.flatten() for part in parts])

    def _finite(self, vector: Float[Tensor, " parameter"]) -> Float[Tensor, " parameter"]:
        wrong = int((~vector.isfinite()).sum())
        if wrong:
            raise ValueError(
                f"{wrong} of {len(vector)} derivatives of the loss at the checkpoint are NaN or infinite: a square "
                "root or logarithm at zero in the model or its loss has none."
            )
        return vector


def find_spectrum(
    product: Callable[[Float[Tensor, " parameter"]], Float[Tensor, " parameter"]],
    start: Float[Tensor, " parameter"],
    *,
    tolerance: float,
    most_products: int,
) -> tuple[Spectrum, Float[Tensor, " parameter"]]:
    r"""Find the ends of a symmetric operator's spectrum by Lanczos' method, and the top eigenvector.

    With full orthogonalisation: the basis takes as much memory as ``products`` times the direction. A power iteration
    finds the same eigenvalue of largest size with several times the products, and not the other end.

    Args:
        tolerance: Of the residual, relative to the eigenvalue. The error of the eigenvalue is of its square.
    """
    basis = [start / start.norm()]
    diagonal, beside = [], []
    while True:
        image = product(basis[-1])
        diagonal.append((image @ basis[-1]).item())
        stacked = torch.stack(basis)
        for _ in range(2):  # once is not enough in float32
            image = image - stacked.T @ (stacked @ image)
        beside.append(image.norm().item())
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside[:-1]))
        residual = beside[-1] * abs(vectors[-1, -1].item())
        converged = residual <= tolerance * abs(values[-1].item())
        exhausted = len(basis) == len(start) or beside[-1] <= 1e-6 * values.abs().max().item()
        if converged or exhausted or len(basis) == most_products:
            break
        basis.append(image / beside[-1])
    top = vectors[:, -1].to(stacked) @ stacked
    return Spectrum(
        largest=values[-1].item(),
        smallest=values[0].item(),
        residual=0.0 if exhausted else residual,
        products=len(diagonal),
        converged=converged or exhausted,
    ), top / top.norm()


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Float[Tensor, "row row"]:
    entries = (diagonal, 0), (beside, 1), (beside, -1)
    return sum(torch.diag(torch.tensor(values, dtype=torch.float64), offset) for values, offset in entries)
