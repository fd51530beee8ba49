"""The loss over the pixels: against quadratic and linear losses, torch.func, finite differences and enumeration."""

import itertools
import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import assert_same_state, conv_net, digits, images, labels, seeded, state

from orchestrator.spec.landscape_measures import AROUND_INPUTS, INPUTS, InputLandscape
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.measures.input_hessian import Eigenvalues, InputHessian, lanczos, top_eigenvalues
from workers.measures.input_landscape import Around, input_landscape
from workers.measures.result import Result
from workers.measures.robust_loss import robust_examples
from workers.models.classifier import Classifier
from workers.modes import frozen
from workers.steps import drain

ATTACK = Attack(eps=0.1, step_size=0.05, steps=2)
FAST = {"steps": 2, "step_size": 0.05}


def settings(**changes: Any) -> InputLandscape:
    small = {"examples": 10, "batch_size": 6, "eigenvalues": 6}
    return InputLandscape(**{"attack": FAST, "linearity": {"steps": 3, "step_size": 0.05}, **small, **changes})


def measured(model: nn.Module, how: InputLandscape, splits: Splits | None = None, seed: int = 0) -> Result:
    result = input_landscape(model, splits or digits(), how, attack=ATTACK, seed=seed)
    assert tuple(result.values) == how.keys()
    return result


def splits_of(pixels: Tensor, y: Tensor) -> Splits:
    part = Images(pixels, y)
    return Splits(part, part, part, int(y.max()) + 1, "")


def pixels(count: int, *shape: int) -> Tensor:
    return torch.randint(60, 196, (count, *shape), generator=seeded(5), dtype=torch.uint8)


# ---- losses whose derivatives are known ---------------------------------------------------------------------------


class Quadratic(nn.Module):
    """Logits (q, 0) with q = x^T A x / 2 + b^T x + c so large that the loss of class 1 is q itself."""

    def __init__(self, a: Tensor, b: Tensor, c: float = 100.0) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Parameter(a), nn.Parameter(b), c

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        score = ((x @ self.a) * x).sum(1) / 2 + x @ self.b + self.c
        return torch.stack([score, torch.zeros_like(score)], 1)


def symmetric(eigenvalues: list[float]) -> Tensor:
    vectors, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=seeded(2)))
    return vectors @ torch.diag(torch.tensor(eigenvalues)) @ vectors.T


@pytest.mark.parametrize("exact_up_to", [128, 0], ids=["dense", "lanczos"])
def test_quadratic_loss(exact_up_to: int) -> None:
    """Gradient A x + b, Hessian A; the error is |d^T A d| / 2, for positive A largest in a corner of the ball."""
    eigenvalues = [9.0, 4.0, 3.0, 2.0, 1.0, 0.5]
    a, b = symmetric(eigenvalues), torch.randn(6, generator=seeded(3))
    splits = splits_of(pixels(8, 1, 2, 3), torch.ones(8, dtype=torch.int64))
    how = settings(
        attack={"steps": 1, "step_size": 1e-6, "eps": 1e-6},
        linearity={"eps": 0.1, "step_size": 0.05, "steps": 10, "restarts": 20},
        exact_up_to=exact_up_to,
        eigenvalues=4,
    )
    found = measured(Quadratic(a, b), how, splits)
    x = to_unit(splits.test.x).flatten(1).double()
    slope = (x @ a.double() + b.double()).abs().sum(1)
    corners = 0.1 * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64)
    largest = float(((corners @ a.double()) * corners).sum(1).max() / 2)
    assert not found.flags
    for inputs in INPUTS:
        eigen = found.arrays[f"input_curvature_top4_{inputs}_eigenvalues"]
        torch.testing.assert_close(eigen, torch.tensor([[9.0, 4, 3, 2]] * 8, dtype=torch.float64), rtol=1e-4, atol=0)
        torch.testing.assert_close(found.arrays[f"input_gradient_l1_{inputs}"], slope, rtol=1e-4, atol=0)
        assert found[f"input_curvature_top4_{inputs}"] == pytest.approx(18 / 4, rel=1e-4)
        assert found[f"input_curvature_top4_{inputs}_se"] == pytest.approx(0, abs=1e-4)
        assert found[f"input_linearity_error_{inputs}"] == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("exact_up_to", [128, 0], ids=["dense", "lanczos"])
