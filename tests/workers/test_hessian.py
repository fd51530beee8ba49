"""Hessian products, Lanczos and traces against dense matrices."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from curvature_toys import CLASSES, Piecewise, batch, block_traces, dense_hessian, small_net
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import assert_same_state, digits_network, images, seeded, state

from workers.measures.estimated_traces import estimated_traces
from workers.measures.gauss_newton import covariance_root, gauss_newton_traces
from workers.measures.hessian import Hessian, curvature_tensors, differentiated, graph_bytes
from workers.measures.lanczos import Spectrum, density, lanczos
from workers.measures.remainder import remainder_traces, why_not_exact
from workers.measures.result import standard_error
from workers.measures.trace import hutch_plus_plus, hutchinson
from workers.measures.unfolded import why_not_layers
from workers.weights import perturbed_tensors

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.GELU)


class Dense:
    """A symmetric matrix in the place of a network's Hessian."""

    def __init__(self, matrix: Tensor, sizes: list[int]) -> None:
        self.matrix, self.sizes, self.size = matrix, sizes, len(matrix)
        self.tensors = [torch.empty(0, dtype=matrix.dtype)]
        self.products = 0

    def product(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vector

    def by_tensor(self, entries: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in entries.split(self.sizes)])


@functools.cache
def matrix_of(activation: type[nn.Module]) -> Tensor:
    return dense_hessian(small_net(activation), *batch())


def of_network(activation: type[nn.Module] = nn.ReLU) -> Dense:
    return Dense(matrix_of(activation), [tensor.numel() for tensor in curvature_tensors(small_net(activation))])


# ---- products -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("batch_size", "cache", "kept"), [(30, 0, 0), (7, 10**9, 5), (7, 2 * 8 * 16_000, 1)])
def test_product_equals_the_dense_hessian(activation: type[nn.Module], batch_size: int, cache: int, kept: int) -> None:
    net, (x, y), dense = small_net(activation), batch(), matrix_of(activation)
    tensors = curvature_tensors(net)
    before = state(net)
    with differentiated(net, tensors):
        hessian = Hessian(net, tensors, x, y, batch_size, cache)
        for seed in range(3):
            vector = torch.randn(hessian.size, generator=seeded(seed), dtype=torch.float64)
            found = hessian.product(vector)
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, dense @ vector, rtol=1e-10, atol=1e-10 * float(dense.norm()))
            torch.testing.assert_close(
                hessian.by_tensor(vector), torch.stack([part.sum() for part in vector.split(hessian.sizes)])
            )
        assert hessian.kept_graphs >= kept and (hessian.kept_graphs == 0) == (cache == 0)
    assert_same_state(before, state(net))


def test_product_in_single_precision() -> None:
    net, (x, y) = small_net(dtype=torch.float32), batch(dtype=torch.float32)
    dense = dense_hessian(net, x, y)
    tensors = curvature_tensors(net)
    vector = torch.randn(len(dense), generator=seeded(0))
    with differentiated(net, tensors):
        found = Hessian(net, tensors, x, y, 4).product(vector)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, dense @ vector.double(), rtol=1e-5, atol=1e-5 * float(dense.norm()))


def test_curvlinops_agrees() -> None:
    from curvlinops import HessianLinearOperator

    net, (x, y) = small_net(nn.GELU), batch()  # it cannot differentiate SiLU
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        theirs = HessianLinearOperator(
            net, nn.CrossEntropyLoss(), tensors, [(x[:10], y[:10]), (x[10:], y[10:])], check_deterministic=False
        )
        ours = Hessian(net, tensors, x, y, 12)
        vector = torch.randn(ours.size, generator=seeded(0), dtype=torch.float64)
        expected = (theirs @ vector).detach()
        torch.testing.assert_close(ours.product(vector), expected, rtol=1e-9, atol=1e-9 * float(expected.norm()))


def test_graph_bytes_counts_what_a_graph_keeps() -> None:
    """Of sin(x) * x its input, twice referred to, and the sine; counted once each. What is not saved is not counted."""
    x = torch.zeros(1000, requires_grad=True)
    y = torch.sin(x)
    assert graph_bytes([y]) == 4000
    assert graph_bytes([y * x]) == 8000
    assert graph_bytes([x + 1]) == 0


def test_curvature_tensors_are_the_matrices_behind_the_logits() -> None:
    net = digits_network()
    net.heads["rotation"] = nn.Linear(4, 4)
    found = {id(tensor) for tensor in curvature_tensors(net)}
    assert found == {id(tensor) for tensor in perturbed_tensors(net) if tensor.dim() > 1}
    assert found == {id(m.weight) for m in net.network.modules() if isinstance(m, nn.Conv2d | nn.Linear)}


