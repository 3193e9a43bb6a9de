"""Exact stationary laws of samplers on quadratic losses: there a chain is linear, with independent Gaussian noise."""

import dataclasses
import math

import numpy as np
from scipy.linalg import solve_discrete_lyapunov


@dataclasses.dataclass(frozen=True)
class LinearChain:
    """``state' = transition @ state + noise``; a state begins with the position.

    Attributes:
        noise: Covariance of a step's noise.
        parameters: Length of the position.
    """

    transition: np.ndarray
    noise: np.ndarray
    parameters: int

    def covariance(self) -> np.ndarray:
        """Return the position's stationary covariance."""
        return self._autocovariances(1)[0]

    def covariance_error(self, steps: int) -> np.ndarray:
        """Return the standard error of each entry of the covariance of that many successive positions.

        A product of two Gaussians has the autocovariance C_aa C_bb + C_ab C_ba at each lag, at most: gradient noise of
        coins has a smaller kurtosis.
        """
        lagged = self._autocovariances(200)
        diagonals = np.diagonal(lagged, axis1=1, axis2=2)
        products = diagonals[:, :, None] * diagonals[:, None, :] + lagged * lagged.transpose(0, 2, 1)
        return np.sqrt((2 * products.sum(axis=0) - products[0]) / steps)

    def mean_error(self, steps: int) -> np.ndarray:
        """Return the standard error of the mean of that many successive positions."""
        diagonals = np.diagonal(self._autocovariances(200), axis1=1, axis2=2)
        return np.sqrt((2 * diagonals.sum(axis=0) - diagonals[0]) / steps)

    def _autocovariances(self, lags: int) -> np.ndarray:
        lagged = [solve_discrete_lyapunov(self.transition, self.noise)]
        for _ in range(lags - 1):
            lagged.append(self.transition @ lagged[-1])
        return np.stack(lagged)[:, : self.parameters, : self.parameters]


def sgld_chain(
    precision: np.ndarray, *, step_size: float, strength: np.ndarray, gradient_noise: np.ndarray
) -> LinearChain:
    """Return (preconditioned) SGLD as a linear chain.

    Args:
        precision: Hessian of the potential.
        strength: Diagonal of the preconditioner.
        gradient_noise: Covariance of the potential's minibatch gradient.
    """
    drift = step_size / 2 * np.diag(strength)
    transition = np.eye(len(precision)) - drift @ precision
    return LinearChain(transition, step_size * np.diag(strength) + drift @ gradient_noise @ drift, len(precision))


def baoab_chain(
    precision: np.ndarray, *, step_size: float, friction: float, strength: np.ndarray, gradient_noise: np.ndarray
) -> LinearChain:
    """Return BAOAB as a linear chain, whose state is the position and, before the kick, the velocity."""
    size, time_step, scale = len(precision), math.sqrt(step_size), np.diag(np.sqrt(strength))
    eye, zero = np.eye(size), np.zeros((size, size))
    kick = np.block([[eye, zero], [-time_step * scale @ precision, eye]])
    drift = np.block([[eye, time_step / 2 * scale], [zero, eye]])
    rub = np.block([[eye, zero], [zero, math.exp(-friction) * eye]])
    heat = np.block([[zero, zero], [zero, (1 - math.exp(-2 * friction)) * eye]])
    shake = np.block([[zero, zero], [zero, step_size * scale @ gradient_noise @ scale]])
    noise = drift @ (heat + rub @ drift @ shake @ drift.T @ rub.T) @ drift.T
    return LinearChain(drift @ rub @ drift @ kick, noise, size)
