"""The regularisers of weights, gradients and networks against closed forms, finite differences and hand loops."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import (
    CPU,
    PLAIN,
    TwoWeights,
    assert_same_state,
    conv_net,
    digits,
    images,
    labels,
    regularizer,
    seeded,
    state,
    trial,
)

from workers.data.splits import Images
from workers.labels import Labels
from workers.methods.base import NetworkPolicy, Stateful, WeightPerturbation
from workers.models.classifier import Classifier
from workers.regularizers.base import AfterEpoch, AfterStep, FinalWeights, Penalty
from workers.regularizers.networks import ACTIVATIONS
from workers.regularizers.weight_averaging import estimate_statistics
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer, weights_digest

# ---- sharpness-aware minimisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_perturbation_on_two_weights_by_hand(name: str) -> None:
    """Loss 3 a^2 + a b at (a, b) = (2, -1): gradient (6 a + b, a) = (11, 2)."""
    model = TwoWeights([2.0, -1.0]).double()
    before = state(model)

    def loss() -> Tensor:
        a, b = model.layer.weight[0]
        return 3 * a**2 + a * b

    found = regularizer(name, rho=0.1) if name == "sam" else regularizer(name, rho=0.1, eta=0.5)
    assert isinstance(found, WeightPerturbation)
    if name == "sam":
        expected = [2 + 0.1 * 11 / math.sqrt(125), -1 + 0.1 * 2 / math.sqrt(125)]
    else:  # T = (2.5, 1.5), T g = (27.5, 3)
        length = math.hypot(27.5, 3)
        expected = [2 + 0.1 * 2.5 * 27.5 / length, -1 + 0.1 * 1.5 * 3 / length]
    with found.applied(model, loss, 0):  # type: ignore[arg-type]
        assert model.layer.weight[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert_same_state(before, state(model))


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_perturbation_of_a_network(name: str) -> None:
    model = conv_net().train()
    x, y = images(12), labels(12)
    twin = copy.deepcopy(model)
    (-twin(x).log_softmax(1)[range(12), y]).mean().backward()
    w = np.concatenate([p.detach().numpy().ravel() for p in twin.parameters()])
    g = np.concatenate([p.grad.numpy().ravel() for p in twin.parameters()])  # type: ignore[union-attr]
    if name == "sam":
        expected = 0.2 * g / np.sqrt((g**2).sum())
    else:
        size = np.abs(w) + 0.01
        expected = 0.2 * size**2 * g / np.sqrt(((size * g) ** 2).sum())
    before = state(model)
    with regularizer(name, rho=0.2).applied(model, lambda: F.cross_entropy(model(x), y), 0):
        moved = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]) - w
        np.testing.assert_allclose(moved, expected, rtol=1e-7, atol=1e-12)
        for buffer_name, buffer in model.named_buffers():
            assert torch.equal(buffer, before["tensors"][buffer_name])
    assert_same_state(before, state(model))


def test_no_gradient_no_perturbation() -> None:
    model = TwoWeights([1.0, 2.0])
    for name in ("sam", "asam"):
        with regularizer(name).applied(model, lambda: 0 * model.layer.weight.sum(), 0):
            assert model.layer.weight.tolist() == [[1.0, 2.0]]


def test_sam_trains_with_the_gradient_there() -> None:
    trainer = Trainer(trial("standard", [{"name": "sam", "rho": 0.3}], optimizer=PLAIN), digits(), None, CPU)
    first, second = copy.deepcopy(trainer.model).train(), copy.deepcopy(trainer.model).train()
    x, y = trainer.batches.batch(0, 0)
    F.cross_entropy(first(x), y).backward()
    length = math.sqrt(sum(float((p.grad**2).sum()) for p in first.parameters()))  # type: ignore[operator]
    with torch.no_grad():
        for moved, source in zip(second.parameters(), first.parameters(), strict=True):
            moved += 0.3 * source.grad / length  # type: ignore[operator]
    F.cross_entropy(second(x), y).backward()
    next(trainer.run())
    for new, old, there in zip(trainer.model.parameters(), first.parameters(), second.parameters(), strict=True):
        assert there.grad is not None
        torch.testing.assert_close(new.detach(), old.detach() - 0.01 * there.grad, rtol=1e-4, atol=1e-6)


# ---- input gradient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_input_gradient_penalty_equals_finite_differences(train: bool) -> None:
    model, x, y = conv_net().train(train), images(3), labels(3)
    found = regularizer("input_gradient", weight=0.3)
    assert isinstance(found, Penalty)
    before = state(model)
    value = found.penalty(model, x, x + 0.1, Labels(y, 3))
    assert_same_state(before, state(model))
    assert not x.requires_grad

    def loss(z: Tensor, net: nn.Module) -> float:
        return float(F.cross_entropy(copy.deepcopy(net)(z), y, reduction="sum").detach())

    total = 0.0
    for place in np.ndindex(*x.shape):
        shift = torch.zeros_like(x)
        shift[place] = 1e-5
        total += ((loss(x + shift, model) - loss(x - shift, model)) / 2e-5) ** 2
    assert float(value.detach()) == pytest.approx(0.3 * total / 3, rel=1e-5)
    value.backward()  # and its own gradient in the weights
    slopes = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    direction = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(model.parameters())]

    def moved(size: float) -> float:
        net = copy.deepcopy(model)
        with torch.no_grad():
            for p, d in zip(net.parameters(), direction, strict=True):
                p.add_(d, alpha=size)
        return float(found.penalty(net, x, x, Labels(y, 3)).detach())

    product = sum(float((s * d).sum()) for s, d in zip(slopes, direction, strict=True))
    assert product == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-4)


# ---- weight averaging ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("stopped", [False, True])
def test_averages_against_a_hand_loop(kind: str, start: float, stopped: bool, tmp_path: Path) -> None:
    averaging = {"name": "weight_averaging", "kind": kind, "decay": 0.9, "start": start}
    spec, weights = trial("at", [averaging]), []

    def train(steps: int | None, folder: Folder | None) -> Trainer:
        trainer = Trainer(spec, digits(), folder, CPU)
        part = trainer.regularizers[0][1]
        assert all(isinstance(part, place) for place in (AfterStep, AfterEpoch, FinalWeights, Stateful))
        trainer.optimizer.register_step_post_hook(
            lambda *_: weights.append([p.detach().double().clone() for p in trainer.model.parameters()])
        )
        run = trainer.run()
        for _ in range(steps) if steps else ():
            next(run)
        if steps:
            run.close()
        else:
            drain(run)
        return trainer

    folder = Folder(str(tmp_path)) if stopped else None
    if stopped:
        train(18, folder)
    trainer = train(None, folder)
    assert len(weights) == 24  # 6 epochs of 4 batches
    if kind == "ema":
        used = weights[int(24 * start) :]
        average = [w.clone() for w in used[0]]
        for later in used[1:]:
            average = [0.9 * a + (1 - 0.9) * w for a, w in zip(average, later, strict=True)]
    else:
        used = weights[3::4][int(6 * start) :]
        average = [torch.stack(tensors).mean(0) for tensors in zip(*used, strict=True)]
    for parameter, expected in zip(trainer.model.parameters(), average, strict=True):
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-4, atol=1e-6)
    again = Trainer(spec, digits(), folder, CPU) if stopped else trainer
    assert weights_digest(again.model) == weights_digest(trainer.model)


def test_statistics_are_the_mean_over_batches() -> None:
    pixels = torch.randint(256, (22, 2, 4, 4), generator=seeded(0), dtype=torch.uint8)
    net = conv_net(dtype=torch.float32)
    model = Classifier(net, torch.tensor([0.4, 0.5]), torch.tensor([0.3, 0.2])).eval()
    norm = net[1]
    momentum = norm.momentum
    estimate_statistics(model, Images(pixels, labels(22)), 8)
    x = pixels.double().numpy() / 255
    x = (x - np.array([0.4, 0.5])[:, None, None]) / np.array([0.3, 0.2])[:, None, None]
    kernel, bias = net[0].weight.detach().double().numpy(), net[0].bias.detach().double().numpy()
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((22, 4, 4, 4))
    for i in range(4):
        for j in range(4):
            out[:, :, i, j] = np.einsum("ncab,kcab->nk", padded[:, :, i : i + 3, j : j + 3], kernel) + bias
    batches = [out[low : low + 8] for low in (0, 8, 16)]
    means = np.mean([b.mean((0, 2, 3)) for b in batches], axis=0)
    variances = np.mean([b.var((0, 2, 3), ddof=1) for b in batches], axis=0)
    np.testing.assert_allclose(norm.running_mean.numpy(), means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), variances, rtol=1e-4)
    assert norm.momentum == momentum and not any(module.training for module in model.modules())


# ---- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_replaces_every_relu(kind: str) -> None:
    parts = [{"name": "activation", "kind": kind}]
    plain, other = (Trainer(trial("at", given), digits(), None, CPU).model for given in ([], parts))
    names = [name for name, module in plain.named_modules() if type(module) is nn.ReLU]
    assert names and not any(type(module) is nn.ReLU for module in other.modules())
    assert [name for name, module in other.named_modules() if type(module) is ACTIVATIONS[kind]] == names
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True))


def test_activation_functions() -> None:
    z = torch.linspace(-4, 4, 81, dtype=torch.float64)
    formulas = {
        "silu": z / (1 + (-z).exp()),
        "mish": z * torch.tanh(torch.log(1 + z.exp())),
        "gelu": z * torch.special.ndtr(z),
        "softplus": torch.log(1 + z.exp()),
        "leaky_relu": torch.maximum(z, 0.01 * z),
        "tanh": (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()),
    }
    assert set(formulas) == set(ACTIVATIONS)
    for kind, expected in formulas.items():
        torch.testing.assert_close(ACTIVATIONS[kind]()(z), expected)


def one_relu_in_two_places() -> Classifier:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    return Classifier(net, torch.zeros(1), torch.ones(1))


def test_activation_replaces_a_shared_relu_everywhere() -> None:
    model, found = one_relu_in_two_places(), regularizer("activation", kind="tanh")
    assert isinstance(found, NetworkPolicy)
    found.extend(model)
    assert [type(layer) for layer in model.network].count(nn.Tanh) == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no ReLU"):
        found.extend(model)


def test_dropout_is_of_the_features_and_in_training_only() -> None:
    trainer = Trainer(trial("at", [{"name": "dropout", "rate": 0.4}]), digits(), None, CPU)
    plain = Trainer(trial("at"), digits(), None, CPU).model
    x = trainer.batches.batch(0, 0)[0]
    model = trainer.model
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        features = plain.logits_and_features(x)[1]
        for module in model.modules():
            module.training = isinstance(module, nn.Dropout)
        torch.manual_seed(3)
        logits, dropped = model.logits_and_features(x)
    ratio = dropped[features != 0] / features[features != 0]
    zero = ratio == 0
    torch.testing.assert_close(ratio[~zero], torch.full_like(ratio[~zero], 1 / 0.6))
    assert scipy.stats.binomtest(int(zero.sum()), len(ratio), 0.4).pvalue > 1e-3
    expected = dropped.double() @ plain.last_linear.weight.detach().double().T + plain.last_linear.bias.detach()
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_a_function_of_the_step() -> None:
    def masks(outside: int) -> list[Tensor]:
        torch.manual_seed(outside)
        trainer = Trainer(trial("at", [{"name": "dropout", "rate": 0.5}], epochs=2), digits(), None, CPU)
        seen: list[Tensor] = []
        layer = next(module for module in trainer.model.modules() if isinstance(module, nn.Dropout))
        layer.register_forward_hook(lambda module, _, out: seen.append(out == 0) if module.training else None)
        drain(trainer.run())
        return seen

    first, second = masks(1), masks(2)
    assert len(first) == 8  # one forward per step in training mode: the attack runs without dropout
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
