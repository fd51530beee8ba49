"""Eigenvalues of the Hessian of every example's loss with respect to its own input, many examples at once."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (the usual name)
from torch.nn.attention import SDPBackend, sdpa_kernel

from workers.seeding import generator
from workers.steps import Steps, Tick

ROUNDING = 1e-5
"""Share of a Hessian's largest eigenvalue below which a Lanczos vector is rounding: the space found is invariant."""
LOOK_EVERY = 5
"""Lanczos steps from one look at the convergence to the next."""


class Eigenvalues(NamedTuple):
    """Of B examples. values: B x K, float64, largest magnitude first. residual: B, the largest one of a row, as a share
    of the largest magnitude; 0 where the whole Hessian was built."""

    values: Tensor
    residual: Tensor


class InputHessian:
    """The losses of B examples with first and second derivatives: one gradient graph serves all products.

    Examples must not influence each other: a frozen model in eval mode.

    Args:
        model: from images in [0, 1] to logits, frozen (see `workers.modes.frozen`).
        x: images, B x C x H x W.
        y: labels, int64, B.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        self._x = x.detach().clone().requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
            loss = F.cross_entropy(model(self._x), y, reduction="none")
            (self._gradient,) = torch.autograd.grad(loss.sum(), self._x, create_graph=True)
        self.loss, self.gradient = loss.detach(), self._gradient.detach()
        self.size = x[0].numel()

    def product(self, vectors: Tensor) -> Tensor:
        """Each example's Hessian times its own vector, B x D."""
        outwards = vectors.view_as(self._x)
        (found,) = torch.autograd.grad(self._gradient, self._x, outwards, retain_graph=True)
        return found.flatten(1)

    def dense(self) -> Steps[Tensor]:
        """The whole Hessians, B x D x D, symmetric, float64."""
        columns = []
        for index in range(self.size):
            unit = torch.zeros(self.size, dtype=self._x.dtype, device=self._x.device)
            unit[index] = 1
            columns.append(self.product(unit.expand(len(self._x), -1)))
            yield Tick(index + 1, self.size)
        whole = torch.stack(columns, 2).double()
        return (whole + whole.transpose(1, 2)) / 2


def top_eigenvalues(
    hessian: InputHessian, count: int, exact_up_to: int, steps: int, tolerance: float, seed: int
) -> Steps[Eigenvalues]:
    """The `count` eigenvalues of largest magnitude of each example's Hessian, fewer if its input has fewer values.

    Args:
        hessian: the operator.
        count: K.
        exact_up_to: size of an input up to which its whole Hessian is built.
        steps: at most so many Lanczos steps.
        tolerance: residual, as a share of the largest magnitude, at which an eigenvalue has converged.
        seed: of the starting vector.
    """
    count = min(count, hessian.size)
    if hessian.size <= exact_up_to:
        whole = yield from hessian.dense()
        finite = whole.isfinite().flatten(1).all(1)[:, None]
        values, _ = _largest(torch.linalg.eigvalsh(torch.where(finite[:, :, None], whole, 0.0)), count)
        return Eigenvalues(torch.where(finite, values, torch.nan), values.new_zeros(len(values)))
    found = yield from lanczos(hessian, count, min(max(steps, count), hessian.size), tolerance, seed)
    return found


def lanczos(hessian: InputHessian, count: int, steps: int, tolerance: float, seed: int) -> Steps[Eigenvalues]:
    """Lanczos with full reorthogonalisation, for each example its own Krylov space from one common random vector.

    Where an example's space is exhausted, which a network that is linear in pieces brings about after as many steps as
    it has classes, a random vector outside of it begins another one. Until then an eigenvalue that the Hessian has
    several times counts once.
    """
    like = hessian.gradient.flatten(1)
    basis = like.new_empty((len(like), steps, hessian.size))
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    scale = torch.zeros_like(hessian.loss)
    vector = _outside(basis[:, :0], seed)
    for done in range(1, steps + 1):
        basis[:, done - 1] = vector
        image = hessian.product(vector)
        diagonal.append((image * vector).sum(1))
        image = _orthogonal(image, basis[:, :done])
        length = image.norm(dim=1)
        scale = torch.stack([scale, diagonal[-1].abs(), length]).amax(0)
        exhausted = length <= ROUNDING * scale
        length = torch.where(exhausted, 0.0, length)
        if done == steps or (done >= count and done % LOOK_EVERY == 0):
            found = _ritz(diagonal, beside, length, count)
            if done == steps or bool((found.residual <= tolerance).all()):
                break
        beside.append(length)
        vector = image / torch.where(exhausted, 1.0, length)[:, None]
        if bool(exhausted.any()):
            vector = torch.where(exhausted[:, None], _outside(basis[:, :done], seed), vector)
        yield Tick(done, steps)
    yield Tick(steps, steps)
    return found


def _outside(basis: Tensor, seed: int) -> Tensor:
    """For each example a random unit vector orthogonal to its basis, B x M x D; the draw is the same for all."""
    examples, taken, size = basis.shape
    random = generator(basis.device, seed, "lanczos", taken)
    drawn = torch.randn(size, generator=random, device=basis.device, dtype=basis.dtype)
    return F.normalize(_orthogonal(drawn.expand(examples, -1), basis), dim=1)


def _orthogonal(vectors: Tensor, basis: Tensor) -> Tensor:
    """What is left of each vector, B x D, outside of its basis; twice, as once leaves rounding behind."""
    for _ in range(2):
        shares = torch.einsum("bmd,bd->bm", basis, vectors)
        vectors = vectors - torch.einsum("bmd,bm->bd", basis, shares)
    return vectors


def _ritz(diagonal: list[Tensor], beside: list[Tensor], last: Tensor, count: int) -> Eigenvalues:
    """Eigenvalues of the tridiagonal matrices, and how far their vectors are from being the Hessian's."""
    matrix = torch.diag_embed(torch.stack(diagonal, 1).double())
    if beside:
        off = torch.diag_embed(torch.stack(beside, 1).double(), offset=1)
        matrix = matrix + off + off.transpose(1, 2)
    finite = matrix.isfinite().flatten(1).all(1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0.0))
    top, places = _largest(values, count)
    residual = (vectors[:, -1].gather(1, places).abs() * last.double()[:, None]).amax(1)
    residual = torch.where(residual > 0, residual / top[:, 0].abs(), 0.0)
    return Eigenvalues(torch.where(finite[:, None], top, torch.nan), residual)


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` entries of largest magnitude in each row, and their places."""
    places = values.abs().argsort(1, descending=True)[:, :count]
    return values.gather(1, places), places
