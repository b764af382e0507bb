"""Process: Gaussian process regression of values at points and levels (Rasmussen and Williams, 2006, chapters 2 and 5).

    k((x, z), (x', z')) = variance * Matern52(|x - x'| / scales) * exp(-(z - z')^2 / (2 level_scale^2)) + noise

Each domain has a scale of its own. Scales, variance and noise are those of the largest posterior density (maximum a
posteriori), by L-BFGS with gradients. Pure functions of arrays. It must not know samples, trials or rungs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri, dpotrs
from scipy.optimize import minimize

Array = NDArray[np.float64]

ROOT5 = math.sqrt(5)
JITTER = 1e-6  # added to the diagonal, so that equal points do not make the matrix singular
MAX_STEPS = 25  # of L-BFGS: the prior makes the density smooth, and more change no proposal
#: Mean and standard deviation of the logarithms of the hyperparameters, which are normal. Values have variance 1, so
#: noise is expected to be a hundredth of it; a scale is expected to be 1/3 of the diagonal of the unit cube.
SCALE_PRIOR, LEVEL_PRIOR, VARIANCE_PRIOR, NOISE_PRIOR = (1 / 3, 1.0), (0.7, 0.7), (1.0, 1.0), (0.01, 1.5)
BOUND = 3.0  # standard deviations from the mean that are searched


@dataclass(frozen=True)
class Hyperparameters:
    """`scales` is float64 [columns]: domains of several columns have one scale."""

    scales: Array
    level_scale: float
    variance: float
    noise: float


def fit(points: Array, levels: Array, values: Array, groups: NDArray[np.intp]) -> Hyperparameters:
    """The hyperparameters for values float64 [N] at points float64 [N, columns] and levels float64 [N].

    `groups` (int [columns]) has the number of the domain of each column. Costs O(MAX_STEPS * N^3).
    """
    count, domains = len(values), int(groups.max(initial=-1)) + 1
    one, other = np.tril_indices(count, -1)  # the pairs of values: matrices are symmetric, and half of them is enough
    columns = (points[one] - points[other]) ** 2
    squares = np.array([columns[:, groups == domain].sum(axis=1) for domain in range(domains)]).reshape(
        domains, len(one)
    )
    level_squares = (levels[one] - levels[other]) ** 2
    scale = SCALE_PRIOR[0] * math.sqrt(max(domains, 1)), SCALE_PRIOR[1]
    priors = np.array([*[scale] * domains, LEVEL_PRIOR, VARIANCE_PRIOR, NOISE_PRIOR])
    means, deviations = np.log(priors[:, 0]), priors[:, 1]
    covariance, below, above = np.zeros((count, count)), one * count + other, other * count + one
    cells = covariance.reshape(-1)

    def negative_log_density(logs: Array) -> tuple[float, Array]:
        inverse = np.exp(-2 * logs[:domains])
        level_scale, variance, noise = np.exp(logs[domains:])
        squared = inverse @ squares
        distance = ROOT5 * np.sqrt(squared)
        by_level = variance * np.exp(-level_squares / (2 * level_scale**2) - distance)
        covariances = by_level * (1 + distance + 5 / 3 * squared)
        cells[below] = covariances
        np.fill_diagonal(covariance, variance + noise + JITTER)
        try:
            root = np.linalg.cholesky(covariance)  # of the lower triangle
        except np.linalg.LinAlgError:
            return math.inf, np.zeros_like(logs)
        inverted = dpotri(root, lower=True)[0].T  # whose upper triangle has the inverse
        weights = dpotrs(root, values, lower=True)[0]
        offset = (logs - means) / deviations
        density = 0.5 * values @ weights + np.log(np.diag(root)).sum() + 0.5 * (offset**2).sum()
        # Equation 5.9 of the book, with the derivative of the Matern function by the squared distance. A pair counts
        # twice.
        sensitivity = 2 * (weights[one] * weights[other] - inverted.reshape(-1)[above])
        own = float((weights**2 - np.diag(inverted)).sum())  # of the diagonal
        by_square = sensitivity * by_level * (5 / 6) * (1 + distance)
        by_covariance = sensitivity * covariances
        gradient = np.concatenate(
            [
                -inverse * (squares @ by_square),
                [
                    -0.5 * (by_covariance @ level_squares) / level_scale**2,
                    -0.5 * (by_covariance.sum() + own * variance),
                    -0.5 * own * noise,
                ],
            ]
        )
        return float(density), gradient + offset / deviations

    bounds = list(zip(means - BOUND * deviations, means + BOUND * deviations, strict=True))
    options = {"maxiter": MAX_STEPS}
    found = minimize(negative_log_density, means, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    level_scale, variance, noise = np.exp(found[domains:])
    return Hyperparameters(np.exp(found[:domains])[groups], float(level_scale), float(variance), float(noise))


class GaussianProcess:
    """The posterior of values float64 [N] at points float64 [N, columns] and levels float64 [N]."""

    def __init__(self, points: Array, levels: Array, values: Array, hyperparameters: Hyperparameters) -> None:
        self._points, self._levels, self._values = points, levels, values
        self._hyperparameters = hyperparameters
        covariance = self._covariance(points, levels)
        covariance[np.diag_indices(len(values))] += hyperparameters.noise + JITTER
        self._root = np.linalg.cholesky(covariance)
        self._weights = cho_solve((self._root, True), values, check_finite=False)

    def predict(self, points: Array, level: float) -> tuple[Array, Array]:
        """Mean and standard deviation, float64 [M] each, at points float64 [M, columns] of one level."""
        covariance = self._covariance(points, np.full(len(points), level))
        projected = solve_triangular(self._root, covariance.T, lower=True, check_finite=False)
        variance = self._hyperparameters.variance - (projected**2).sum(axis=0)
        return covariance @ self._weights, np.sqrt(np.maximum(variance, JITTER))

    def believing(self, points: Array, level: float) -> GaussianProcess:
        """The posterior if the values at these points were as predicted (Ginsbourger et al., 2010)."""
        means, _ = self.predict(points, level)
        return type(self)(
            np.concatenate([self._points, points]),
            np.concatenate([self._levels, np.full(len(points), level)]),
            np.concatenate([self._values, means]),
            self._hyperparameters,
        )

    def _covariance(self, points: Array, levels: Array) -> Array:
        """Between new points and those of the values, float64 [M, N]."""
        given = self._hyperparameters
        new, old = points / given.scales, self._points / given.scales
        squared = np.maximum((new**2).sum(axis=1)[:, None] + (old**2).sum(axis=1)[None] - 2 * new @ old.T, 0.0)
        distance = np.sqrt(squared)
        by_point = (1 + ROOT5 * distance + 5 / 3 * squared) * np.exp(-ROOT5 * distance)
        by_level = np.exp(-((levels[:, None] - self._levels[None]) ** 2) / (2 * given.level_scale**2))
        covariance: Array = given.variance * by_point * by_level
        return covariance