def test_linear_loss_has_neither_curvature_nor_error(exact_up_to: int) -> None:
    b = torch.tensor([1.0, -2.0, 0.5, 4.0])
    splits = splits_of(pixels(5, 1, 2, 2), torch.ones(5, dtype=torch.int64))
    found = measured(Quadratic(torch.zeros(4, 4), b), settings(exact_up_to=exact_up_to), splits)
    for inputs in INPUTS:
        assert found[f"input_gradient_l1_{inputs}"] == pytest.approx(7.5, rel=1e-5)
        assert found[f"input_curvature_top6_{inputs}"] == pytest.approx(0, abs=1e-6)
        assert found[f"input_linearity_error_{inputs}"] == pytest.approx(0, abs=1e-4)  # rounding of a loss of 100
    assert not found.flags


def test_magnitudes_count_and_negative_eigenvalues_are_found() -> None:
    a = symmetric([5.0, -8.0, 1.0, -0.1, 0.0, 0.0, 2.0, -3.0])
    splits = splits_of(pixels(3, 2, 2, 2), torch.ones(3, dtype=torch.int64))
    for exact_up_to in (0, 128):
        found = measured(Quadratic(a, torch.zeros(8)), settings(eigenvalues=3, exact_up_to=exact_up_to), splits)
        eigen = found.arrays["input_curvature_top3_clean_eigenvalues"]
        torch.testing.assert_close(eigen, torch.tensor([[-8.0, 5, -3]] * 3, dtype=torch.float64), rtol=1e-4, atol=0)
        assert found["input_curvature_top3_clean"] == pytest.approx(16 / 3, rel=1e-4)


def test_exhausted_spaces_are_left() -> None:
    """Two different eigenvalues: the first Krylov space ends after two steps, and holds each of them once."""
    model = Quadratic(symmetric([3.0, 3.0, 3.0, 3.0, -1.0, -1.0, -1.0, -1.0]), torch.zeros(8))
    x = torch.rand(3, 2, 2, 2, generator=seeded(0))
    found = drain(top_eigenvalues(InputHessian(model, x, torch.ones(3, dtype=torch.int64)), 6, 0, 100, 1e-3, 0))
    expected = torch.tensor([[3.0, 3, 3, 3, -1, -1]] * 3, dtype=torch.float64)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=0)


# ---- networks: torch.func and finite differences -------------------------------------------------------------------


def dense_hessians(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    def loss(pixels: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(model(pixels[None]), label[None])

    with frozen(model):
        each = [torch.func.hessian(loss)(image, label) for image, label in zip(x, y, strict=True)]
    return torch.stack(each).reshape(len(x), x[0].numel(), -1)


def ordered(hessians: Tensor, count: int) -> Tensor:
    values = torch.linalg.eigvalsh(hessians)
    return values.gather(1, values.abs().argsort(1, descending=True)[:, :count])


@pytest.mark.parametrize("exact_up_to", [32, 31], ids=["dense", "lanczos"])
def test_eigenvalues_equal_those_of_torch_func(exact_up_to: int) -> None:
    model, x, y = conv_net(), images(6), labels(6)
    with frozen(model):
        hessian = InputHessian(model, x, y)
        found = drain(top_eigenvalues(hessian, 10, exact_up_to, 100, 1e-6, 0))
    expected = ordered(dense_hessians(model, x, y), 10)
    assert float(expected[:, 9].abs().min()) > 1e-4  # smooth: none of them is zero
    torch.testing.assert_close(found.values, expected, rtol=1e-5, atol=1e-7)
    assert bool((found.residual <= 1e-6).all())


def test_products_and_gradient_equal_those_of_torch_func() -> None:
    model, x, y = conv_net(), images(4), labels(4)
    vectors = torch.randn(4, 32, generator=seeded(1), dtype=torch.float64)
    with frozen(model):
        hessian = InputHessian(model, x, y)
        found = hessian.product(vectors)
    torch.testing.assert_close(found, torch.einsum("bij,bj->bi", dense_hessians(model, x, y), vectors))
    step = 1e-6
    model.eval()
    for index in itertools.product(range(2), range(4), range(4)):
        ends = []
        for sign in (1, -1):
            shifted = x.clone()
            shifted[(slice(None), *index)] += sign * step
            ends.append(F.cross_entropy(model(shifted), y, reduction="none"))
        slope = (ends[0] - ends[1]).detach() / (2 * step)
        torch.testing.assert_close(hessian.gradient[(slice(None), *index)], slope, rtol=1e-5, atol=1e-7)


def test_network_of_pieces_exhausts_the_krylov_space(trained: Classifier) -> None:
    """ReLU: rank at most 9 of 64, so Lanczos goes on with vectors outside; the rest is zero."""
    part = digits().test.first(6)
    x = to_unit(part.x).double()
    with frozen(trained.double()):
        found = drain(lanczos(InputHessian(trained, x, part.y), 20, 40, 1e-3, 0))
    expected = ordered(dense_hessians(trained, x, part.y), 20)
    scale = expected[:, :1].abs()
    torch.testing.assert_close(found.values / scale, expected / scale, rtol=0, atol=1e-4)
    assert float((expected[:, 9:].abs() / scale).max()) < 1e-9 < float((expected[:, 2].abs() / scale[:, 0]).min())


def test_attention_has_second_derivatives() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.out = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.inside(x.flatten(2)).chunk(3, 2)
            logits: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).mean(1))
            return logits

    torch.manual_seed(0)
    model, x, y = Attending(), images(3, dtype=torch.float32).reshape(3, 8, 2, 2), labels(3)
    with frozen(model):
        found = drain(top_eigenvalues(InputHessian(model, x, y), 5, 128, 10, 1e-3, 0))
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        expected = ordered(dense_hessians(model, x, y), 5).double()
    torch.testing.assert_close(found.values, expected, rtol=1e-3, atol=1e-6)