# ---- Lanczos ------------------------------------------------------------------------------------------------------


def symmetric(eigenvalues: list[float], seed: int = 0) -> Tensor:
    q = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=seeded(seed), dtype=torch.float64)).Q
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def run(matrix: Tensor, wanted: int = 3, steps: int = 20, most: int = 500, tol: float = 1e-8, **more: Any) -> Spectrum:
    start = torch.randn(len(matrix), generator=seeded(7), dtype=matrix.dtype)
    return lanczos(lambda v: matrix @ v, start, wanted, steps, most, tol, whole=more.pop("whole", False))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("steps", [24, 100, 1000])
def test_lanczos_on_a_networks_hessian(activation: type[nn.Module], steps: int) -> None:
    """With 24 vectors it has to restart."""
    matrix = of_network(activation).matrix
    exact = torch.linalg.eigvalsh(matrix)
    found = run(matrix, wanted=5, steps=steps)
    torch.testing.assert_close(found.largest, exact.flip(0)[:5], rtol=1e-9, atol=0)
    assert float(found.smallest) == pytest.approx(float(exact[0]), rel=1e-9)
    assert found.scale == pytest.approx(float(exact.abs().max()))
    assert (found.residuals <= 1e-8 * found.scale).all()
    assert (found.products > steps) == (steps == 24)


def test_residuals_bound_the_error_when_it_gives_up() -> None:
    matrix = of_network().matrix
    exact = torch.linalg.eigvalsh(matrix)
    found = run(matrix, wanted=3, steps=30, most=12)
    assert found.products == 12
    assert (found.residuals > 1e-8 * found.scale).any()
    for value, residual in zip([*found.largest, found.smallest], found.residuals, strict=True):
        assert float((exact - value).abs().min()) <= float(residual) * (1 + 1e-9)


def test_single_precision_is_enough_for_four_digits() -> None:
    matrix = of_network().matrix
    exact = torch.linalg.eigvalsh(matrix)
    found = run(matrix.float(), wanted=5, steps=24, tol=1e-3)
    torch.testing.assert_close(found.largest, exact.flip(0)[:5], rtol=1e-4, atol=0)
    assert found.products < 100


def test_special_matrices() -> None:
    zero = run(torch.zeros(50, 50, dtype=torch.float64))
    assert zero.largest[0] == 0 and zero.smallest == 0 and zero.largest[1:].isnan().all() and zero.products == 1
    few = run(symmetric([5.0, 2.0] + [-1.0] * 30))  # three different eigenvalues
    torch.testing.assert_close(few.largest, torch.tensor([5.0, 2.0, -1.0], dtype=torch.float64))
    assert float(few.smallest) == pytest.approx(-1) and few.products <= 4
    tiny = run(symmetric([3.0, 1.0]), wanted=5)
    assert tiny.largest[:2].tolist() == pytest.approx([3, 1]) and tiny.largest[2:].isnan().all()
    assert float(tiny.smallest) == pytest.approx(1)
    negative = run(symmetric([-float(i) for i in range(1, 60)]), wanted=2)
    assert negative.largest.tolist() == pytest.approx([-1, -2]) and float(negative.smallest) == pytest.approx(-59)


def test_quadrature_has_the_moments_of_the_matrix() -> None:
    """A Gauss quadrature with m nodes is exact for polynomials up to degree 2m - 1."""
    matrix = of_network().matrix
    matrix = matrix / torch.linalg.matrix_norm(matrix, 2)
    found = run(matrix, steps=18, whole=True, tol=0.9)
    assert found.products == len(found.nodes) == 18
    assert float(found.weights.sum()) == pytest.approx(1)
    vector = torch.randn(len(matrix), generator=seeded(7), dtype=torch.float64)
    vector /= vector.norm()
    power = vector
    for degree in range(36):
        moment = float((found.weights * found.nodes**degree).sum())
        assert moment == pytest.approx(float(vector @ power), rel=1e-9, abs=1e-12), degree
        power = matrix @ power


