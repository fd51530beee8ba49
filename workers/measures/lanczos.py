"""Lanczos iteration with full reorthogonalisation and thick restarts: extreme eigenvalues, quadrature of the spectrum.

Source of the restarts: Wu & Simon 2000, SIAM J. Matrix Anal. Appl. 22(2); of the quadrature: Ubaru, Chen & Saad 2017,
SIAM J. Matrix Anal. Appl. 38(4).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.steps import Steps, Tick, stepwise

Product = Callable[[Tensor], Tensor]
"""From a vector, P, to a symmetric matrix times it, P."""


@dataclass(frozen=True)
class Spectrum:
    """What a run found; all tensors float64 on the CPU.

    largest: largest eigenvalues from the largest, NaN for those that the matrix does not have.
    smallest: the smallest one.
    residuals: ||Hv - lambda v|| of those, `largest` first, then `smallest`; v has length 1.
    scale: largest |lambda|.
    nodes, weights: of the Gauss quadrature of the spectrum as the start sees it; the weights add up to 1.
    products: matrix-vector products that were needed.
    """

    largest: Tensor
    smallest: Tensor
    residuals: Tensor
    scale: float
    nodes: Tensor
    weights: Tensor
    products: int


@stepwise
def lanczos(
    product: Product, start: Tensor, wanted: int, steps: int, max_products: int, tolerance: float, whole: bool
) -> Steps[Spectrum]:
    """The `wanted` largest eigenvalues and the smallest one; an eigenvalue that occurs twice is found once.

    Args:
        product: the matrix.
        start: random vector, P; its type is that of the vectors that are kept.
        wanted: number of largest eigenvalues.
        steps: vectors that are kept before the iteration restarts from the best of them.
        max_products: products after which it ends in any case; at least `steps` are made for a quadrature.
        tolerance: it ends when no residual is above this times the largest |lambda|.
        whole: make `steps` steps even if fewer are enough, so that the quadrature has `steps` nodes.
    """
    run = _Run(product, start, wanted, min(start.numel(), max(steps, 2 * wanted + 12)))
    limit = max(max_products, run.size) if whole else max_products
    while True:
        run.step()
        yield Tick(run.products, limit)
        full = run.filled == run.size
        if full or run.invariant or run.products >= limit or (not whole and run.products % 4 == 0):
            run.solve()
            if run.invariant or run.products >= limit or run.accuracy() <= tolerance:
                return run.spectrum()
            if full:
                run.restart()


class _Run:
    """Vectors v_1 ... v_j in rows of `basis`, orthonormal, and the matrix seen in them, `projected`."""

    def __init__(self, product: Product, start: Tensor, wanted: int, size: int) -> None:
        self._product, self._wanted, self.size = product, wanted, size
        self.basis = torch.empty(size + 1, start.numel(), dtype=start.dtype, device=start.device)
        self.basis[0] = start / torch.linalg.vector_norm(start)
        self.projected = torch.zeros(size, size, dtype=torch.float64)
        self.filled = self.products = 0
        self._coupling = 0.0
        self.invariant = False
        self._quadrature: tuple[Tensor, Tensor] | None = None

    def step(self) -> None:
        """One product, one more vector."""
        j = self.filled
        known = self.basis[: j + 1]
        residual = self._product(self.basis[j]).to(self.basis.dtype)
        length = torch.linalg.vector_norm(residual)
        first = known @ residual
        residual -= first @ known
        second = known @ residual  # what rounding left; twice is enough (Parlett 1998)
        residual -= second @ known
        column = (first.double() + second.double()).cpu()
        self.projected[: j + 1, j] = self.projected[j, : j + 1] = column
        self._coupling = float(torch.linalg.vector_norm(residual))
        self.invariant = self._coupling <= 100 * torch.finfo(self.basis.dtype).eps * float(length)
        if not self.invariant:
            torch.div(residual, self._coupling, out=self.basis[j + 1])
        self.filled += 1
        self.products += 1

    def solve(self) -> None:
        """Eigenvalues `values` of the projection, ascending, their `vectors` in columns and `residuals`."""
        self.values, self.vectors = torch.linalg.eigh(self.projected[: self.filled, : self.filled])
        self.residuals = self._coupling * self.vectors[-1].abs()
        if self.products == self.filled:  # not restarted yet
            self._quadrature = self.values, self.vectors[0] ** 2

    def _asked(self) -> list[int]:
        """Places of the largest, from the largest, and of the smallest."""
        return [*range(self.filled - 1, max(self.filled - 1 - self._wanted, -1), -1), 0]

    def _scale(self) -> float:
        return float(self.values.abs().max())

    def accuracy(self) -> float:
        """Largest residual of those asked for relative to the largest |lambda|; infinite where some are missing."""
        if self.filled <= self._wanted and not self.invariant:
            return math.inf
        return float(self.residuals[self._asked()].max()) / max(self._scale(), torch.finfo(torch.float64).tiny)

    def restart(self) -> None:
        """Goes on from the best approximations of both ends."""
        spare = (self.size - self._wanted - 1) // 2
        high = self._wanted + spare // 2
        low = 1 + spare // 4
        keep = [*range(low), *range(self.filled - high, self.filled)]
        mixing = self.vectors[:, keep].to(self.basis)
        self.basis[: len(keep)] = mixing.T @ self.basis[: self.filled]
        self.basis[len(keep)] = self.basis[self.filled]
        self.projected.zero_()
        self.projected[range(len(keep)), range(len(keep))] = self.values[keep]
        self.filled = len(keep)

    def spectrum(self) -> Spectrum:
        """What is known after `solve`."""
        *high, low = self._asked()
        largest = torch.full((self._wanted,), torch.nan, dtype=torch.float64)
        residuals = torch.zeros(self._wanted + 1, dtype=torch.float64)
        largest[: len(high)], residuals[: len(high)] = self.values[high], self.residuals[high]
        residuals[-1] = self.residuals[low]
        nodes, weights = self._quadrature or (self.values[:0], self.values[:0])
        return Spectrum(largest, self.values[low], residuals, self._scale(), nodes, weights, self.products)


def density(
    nodes: list[Tensor], weights: list[Tensor], points: int = 1024, width: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Spectral density per unit of lambda: quadratures averaged, each node a normal distribution.

    Args:
        nodes: of each quadrature.
        weights: of each quadrature.
        points: in the grid.
        width: standard deviation of the normal distributions, relative to the range of the nodes.

    Returns:
        Grid and density, float64; the density integrates to 1.
    """
    place, mass = torch.cat(nodes), torch.cat(weights) / len(nodes)
    low, high = float(place.min()), float(place.max())
    sigma = max(width * (high - low), 1e-12 * max(abs(low), abs(high)), torch.finfo(torch.float64).tiny ** 0.5)
    grid = torch.linspace(low - 5 * sigma, high + 5 * sigma, points, dtype=torch.float64)
    bells = torch.exp(-0.5 * ((grid[:, None] - place) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return grid, bells @ mass