def test_values_are_means_over_images(trained: Classifier) -> None:
    how = settings(exact_up_to=0, tolerance=1e-5)
    found = measured(trained, how)
    part = digits().test.first(10)
    adversarial = robust_examples(trained, part, how.attack.resolve(ATTACK), 10, 0).x
    for inputs, x in (("clean", to_unit(part.x)), ("adversarial", adversarial)):
        x = x.clone().requires_grad_(True)
        trained.eval()
        (gradient,) = torch.autograd.grad(F.cross_entropy(trained(x), part.y, reduction="sum"), x)
        expected = {
            "gradient_l1": gradient.abs().sum((1, 2, 3)).double(),
            "curvature_top6": ordered(dense_hessians(trained, x.detach(), part.y).double(), 6).abs().mean(1),
        }
        for name, values in expected.items():
            key = f"input_{name}_{inputs}"
            torch.testing.assert_close(found.arrays[key], values, rtol=1e-3, atol=1e-5)
            assert found[key] == pytest.approx(float(values.mean()), rel=1e-3)
            assert found[key + "_se"] == pytest.approx(float(values.std()) / 10**0.5, rel=1e-3)
    assert found["input_linearity_error_clean_se"] > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linearity_error_is_reached_inside_the_ball_and_grows_with_effort(trained: Classifier, norm: str) -> None:
    part = digits().test.first(20)
    x = to_unit(part.x)
    with frozen(trained):
        hessian = InputHessian(trained, x, part.y)

    def error_at(z: Tensor) -> Tensor:
        with torch.no_grad(), frozen(trained):
            loss = F.cross_entropy(trained(z), part.y, reduction="none")
        return (loss - hessian.loss - ((z - x) * hessian.gradient).sum((1, 2, 3))).abs()

    errors = []
    ball = {"norm": norm, "eps": 0.1 if norm == "linf" else 0.5, "step_size": 0.03}
    for effort in ({"steps": 1}, {"steps": 10}, {"steps": 10, "restarts": 3}):
        around = Around(trained, x, part, settings(linearity={**ball, **effort}), ATTACK, 0)
        errors.append(torch.tensor(drain(around.batch(0))["linearity_error"]))
    assert bool((errors[1] >= errors[0] - 1e-6).all()) and bool((errors[2] >= errors[1] - 1e-6).all())
    assert errors[2].sum() > errors[1].sum() > errors[0].sum()
    random = torch.empty_like(x).normal_(generator=seeded(0))
    if norm == "linf":
        z = (x + 0.1 * random.sign()).clamp(0, 1)
    else:
        z = (x + 0.5 * random / random.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1)
    assert errors[2].mean() > error_at(z).mean() > 0  # found by climbing, not by chance


# ---- a measure's duties --------------------------------------------------------------------------------------------


def test_eigenvalues_that_have_not_converged_are_said() -> None:
    a = symmetric([float(k) for k in range(1, 33)])
    splits = splits_of(pixels(4, 2, 4, 4), torch.ones(4, dtype=torch.int64))
    how = settings(exact_up_to=0, lanczos_steps=10, eigenvalues=8, batch_size=3)
    flags = measured(Quadratic(a, torch.zeros(32)), how, splits).flags
    assert len(flags) == 2
    assert "input_curvature_top8_clean: the eigenvalues of 4 of 4 images have not converged in 10 Lanczos" in flags[0]
    assert not measured(Quadratic(a, torch.zeros(32)), settings(exact_up_to=0, eigenvalues=8), splits).flags