def test_density_integrates_to_the_share_of_eigenvalues() -> None:
    """Enough probes: between any two levels lies the dense spectrum's share, and the moments are its moments."""
    matrix = of_network().matrix
    exact = torch.linalg.eigvalsh(matrix).numpy()
    spectra = []
    for seed in range(25):
        start = torch.randint(2, (len(matrix),), generator=seeded(seed)).double() * 2 - 1
        spectra.append(lanczos(lambda v: matrix @ v, start, 1, 40, 40, 1e-9, whole=True))
    grid, values = density([s.nodes for s in spectra], [s.weights for s in spectra], points=4001, width=0.002)
    step = float(grid[1] - grid[0])
    assert float(values.sum()) * step == pytest.approx(1, abs=1e-3)
    for level in (-1.0, -0.1, 0.3, 2.0):
        share = float(values[grid > level].sum()) * step
        assert share == pytest.approx((exact > level).mean(), abs=0.03)
    for degree in (1, 2, 3):
        moments = [float((s.weights * s.nodes**degree).sum()) for s in spectra]
        error = np.std(moments) / math.sqrt(len(moments))
        assert abs(np.mean(moments) - (exact**degree).mean()) < 3.5 * error + 1e-12
        assert float((values * grid**degree).sum()) * step == pytest.approx(np.mean(moments), rel=0.01)


# ---- traces -------------------------------------------------------------------------------------------------------


def test_hutchinsons_errors_are_as_large_as_it_says() -> None:
    dense = of_network()
    exact = block_traces(dense.matrix, small_net())
    errors = []
    for seed in range(100):
        forms = hutchinson(dense, seed, range(30), {}, 30)
        assert forms.shape == (30, len(dense.sizes))
        for layer in range(len(exact)):
            errors.append(float((forms[:, layer].mean() - exact[layer]) / standard_error(forms[:, layer])))
        total = forms.sum(1)
        errors.append(float((total.mean() - exact.sum()) / standard_error(total)))
    inside = (np.abs(np.array(errors).reshape(100, -1)) < 3).mean(0)
    assert (inside >= 0.95).all()
    assert np.std(errors) == pytest.approx(1, abs=0.15)


def test_hutch_plus_plus_is_right_and_better() -> None:
    dense = of_network()
    exact = float(dense.matrix.trace())
    found = [hutch_plus_plus(dense, seed, 30, {}) for seed in range(100)]
    assert dense.products == 100 * 30
    inside = [abs(trace - exact) <= 3 * error for trace, error in found]
    assert sum(inside) >= 95
    plain = [standard_error(hutchinson(dense, seed, range(30), {}, 30).sum(1)) for seed in range(20)]
    assert np.median([error for _, error in found]) < 0.7 * np.median(plain)


def test_hutch_plus_plus_is_exact_where_the_rank_is_small() -> None:
    matrix = symmetric([9.0, 4.0, -2.0] + [0.0] * 40)
    trace, error = hutch_plus_plus(Dense(matrix, [43]), 0, 30, {})
    assert trace == pytest.approx(11) and error < 1e-9


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_covariance_root(classes: int) -> None:
    logits = 4 * torch.randn(50, classes, generator=seeded(classes), dtype=torch.float64)
    logits[0], logits[1] = 0, torch.tensor([60.0] + [0.0] * (classes - 1))
    logits[2] = -800.0
    logits[2, -1] = 0  # all other probabilities are 0
    p = logits.softmax(1)
    root = covariance_root(p)
    assert root.shape == (50, classes, classes - 1) and root.isfinite().all()
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(root @ root.mT, expected, rtol=1e-12, atol=1e-15)
    # where p is nearly certain the small entries have their digits too
    torch.testing.assert_close((root @ root.mT)[1].diagonal()[1:], expected[1].diagonal()[1:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("batch_size", [1000, 7, 1])
def test_gauss_newton_traces_equal_the_dense_blocks(activation: type[nn.Module], batch_size: int) -> None:
    net, (x, _) = small_net(activation), batch()
    expected = block_traces(matrix_of(activation), net)
    before = state(net)
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        assert why_not_exact(net, tensors, x, 0) is None
        found = gauss_newton_traces(net, tensors, x, batch_size, {})
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert_same_state(before, state(net))


def test_gauss_newton_traces_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, _) = small_net(), batch()
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        whole, parts = gauss_newton_traces(net, tensors, x, 1000, {}), {}
        monkeypatch.setattr("workers.measures.gauss_newton.MEMORY", 100_000)
        torch.testing.assert_close(gauss_newton_traces(net, tensors, x, 1000, parts), whole, rtol=1e-12, atol=0)
    assert 1 < len(parts) < len(x)


def test_estimated_traces_errors_are_as_large_as_it_says() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 4, 3, 2, 1, groups=2),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.SiLU(),
            nn.Linear(5, CLASSES),
        )
    net, (x, y) = net.double().eval(), batch(16)
    expected = block_traces(dense_hessian(net, x, y), net)
    tensors = curvature_tensors(net)
    errors, parts = [], {}
    with differentiated(net, tensors):
        for seed in range(100):
            parts = {name: value for name, value in parts.items() if name.startswith("traces")}
            forms = estimated_traces(net, tensors, x, y, 16, seed, range(20), parts)
            assert forms.shape == (20, len(tensors))
            spread = forms.std(0) / math.sqrt(len(forms))
            # behind the last layer there is nothing: its block is exact
            assert float(spread[-1]) < 1e-12 and float(forms[0, -1]) == pytest.approx(float(expected[-1]), rel=1e-9)
            errors.append(((forms.mean(0) - expected) / spread)[:-1].tolist())
    inside = (np.abs(np.array(errors)) < 3).mean(0)
    assert (inside >= 0.95).all()
    assert np.std(errors) == pytest.approx(1, abs=0.2)


