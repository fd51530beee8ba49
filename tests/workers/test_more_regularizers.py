"""The further regularisers, optimizers and schedules against closed forms, brute force, counts and hand loops."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import CPU, TwoWeights, assert_same_state, conv_net, digits, images, labels, seeded, state, trial

from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.training import SCHEDULES
from workers import checkpoints
from workers.data.splits import Images
from workers.labels import Labels
from workers.methods.base import NetworkPolicy, Stateful, WeightPerturbation
from workers.models.classifier import Classifier
from workers.regularizers.base import AfterEpoch, AfterStep, BatchTransform, FinalWeights, Penalty
from workers.regularizers.networks import ACTIVATIONS
from workers.regularizers.weight_averaging import estimate_statistics
from workers.seeding import generator
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer, weights_digest

PLAIN = {"name": "sgd", "lr": 0.01, "momentum": 0, "nesterov": False, "weight_decay": 0}


def build(name: str, **parameters: Any) -> Any:
    spec = REGULARIZERS.parse({"name": name, **parameters})
    return spec.load()(spec)


def bytes_as_images(count: int, side: int = 8, channels: int = 3) -> Tensor:
    return torch.randint(256, (count, channels, side, side), generator=seeded(0)).float() / 255


# ---- images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_autoaugment_depends_on_the_generator_alone(channels: int) -> None:
    x, y, policy = bytes_as_images(60, 32, channels), Labels(labels(60), 3), build("autoaugment")
    assert isinstance(policy, BatchTransform)
    found = []
    for outside, seed in ((1, 4), (2, 4), (1, 5)):
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        z, kept = policy.transform(x, y, seeded(seed))
        assert kept is y and torch.equal(torch.get_rng_state(), before)
        assert z.shape == x.shape and z.dtype == torch.float32
        levels = z * 255
        assert torch.equal(levels.round() / 255, z) and bool(((levels >= 0) & (levels <= 255)).all())
        found.append(z)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    changed = (found[0] != x).flatten(1).any(1)
    assert int(changed.sum()) > 30  # each image has its own sub-policy
    assert torch.equal(x, bytes_as_images(60, 32, channels))


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 3), (8, 6, 4), (5, 5, 1), (6, 6, 16)])
def test_cutout_paints_a_square_around_a_uniform_pixel(height: int, width: int, size: int) -> None:
    count = 20_000
    x = torch.ones(count, 2, height, width)
    found, kept = build("cutout", size=size, fill=0.25).transform(x, y := Labels(labels(count), 3), seeded(0))
    assert kept is y and bool(x.eq(1).all())
    painted = found[:, 0] == 0.25
    assert torch.equal(found[:, 1] == 0.25, painted) and bool((found[:, 0][~painted] == 1).all())
    expected: dict[bytes, int] = {}
    for row in range(height):  # every centre there is
        for column in range(width):
            mask = np.zeros((height, width), dtype=bool)
            for i in range(row - size // 2, row - size // 2 + size):
                for j in range(column - size // 2, column - size // 2 + size):
                    if 0 <= i < height and 0 <= j < width:
                        mask[i, j] = True
            expected[mask.tobytes()] = expected.get(mask.tobytes(), 0) + 1
    seen = dict.fromkeys(expected, 0)
    for mask in painted.numpy():
        seen[mask.tobytes()] += 1  # a mask that no centre makes is a KeyError
    frequencies = np.array(list(expected.values())) / (height * width) * count
    if len(expected) > 1:
        assert scipy.stats.chisquare(list(seen.values()), frequencies).pvalue > 1e-3


def test_mixup_mixes_pixels_and_labels_alike() -> None:
    """Images that are their own label in their pixels: what the pixels say is what the label says."""
    y = Labels(torch.arange(7), 7)
    x = torch.eye(7).view(7, 1, 1, 7)
    indices = set()
    for seed in range(40):
        z, mixed = build("mixup", alpha=0.7).transform(x, y, seeded(seed))
        p = mixed.probabilities
        assert p is not None
        torch.testing.assert_close(p.sum(1), torch.ones(7))
        torch.testing.assert_close(p, z.flatten(1))
        weight = float(p[0].max())
        if weight < 1:  # one weight and one permutation for the batch
            assert all(sorted(row.tolist())[:5] == [0] * 5 for row in p)
        assert all(float(p[i, mixed.index[i]]) >= 0.5 - 1e-6 for i in range(7))
        indices.add(torch.equal(mixed.index, y.index))
    assert indices == {True, False}


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_mixup_weight_is_beta(alpha: float) -> None:
    x, y = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), Labels(torch.tensor([0, 1]), 2)
    weights = []
    for seed in range(1500):
        z, _ = build("mixup", alpha=alpha).transform(x, y, seeded(seed))
        if float(z[0]) > 0:  # with probability 1/2 an image is its own partner, and the weight is not seen
            weights.append(1 - float(z[0]))
    assert 600 < len(weights) < 900
    assert scipy.stats.kstest(weights, "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_cutmix_labels_count_the_pixels() -> None:
    count, side = 6, 9
    y = Labels(torch.arange(count), count)
    x = (torch.arange(count).float() / 10).view(-1, 1, 1, 1).expand(-1, 2, side, side - 2).contiguous()
    shares, indices = [], set()
    for seed in range(300):
        z, mixed = build("cutmix").transform(x, y, seeded(seed))
        p = mixed.probabilities
        assert p is not None
        for i in range(count):
            pixels = [float((z[i, 0] == x[k, 0, 0, 0]).float().mean()) for k in range(count)]
            np.testing.assert_allclose(p[i].numpy(), pixels, atol=1e-6)
            other = np.argwhere((z[i, 0] != x[i, 0, 0, 0]).numpy())
            if len(other):  # a full rectangle, the same in both channels
                assert len(other) == np.prod(np.ptp(other, axis=0) + 1)
                assert torch.equal(z[i, 0], z[i, 1])
                shares.append(1 - float(p[i, i]))
            assert float(p[i, mixed.index[i]]) >= 0.5 - 1e-6
        indices.add(torch.equal(mixed.index, y.index))
    assert indices == {True, False} and 0 < min(shares) < 0.1 and 0.6 < max(shares) <= 1
    assert float(x[3, 0, 0, 0]) == pytest.approx(0.3)  # the batch that was given is as it was


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_cutmix_shares_are_those_of_the_papers_rule(alpha: float) -> None:
    """Even sides of sqrt(1 - lambda) around a uniform pixel, clipped: the shares against a simulation with numpy."""
    side, draws = 32, 1500
    x, y = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, side, side).contiguous(), Labels(torch.arange(2), 2)
    seen = [float(build("cutmix", alpha=alpha).transform(x, y, seeded(s))[0][0].mean()) for s in range(draws)]
    found = np.array([share for share in seen if share > 0])  # with probability 1/2 an image is its own partner
    random = np.random.default_rng(0)
    half = (side * np.sqrt(1 - random.beta(alpha, alpha, 100_000)) / 2).astype(int)
    sides = []
    for _ in range(2):
        centre = random.integers(0, side, 100_000)
        sides.append(np.minimum(side, centre + half) - np.maximum(0, centre - half))
    share = sides[0] * sides[1] / side**2
    share = share[share > 0]
    error = share.std() / math.sqrt(len(found))
    assert len(found) > 500 and abs(found.mean() - share.mean()) < 4 * error
    assert scipy.stats.ks_2samp(found, share).pvalue > 1e-3


def test_mixed_soft_labels_stay_probabilities() -> None:
    y = Labels(labels(30), 3).softened(0.2)
    p = y.probabilities
    assert p is not None
    order = torch.randperm(30, generator=seeded(2))
    for weight in (0.2, 0.5, 0.9):
        mixed = y.mixed(order, weight)
        assert mixed.probabilities is not None
        expected = [[weight * a + (1 - weight) * b for a, b in zip(p[i], p[order[i]], strict=True)] for i in range(30)]
        torch.testing.assert_close(mixed.probabilities, torch.tensor(expected))
        assert torch.equal(mixed.index, y.index if weight >= 0.5 else y.index[order])


# ---- sharpness-aware minimisation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_perturbation_on_two_weights_by_hand(name: str) -> None:
    """Loss 3 a^2 + a b at (a, b) = (2, -1): gradient (6 a + b, a) = (11, 2)."""
    model = TwoWeights([2.0, -1.0]).double()
    before = state(model)

    def loss() -> Tensor:
        a, b = model.layer.weight[0]
        return 3 * a**2 + a * b

    found = build(name, rho=0.1) if name == "sam" else build(name, rho=0.1, eta=0.5)
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
    with build(name, rho=0.2).applied(model, lambda: F.cross_entropy(model(x), y), 0):
        moved = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()]) - w
        np.testing.assert_allclose(moved, expected, rtol=1e-7, atol=1e-12)
        for buffer_name, buffer in model.named_buffers():
            assert torch.equal(buffer, before["tensors"][buffer_name])
    assert_same_state(before, state(model))


def test_no_gradient_no_perturbation() -> None:
    model = TwoWeights([1.0, 2.0])
    for name in ("sam", "asam"):
        with build(name).applied(model, lambda: 0 * model.layer.weight.sum(), 0):
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


# ---- input gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
def test_input_gradient_penalty_equals_finite_differences(train: bool) -> None:
    model, x, y = conv_net().train(train), images(3), labels(3)
    found = build("input_gradient", weight=0.3)
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


# ---- weight averaging ---------------------------------------------------------------------------------------------


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


# ---- the network --------------------------------------------------------------------------------------------------


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
    model, found = one_relu_in_two_places(), build("activation", kind="tanh")
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


# ---- schedules, clipping, optimizers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "epochs", "table"),
    [
        ({"name": "cosine"}, 8, {0: 1, 2: (1 + math.sqrt(0.5)) / 2, 4: 0.5, 6: (1 - math.sqrt(0.5)) / 2, 8: 0}),
        ({"name": "cosine", "end": 0.2}, 3, {0: 1, 1: 0.8, 1.5: 0.6, 2: 0.4, 3: 0.2}),
        ({"name": "cyclic"}, 10, {0: 0, 1: 0.25, 2: 0.5, 4: 1, 5.5: 0.75, 7: 0.5, 10: 0}),
        ({"name": "cyclic", "period": 30, "peak": 0.5}, 60, {0: 0, 7.5: 0.5, 15: 1, 30: 0, 45: 1, 52.5: 0.5, 60: 0}),
        ({"name": "cyclic", "period": 2.5, "peak": 0.2}, 5, {0.25: 0.5, 0.5: 1, 1.5: 0.5, 3: 1, 5: 0}),
    ],
    ids=str,
)
def test_schedule_values(schedule: Any, epochs: int, table: dict[float, float]) -> None:
    found = SCHEDULES.parse(schedule)
    assert [found.factor(epoch, epochs) for epoch in table] == pytest.approx(list(table.values()), abs=1e-12)


def test_schedule_acts_on_every_batch() -> None:
    trainer = Trainer(trial("standard", schedule="cyclic", epochs=5, lr=0.2), digits(), None, CPU)
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    drain(trainer.run())
    expected = [0.2 * (i / 8 if i < 8 else (20 - i) / 12) for i in range(20)]  # 4 batches each; the peak at epoch 2
    assert rates == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_gradient_clipping_bounds_the_whole_norm(bound: float) -> None:
    """One step of plain SGD moves the weights by lr * min(||g||, bound), along -g."""
    trainer = Trainer(trial("standard", optimizer=PLAIN, clip_gradient=bound), digits(), None, CPU)
    twin = copy.deepcopy(trainer.model).train()
    seen: list[Tensor] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]))
    )
    next(trainer.run())
    x, y = trainer.batches.batch(0, 0)
    F.cross_entropy(twin(x), y).backward()
    gradient = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
    length = float(gradient.norm())
    assert 1e-3 < length < 1e3
    torch.testing.assert_close(seen[0], gradient * min(1.0, bound / length), rtol=1e-3, atol=1e-8)
    assert float(seen[0].norm()) == pytest.approx(min(length, bound), rel=1e-3)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("overridden", [False, True])
def test_first_steps_of_adam_by_hand(name: str, overridden: bool) -> None:
    """Two steps of the papers' formulas, with the gradients that the training saw."""
    decay, lr, betas = 0.3, 0.004, (0.8, 0.95)
    optimizer = {"name": name, "lr": lr, "betas": betas, "weight_decay": 0.1 if overridden else decay}
    parts = [{"name": "weight_decay", "value": decay}] if overridden else []
    trainer = Trainer(trial("standard", parts, optimizer=optimizer), digits(), None, CPU)
    weights = [p.detach().double().numpy().copy() for p in trainer.model.parameters()]
    first, second = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    seen: list[list[np.ndarray]] = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append([p.grad.double().numpy() for p in trainer.model.parameters() if p.grad is not None])
    )
    run = trainer.run()
    for step in (1, 2):
        next(run)
        for k, gradient in enumerate(seen[-1]):
            w = weights[k]
            g = gradient + decay * w if name == "adam" else gradient
            first[k] = betas[0] * first[k] + (1 - betas[0]) * g
            second[k] = betas[1] * second[k] + (1 - betas[1]) * g**2
            change = first[k] / (1 - betas[0] ** step) / (np.sqrt(second[k] / (1 - betas[1] ** step)) + 1e-8)
            weights[k] = w - lr * change - (lr * decay * w if name == "adamw" else 0)
        for parameter, expected in zip(trainer.model.parameters(), weights, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-3, atol=2e-6)


