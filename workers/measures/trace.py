"""Estimates of traces from products with random vectors: Hutchinson's, tensor by tensor, and Hutch++."""

import math

import torch
from torch import Tensor

from workers.measures.hessian import Hessian
from workers.measures.result import Parts, standard_error
from workers.seeding import generator
from workers.steps import Steps, Tick, stepwise


@stepwise
def hutchinson(hessian: Hessian, seed: int, probes: range, parts: Parts, total: int) -> Steps[Tensor]:
    """v_l . (Hv)_l of every tensor l for random signs v: their mean over probes is the trace of l's diagonal block.

    Args:
        hessian: the matrix.
        seed: of the probes; probe i is the same for all networks of one shape.
        probes: numbers of the probes.
        parts: probes that are done, as `probe <number>`; those done now are added.
        total: number of probes that ticks are counted to.

    Returns:
        Probes x tensors, float64.
    """
    for index in probes:
        if f"probe {index}" not in parts:
            signs = random_signs(hessian, seed, "probe", index)
            parts[f"probe {index}"] = hessian.by_tensor(signs * hessian.product(signs)).tolist()
            yield Tick(index + 1, total)
    return torch.tensor([parts[f"probe {index}"] for index in probes], dtype=torch.float64)


@stepwise
def hutch_plus_plus(hessian: Hessian, seed: int, products: int, parts: Parts) -> Steps[tuple[float, float]]:
    """Trace and its standard error by Hutch++ (Meyer, Musco, Musco & Woodruff 2021, arXiv 2010.09649).

    With Q an orthonormal basis of H S, S random signs: Tr H = Tr Q^T H Q + Tr (I - Q Q^T) H (I - Q Q^T), the first
    exact, the second estimated by Hutchinson; only the second has an error. Each of the three steps has a third of
    the products. Going on after a stop repeats the first third.
    """
    share = products // 3
    names = ["captured", *(f"remainder {index}" for index in range(share))]
    if any(name not in parts for name in names):
        basis = yield from _range_of(hessian, seed, min(share, hessian.size), products)
        if "captured" not in parts:
            captured = []
            for index, vector in enumerate(basis):
                captured.append(float(vector.double() @ hessian.product(vector)))
                yield Tick(share + index + 1, products)
            parts["captured"] = math.fsum(captured)
        for index in range(share):
            if f"remainder {index}" not in parts:
                signs = random_signs(hessian, seed, "remainder", index)
                signs = signs - (basis @ signs) @ basis
                parts[f"remainder {index}"] = float(signs.double() @ hessian.product(signs))
                yield Tick(2 * share + index + 1, products)
    rest = torch.tensor([parts[f"remainder {index}"] for index in range(share)], dtype=torch.float64)
    return parts["captured"] + float(rest.mean()), standard_error(rest)


def _range_of(hessian: Hessian, seed: int, count: int, products: int) -> Steps[Tensor]:
    """Rows that are orthonormal and span the Hessian times `count` random vectors."""
    rows = []
    for index in range(count):
        rows.append(hessian.product(random_signs(hessian, seed, "range", index)))
        yield Tick(index + 1, products)
    # in float64, as the rows are nearly parallel where few eigenvalues are large
    basis: Tensor = torch.linalg.qr(torch.stack(rows).T).Q.T
    return basis.to(hessian.tensors[0].dtype)


def random_signs(hessian: Hessian, seed: int, purpose: str, index: int) -> Tensor:
    """A vector of -1 and 1, P, in the network's type."""
    tensor = hessian.tensors[0]
    random = generator(tensor.device, seed, purpose, index)
    bits = torch.randint(2, (hessian.size,), generator=random, device=tensor.device, dtype=torch.int8)
    return bits.to(tensor.dtype).mul_(2).sub_(1)
