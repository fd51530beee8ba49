"""The network inside attacks against the same network as it is, in double precision, where rounding cannot hide."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from toys import assert_same_state, digits, regularizer, seeded, state, trial

from orchestrator.spec.models import MODELS
from workers import attacks
from workers.folding import folded
from workers.models.classifier import Classifier
from workers.modes import frozen
from workers.training import Trainer

NETWORKS: list[dict[str, Any]] = [
    {"name": "small_preact_resnet", "width": 4},
    {"name": "preact_resnet18", "width": 2},
    {"name": "resnet18", "width": 2},
    {"name": "wide_resnet", "depth": 10, "widen": 1},
    {"name": "cnn", "width": 4},
    {"name": "vgg16_bn", "width": 2},
]


def network(parameters: dict[str, Any]) -> Classifier:
    """Nothing in its normalisation is at its initial 0 or 1; some scales are negative."""
    spec = MODELS.parse(parameters)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = spec.load()(spec, (3, 32, 32), 10)
        for module in inner.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in ((module.weight, -0.5, 1.5), (module.bias, -0.5, 0.5)):
                    nn.init.uniform_(tensor, low, high)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
    return Classifier(inner, torch.full((3,), 0.5), torch.full((3,), 0.2)).double()


def looked_at(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of one number made of them."""
    x = x.clone().requires_grad_(True)
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits.sin().sum(), x)
    return logits.detach(), gradient


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=seeded(0), dtype=torch.float64)


@pytest.fixture
def batch_norms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every batch normalisation that is computed."""
    calls: list[int] = []
    original = F.batch_norm
    monkeypatch.setattr(F, "batch_norm", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    return calls


@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
@pytest.mark.parametrize("parameters", NETWORKS, ids=lambda parameters: parameters["name"])
def test_computes_the_same(parameters: dict[str, Any], norm: str, images: Tensor, batch_norms: list[int]) -> None:
    model = network({**parameters, "norm": norm}).train()
    before = state(model)
    with frozen(model):
        expected = looked_at(model, images)
    plainly = len(batch_norms)
    with folded(model):
        found = looked_at(model, images)
    assert_same_state(before, state(model))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * float(a.abs().max()))
    if norm == "bn":
        assert len(batch_norms) == plainly > 0, "all are folded, or one multiplication with an addition"


def test_the_weights_of_the_moment(images: Tensor) -> None:
    """Nothing is remembered from one time to the next, nor inside one another."""
    model = network(NETWORKS[0])
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        with frozen(model):
            expected = looked_at(model, images)
        with folded(model), folded(model):
            torch.testing.assert_close(looked_at(model, images), expected, rtol=1e-9, atol=1e-9)
        with frozen(model):
            assert torch.equal(looked_at(model, images)[0], expected[0])


@pytest.mark.parametrize("kind", ["silu", "leaky_relu"])
def test_another_activation(kind: str, images: Tensor) -> None:
    model = network(NETWORKS[4])
    regularizer("activation", kind=kind).extend(model)
    with frozen(model):
        expected = looked_at(model, images)
    with folded(model):
        torch.testing.assert_close(looked_at(model, images), expected, rtol=1e-9, atol=1e-9)


def test_a_hook_sees_what_it_would_see(images: Tensor) -> None:
    model = network(NETWORKS[2])
    seen: list[Tensor] = []
    norm = model.network.blocks[3].norm2
    norm.register_forward_hook(lambda _module, _inputs, out: seen.append(out.detach().clone()))
    for mode in (frozen, folded):
        with mode(model):
            looked_at(model, images)
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-9, atol=1e-9)


def test_the_network_is_itself_again_after_an_error(images: Tensor) -> None:
    model = network(NETWORKS[1])
    before = model.eval()(images)
    with pytest.raises(RuntimeError, match="on purpose"), folded(model):
        raise RuntimeError("on purpose")
    assert torch.equal(model(images), before)
    assert not any("forward" in vars(module) for module in model.modules())


def test_trains_like_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of gradients near zero may differ by rounding, so that weights agree only roughly; losses do."""
    losses = []
    for mode in (folded, lambda model, precision: frozen(model)):
        monkeypatch.setattr(attacks, "folded", mode)
        trainer = Trainer(trial("at", epochs=2), digits(), None, torch.device("cpu"))
        losses.append([progress.loss for progress in trainer.run() if progress.loss is not None])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("parameters", NETWORKS, ids=lambda parameters: parameters["name"])
def test_weights_that_move(parameters: dict[str, Any], images: Tensor) -> None:
    """Convolutions move between two calls and are differentiated by."""
    model = network(parameters)
    kernels = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    found = []
    for mode in (frozen(model), folded(model, moving=True)):
        with mode:
            for kernel in kernels:
                kernel.requires_grad_(True)
            for scale in (1.5, 1 / 1.5):
                with torch.no_grad():
                    for kernel in kernels:
                        kernel.mul_(scale)
                logits = model(images)
                found.append([logits, *torch.autograd.grad(logits.sin().sum(), kernels)])
    for plain, fast in zip(found[:2], found[2:], strict=True):
        for a, b in zip(plain, fast, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(a.detach().abs().max()))


@pytest.mark.parametrize("norm", ["bn", "none"])
def test_weights_are_rounded_once(norm: str, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 no pass finds a weight of a convolution in single precision, unless it may move."""
    model, x = network({**NETWORKS[1], "norm": norm}).float(), images.float()
    given: list[torch.dtype] = []
    original = F.conv2d
    monkeypatch.setattr(
        F, "conv2d", lambda x, w, *args, **kwargs: given.append(w.dtype) or original(x, w, *args, **kwargs)
    )
    with frozen(model):
        exact = looked_at(model, x)
    given.clear()
    with folded(model, precision="bf16"):
        low = looked_at(model, x)
    assert given and set(given) == {torch.bfloat16}
    for a, b in zip(exact, low, strict=True):
        assert b.dtype == torch.float32
        assert 0 < float((a - b).norm() / a.norm()) < 0.1
    given.clear()
    with folded(model, moving=True, precision="bf16"):
        torch.testing.assert_close(looked_at(model, x)[0], low[0], rtol=1e-3, atol=1e-3)
    assert set(given) == {torch.float32}