def test_transforms_see_their_own_generator() -> None:
    """A trial's batch is transformed as a function of (seed, name, epoch, batch)."""
    trainer = Trainer(trial("standard", ["mixup"]), digits(), None, CPU)
    seen: list[Tensor] = []
    trainer.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    next(trainer.run())
    x, y = trainer.batches.batch(0, 0)
    expected, _ = build("mixup").transform(x, Labels(y, 10), generator(CPU, 0, "mixup", 0, 0))
    assert torch.equal(seen[0], expected)


@pytest.mark.parametrize("part", ["sam", "asam", "input_gradient", "dropout", "mixup"])
def test_extra_forwards_leave_the_running_statistics_alone(part: str) -> None:
    trainer = Trainer(trial("at", [part]), digits(), None, CPU)
    next(trainer.run())
    tracked = {int(v) for k, v in trainer.model.state_dict().items() if k.endswith("num_batches_tracked")}
    assert tracked == {1}


def test_a_checkpoint_from_before_there_were_stateful_parts_goes_on(tmp_path: Path) -> None:
    """Trials that were trained before keep their ids, so their checkpoints must still open."""
    spec, folder = trial("at", [{"name": "label_smoothing", "amount": 0.1}], epochs=2), Folder(str(tmp_path))
    whole = Trainer(spec, digits(), None, CPU)
    drain(whole.run())
    first = Trainer(spec, digits(), folder, CPU)
    run = first.run()
    for _ in range(2):
        next(run)
    old = first._state()
    del old["parts"]
    checkpoints.save(folder, first.epoch, first.next_batch, old)
    second = Trainer(spec, digits(), folder, CPU)
    assert (second.epoch, second.next_batch) == (0, 2)
    drain(second.run())
    assert weights_digest(second.model) == weights_digest(whole.model)