@pytest.mark.parametrize("exact_up_to", [128, 0], ids=["dense", "lanczos"])
def test_what_is_not_finite_stays_so(exact_up_to: int) -> None:
    a = symmetric([1.0, 2.0, 3.0, 4.0])
    model, x = Quadratic(a, torch.zeros(4)), torch.full((2, 1, 2, 2), 0.5)
    x[1, 0, 0, 0] = torch.nan
    found = drain(top_eigenvalues(InputHessian(model, x, torch.tensor([1, 1])), 2, exact_up_to, 10, 1e-3, 0))
    assert found.values[0].tolist() == pytest.approx([4, 3], rel=1e-4) and bool(found.values[1].isnan().all())


def test_network_is_as_before_also_when_stopped(trained: Classifier) -> None:
    trained.train()
    trained.network.linear.bias.requires_grad_(False)
    before = state(trained)
    for how in (settings(), settings(exact_up_to=64)):
        total = len(list(input_landscape.steps(trained, digits(), how, attack=ATTACK, seed=0)))
        assert_same_state(before, state(trained))
        for stop_after in range(1, total, max(1, total // 5)):
            steps = input_landscape.steps(trained, digits(), how, attack=ATTACK, seed=0)
            for _ in range(stop_after):
                next(steps)
            steps.close()
            assert_same_state(before, state(trained))


def test_goes_on_where_it_stopped(trained: Classifier) -> None:
    how, whole_parts = settings(), dict[str, Any]()
    whole = input_landscape(trained, digits(), how, attack=ATTACK, seed=0, parts=whole_parts)
    parts: dict[str, Any] = {}
    rounds = 0
    while len(parts) < len(whole_parts):
        had = len(parts)
        steps = input_landscape.steps(trained, digits(), how, attack=ATTACK, seed=0, parts=parts)
        for _ in steps:
            if len(parts) > had:
                break
        steps.close()
        parts = json.loads(json.dumps(parts))
        rounds += 1
    assert parts == whole_parts and set(parts) == {f"{inputs} {low}" for inputs in INPUTS for low in (0, 6)}
    assert rounds >= 3
    again = input_landscape(nn.Module(), digits(), how, attack=ATTACK, seed=0, parts=parts)  # nothing left to compute
    assert again.values == whole.values
    assert all(torch.equal(again.arrays[key], whole.arrays[key]) for key in whole.arrays)


def close(one: Result, other: Result, order: slice = slice(None)) -> None:
    for inputs in INPUTS:
        for value in AROUND_INPUTS:
            key = settings().key(value, inputs)
            # a sign of the attack may turn by rounding
            torch.testing.assert_close(one.arrays[key], other.arrays[key][order], rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("exact_up_to", [64, 0], ids=["dense", "lanczos"])
def test_batch_size_changes_rounding_only(trained: Classifier, exact_up_to: int) -> None:
    close(*(measured(trained, settings(exact_up_to=exact_up_to, batch_size=size)) for size in (10, 3)))


def test_order_of_examples_changes_rounding_only(trained: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random starts belong to places; where they are equal for all images the order is free."""

    def common(x: Tensor, attack: Attack, random: torch.Generator) -> Tensor:
        return (x + torch.empty_like(x[:1]).uniform_(-attack.eps, attack.eps, generator=random)).clamp_(0, 1)

    for module in ("input_landscape", "robust_loss"):
        monkeypatch.setattr(f"workers.measures.{module}.random_start", common)
    part = digits().test.first(10)
    order = torch.randperm(10, generator=seeded(0))
    turned = Images(part.x[order], part.y[order])
    found = [measured(trained, settings(exact_up_to=0), Splits(p, p, p, 10, "")) for p in (turned, part)]
    close(found[0], found[1], order)  # type: ignore[arg-type]


def test_split_and_seed_decide(trained: Classifier) -> None:
    first = measured(trained, settings(split="train"), seed=1)
    assert "input_curvature_top6_adversarial_train_se" in first.values
    splits = digits()
    swapped = Splits(splits.train, splits.validation, splits.train, 10, "")
    assert (
        measured(trained, settings(), swapped, seed=1)["input_gradient_l1_clean"]
        == (first["input_gradient_l1_clean_train"])
    )
    torch.manual_seed(99)
    assert measured(trained, settings(split="train"), seed=1).values == first.values
    other = measured(trained, settings(split="train"), seed=2)
    assert other["input_linearity_error_clean_train"] != first["input_linearity_error_clean_train"]


def test_the_ascent_needs_a_random_start() -> None:
    with pytest.raises(ValidationError, match="linearity needs random_start"):
        settings(linearity={"random_start": False})


def test_eigenvalues_are_a_row_for_each_example() -> None:
    model, x, y = conv_net(), images(3), labels(3)
    with frozen(model):
        found = drain(top_eigenvalues(InputHessian(model, x, y), 50, 0, 10, 1e-3, 0))
    assert isinstance(found, Eigenvalues) and found.values.shape == (3, 32)  # an image has 32 values