def test_remainder_is_nothing_with_relu() -> None:
    net, (x, y) = small_net(), batch(16)
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        assert not remainder_traces(net, tensors, x, y, 16, 0, range(3), {}).any()


def test_only_the_remainder_has_noise_and_its_probes_vary_less_than_common_ones() -> None:
    net, (x, y) = small_net(nn.SiLU), batch(64)
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        own = estimated_traces(net, tensors, x, y, 64, 0, range(60), {}).std(0)
        common = hutchinson(Hessian(net, tensors, x, y, 64), 0, range(60), {}, 60).std(0)
    assert (own < 0.4 * common).all()


def test_remainder_does_not_depend_on_the_batch_size() -> None:
    net, (x, y) = small_net(nn.SiLU), batch(40)
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        first, second = (remainder_traces(net, tensors, x, y, size, 0, range(3), {}) for size in (1000, 16))
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


class Reused(Piecewise):
    def forward(self, x: Tensor) -> Tensor:
        x = self.active(self.norm(self.stem(x)))
        x = self.grouped(F.relu(self.grouped(x)))
        x = self.pool(self.active(self.strided(x)))
        return self.head(self.active(self.hidden(x.flatten(2).mT)).flatten(1))


class Unseen(Piecewise):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(x.flatten(1)[:, :6], self.hidden.weight)[:, :CLASSES]


class Functional(Piecewise):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(super().forward(x))


class Gate(Piecewise):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.gate(super().forward(x)[:, None])[:, 0]
        return logits


@pytest.mark.parametrize(
    ("net", "for_exact", "for_probes"),
    [
        (Piecewise(), None, None),
        (Piecewise(nn.Hardtanh), None, None),
        (Piecewise(nn.SiLU), "not piecewise linear in stem.weight", None),
        (Piecewise(nn.Hardswish), "not piecewise linear in stem.weight", None),
        (Functional(), "not piecewise linear in stem.weight", None),
        (Reused(), "grouped.weight is used more than once", "grouped.weight is used more than once"),
        (Unseen(), "hidden.weight is also used outside", "hidden.weight is also used outside"),
        (Gate(), "gate.weight is not the weight", "gate.weight is not the weight"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_estimates_hold_for(net: nn.Module, for_exact: str | None, for_probes: str | None) -> None:
    net = net.double().eval()
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        for reason, expected in (
            (why_not_exact(net, tensors, images(20), 0), for_exact),
            (why_not_layers(net, tensors, images(20)), for_probes),
        ):
            assert (reason is None) == (expected is None), reason
            assert expected is None or expected in str(reason)


def test_every_network_of_the_vocabulary_is_exact() -> None:
    net = digits_network()
    tensors = curvature_tensors(net)
    with differentiated(net, tensors):
        assert why_not_exact(net, tensors, torch.rand(4, 1, 8, 8, generator=seeded(0)), 0) is None


def test_stopped_products_leave_the_network_as_it_was() -> None:
    net, (x, y) = small_net().train(), batch()
    net.stem.weight.requires_grad_(False)
    before = state(net)
    tensors = curvature_tensors(net)
    for function in (gauss_newton_traces, remainder_traces):
        more = (x, 7, {}) if function is gauss_newton_traces else (x, y, 7, 0, range(2), {})
        with differentiated(net, tensors):
            steps = function.steps(net, tensors, *more)
            next(steps)
            steps.close()
            assert all(tensor.requires_grad for tensor in tensors)
        assert_same_state(before, state(net))
    with pytest.raises(RuntimeError), differentiated(net, tensors):
        raise RuntimeError
    assert_same_state(before, state(net))
