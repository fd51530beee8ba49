"""The further training methods against references written here once more, example by example, in float64."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import CPU, assert_same_state, conv_net, digits, images, labels, seeded, state, trial

from orchestrator.spec.methods import METHODS
from orchestrator.spec.training import Attack
from workers.failures import DataError
from workers.labels import Labels
from workers.methods.base import NetworkPolicy, Scheduled, WeightPerturbation
from workers.methods.incorrect import predicted
from workers.methods.self_supervision import HEAD, rotated
from workers.models.classifier import Classifier
from workers.seeding import generator, seed_of
from workers.steps import drain
from workers.training import Trainer

LINF = Attack(eps=0.2, step_size=0.05, steps=6)
L2 = Attack(norm="l2", eps=1.0, step_size=0.25, steps=6)


def method(name: str, **parameters: Any) -> Any:
    spec = METHODS.parse({"name": name, **parameters})
    return spec.load()(spec)


def classifier(classes: int = 3) -> Classifier:
    return Classifier(conv_net(classes=classes), torch.tensor([0.4, 0.5]), torch.tensor([0.3, 0.2])).double()


def batch(count: int = 9) -> tuple[Tensor, Tensor, Labels]:
    x = images(count)
    return x, (x + 0.1 * torch.randn(x.shape, generator=seeded(9), dtype=x.dtype)).clamp(0, 1), Labels(labels(count), 3)


def ce(logits: Tensor, index: Tensor) -> float:
    """Mean cross-entropy of class indices, one example after the other."""
    rows = logits.detach().double().numpy()
    return float(np.mean([math.log(sum(math.exp(v - r[k]) for v in r)) for r, k in zip(rows, index, strict=True)]))


# ---- AdvLC ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("top", "count"), [(0.1, 2), (0.5, 13), (1.0, 27), (0.01, 1)])
@pytest.mark.parametrize("train", [False, True])
def test_advlc_penalises_the_largest_differences(top: float, count: int, train: bool) -> None:
    x, x_adv, y = batch()
    model = conv_net().train(train)
    twin = copy.deepcopy(model)
    clean, adversarial = twin(x).detach(), twin(x_adv).detach()
    difference = sorted(abs(float(a - b)) for a, b in zip(clean.flatten(), adversarial.flatten(), strict=True))
    assert len(difference) == 27
    expected = ce(adversarial, y.index) + 0.7 * sum(difference[-count:]) / 9
    loss = method("advlc", weight=0.7, top=top).loss(model, x, x_adv, y)
    assert float(loss.value.detach()) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(loss.logits, adversarial)


def test_advlc_gradient_flows_through_both_logits() -> None:
    class Given(nn.Module):
        """The images are the logits."""

        def forward(self, x: Tensor) -> Tensor:
            return x

    clean = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]], dtype=torch.float64, requires_grad=True)
    adversarial = torch.tensor([[0.5, 2.0, 2.1], [0.2, -1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    y = Labels(torch.tensor([0, 1]), 3)
    method("advlc", weight=0.6, top=0.34).loss(Given(), clean, adversarial, y).value.backward()
    # the differences are .5, -2, -.1, -.2, 4, 0: the two largest (int(.34 * 6) = 2) are those of classes 1
    sign = torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(clean.grad, 0.6 / 2 * sign)
    of_ce = (adversarial.detach().softmax(1) - torch.tensor([[1.0, 0, 0], [0, 1, 0]], dtype=torch.float64)) / 2
    torch.testing.assert_close(adversarial.grad, of_ce - 0.6 / 2 * sign)


@pytest.mark.parametrize(("warmup", "factors"), [(True, [0.25, 0.5, 0.75, 1.0]), (False, [1.0] * 4)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_advlc_warmup(warmup: bool, factors: list[float], wrapped: bool) -> None:
    x, x_adv, y = batch()
    model = conv_net().eval()
    over = {"name": "advlc", "weight": 2.0, "top": 1.0, "linear_warmup": warmup}
    found = method("awp", over=over) if wrapped else method(**over)
    assert isinstance(found, Scheduled)
    clean, adversarial = model(x), model(x_adv)
    for epoch, factor in enumerate(factors):
        found.begin_epoch(epoch, 4)
        expected = ce(adversarial, y.index) + 2.0 * factor * float((clean - adversarial).detach().abs().sum()) / 9
        assert float(found.loss(model, x, x_adv, y).value.detach()) == pytest.approx(expected, rel=1e-9)


def test_advlc_warmup_is_that_of_the_epoch_in_training() -> None:
    trainer = Trainer(trial({"name": "advlc", "linear_warmup": True}, epochs=4), digits(), None, CPU)
    seen = [trainer.method.factor for progress in trainer.run() if progress.batch]  # type: ignore[attr-defined]
    assert seen == [factor for factor in (0.25, 0.5, 0.75, 1.0) for _ in range(4)]


# ---- self-supervision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [4, 5])
def test_rotated_is_numpys(side: int) -> None:
    x = torch.rand(12, 2, side, side, generator=seeded(0))
    turns = torch.arange(12) % 4
    expected = [np.rot90(image.numpy(), int(k), axes=(1, 2)) for image, k in zip(x, turns, strict=True)]
    np.testing.assert_array_equal(rotated(x, turns).numpy(), np.stack(expected))


@pytest.mark.parametrize("train", [False, True])
def test_self_supervision_loss(train: bool) -> None:
    x, x_adv, y = batch(40)
    model, found = classifier().train(train), method("self_supervision", weight=1.7)
    assert isinstance(found, NetworkPolicy)
    found.extend(model)
    model.double()
    head = model.heads[HEAD]
    assert isinstance(head, nn.Linear) and (head.in_features, head.out_features) == (64, 4)
    torch.manual_seed(5)
    loss = found.loss(copy.deepcopy(model), x, x_adv, y)
    torch.manual_seed(5)
    turns = torch.randint(4, (40,))
    assert set(turns.tolist()) == {0, 1, 2, 3}
    turned = torch.from_numpy(
        np.stack([np.rot90(image.numpy(), int(k), (1, 2)) for image, k in zip(x_adv, turns, strict=True)])
    )
    twin = copy.deepcopy(model)
    logits = twin(x_adv)
    hidden = (turned - twin.mean) / twin.std
    for layer in list(twin.network)[:-1]:
        hidden = layer(hidden)
    rotation = hidden.detach().numpy() @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    expected = ce(logits, y.index) + 1.7 * ce(torch.from_numpy(rotation), turns)
    assert float(loss.value.detach()) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(loss.logits, logits)


def test_self_supervision_needs_square_images() -> None:
    model, found = classifier(), method("self_supervision")
    x = torch.rand(3, 2, 4, 8)
    with pytest.raises(DataError, match="4 x 8 pixels cannot be rotated"):
        found.loss(model, x, x, Labels(labels(3), 3))


@pytest.mark.parametrize("spec", ["self_supervision", {"name": "awp", "over": "self_supervision"}])
def test_rotation_head_is_trained_and_does_not_touch_the_logits(spec: Any) -> None:
    trainer = Trainer(trial(spec, epochs=1), digits(), None, CPU)
    head = trainer.model.heads[HEAD]
    before = head.weight.detach().clone()
    drain(trainer.run())
    assert not torch.equal(before, head.weight)
    x = trainer.batches.batch(0, 0)[0]
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(x)
        head.weight.fill_(1e6)
        assert torch.equal(trainer.model(x), logits)


# ---- attacks ----------------------------------------------------------------------------------------------------


def naive_pgd_tau(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, start: Tensor, tau: int) -> Tensor:
    """One example after the other, each with its own loop that breaks."""
    model = copy.deepcopy(model).eval()
    found = []
    for i in range(len(x)):
        current, since = start[i : i + 1], None
        for index in range(attack.steps):
            current = current.detach().requires_grad_(True)
            logits = model(current)
            if since is None and int(logits.argmax()) != int(y[i]):
                since = index
            if since is not None and index - since >= tau:
                break
            (-logits.log_softmax(1)[0, y[i]]).backward()
            g = current.grad
            assert g is not None
            if attack.norm == "linf":
                offset = (current.detach() + attack.step_size * g.sign() - x[i]).clamp(-attack.eps, attack.eps)
            else:
                offset = current.detach() + attack.step_size * g / g.norm() - x[i]
                offset = offset * min(1.0, attack.eps / float(offset.norm()))
            current = (x[i] + offset).clamp(0, 1)
        found.append(current.detach())
    return torch.cat(found)


@pytest.mark.parametrize("attack", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("tau", [0, 1, 3, 20])
def test_pgd_tau_is_the_naive_loop(attack: Attack, tau: int) -> None:
    attack = attack.model_copy(update={"random_start": False})
    model, x = conv_net().train(), images(30)
    with torch.no_grad():
        y = copy.deepcopy(model).eval()(x).argmax(1)
    y = torch.where(torch.arange(30) % 4 == 0, (y + 1) % 3, y)  # most are right at first, some are wrong at once
    before = state(model)
    found = method("pgd_tau", tau=tau).attack(model, x, Labels(y, 3), attack, seeded(0))
    assert_same_state(before, state(model))
    assert not found.requires_grad
    torch.testing.assert_close(found, naive_pgd_tau(model, x, y, attack, x, tau), rtol=0, atol=1e-9)
    if tau == 0:
        assert torch.equal(found[::4], x[::4])
    if tau == 20:  # never stopped: plain PGD to its last iterate
        last = attack.model_copy(update={"best_iterate": False})
        torch.testing.assert_close(found, method("at").attack(model, x, Labels(y, 3), last, seeded(0)))


def test_pgd_tau_starts_in_the_ball() -> None:
    x, y = images(20), Labels(labels(20), 3)
    model = conv_net().eval()
    found = [method("pgd_tau", tau=0).attack(model, x, y, LINF, seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert float((found[0] - x).abs().max()) <= LINF.eps + 1e-12
    noise = torch.empty_like(x).uniform_(-LINF.eps, LINF.eps, generator=seeded(1))
    start = (x + noise).clamp(0, 1)
    torch.testing.assert_close(found[0], naive_pgd_tau(model, x, y.index, LINF, start, 0), rtol=0, atol=1e-9)


def test_ignore_incorrect_attacks_only_what_is_right() -> None:
    model, x, y = conv_net().train(), images(40), Labels(labels(40), 3)
    with torch.no_grad():
        right = copy.deepcopy(model).eval()(x).argmax(1) == y.index
    assert 5 < int(right.sum()) < 35
    before = state(model)
    found = method("ignore_incorrect").attack(model, x, y, LINF, seeded(1))
    assert_same_state(before, state(model))
    assert torch.equal(found[~right], x[~right])
    assert torch.equal(found[right], method("at").attack(model, x, y, LINF, seeded(1))[right])
    assert all(bool((found[i] != x[i]).any()) for i in torch.nonzero(right).flatten())
    loss = method("ignore_incorrect").loss(model.eval(), x, found, y)
    assert float(loss.value.detach()) == pytest.approx(ce(model(found), y.index), rel=1e-9)


def test_prevent_label_leaking_attacks_the_predicted_label() -> None:
    model, x, y = conv_net().train(), images(40), Labels(labels(40), 3)
    with torch.no_grad():
        guess = copy.deepcopy(model).eval()(x).argmax(1)
    assert torch.equal(predicted(model, x), guess) and bool((guess != y.index).any())
    before = state(model)
    found = method("prevent_label_leaking").attack(model, x, y, LINF, seeded(1))
    assert_same_state(before, state(model))
    assert torch.equal(found, method("at").attack(model, x, Labels(guess, 3), LINF, seeded(1)))
    other = Labels((y.index + 1) % 3, 3)  # the true labels have no say in it
    assert torch.equal(found, method("prevent_label_leaking").attack(model, x, other, LINF, seeded(1)))
    loss = method("prevent_label_leaking").loss(model.eval(), x, found, y)
    assert float(loss.value.detach()) == pytest.approx(ce(model(found), y.index), rel=1e-9)


@pytest.mark.parametrize("factor", [1.25, 0.5, 2.0])
def test_fgsm_takes_one_long_step_from_a_random_start(factor: float) -> None:
    model, x, y = conv_net().eval(), images(20), Labels(labels(20), 3)
    attack = Attack(eps=0.1, step_size=0.001, steps=9, restarts=4)  # steps, their length and restarts do not apply
    found = method("fgsm_rs", step_factor=factor).attack(model, x, y, attack, seeded(3))
    start = (x + torch.empty_like(x).uniform_(-0.1, 0.1, generator=seeded(3))).clamp(0, 1).requires_grad_(True)
    (-model(start).log_softmax(1)[range(20), y.index]).sum().backward()
    assert start.grad is not None
    moved = start.detach() + factor * 0.1 * start.grad.sign()
    expected = torch.minimum(torch.maximum(moved, x - 0.1), x + 0.1).clamp(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(
        found,
        method("fgsm_rs", step_factor=factor).attack(
            model, x, y, Attack(eps=0.1, random_start=False, best_iterate=True), seeded(3)
        ),
    )


@pytest.mark.parametrize(
    ("fraction", "count", "attacked"),
    [(0.5, 10, 5), (0.5, 9, 5), (1.0, 9, 9), (0.01, 9, 1), (0.55, 20, 11), (0.07, 100, 7), (0.3, 10, 3)],
)
def test_adversarial_fraction_leaves_the_rest_clean(fraction: float, count: int, attacked: int) -> None:
    model, x, y = conv_net().eval(), images(count), Labels(labels(count), 3)
    found = method("at", adversarial_fraction=fraction).attack(model, x, y, LINF, seeded(1))
    changed = (found != x).flatten(1).any(1)
    assert bool(changed[:attacked].all()) and not bool(changed[attacked:].any())
    alone = method("at").attack(model, x[:attacked], Labels(y.index[:attacked], 3), LINF, seeded(1))
    torch.testing.assert_close(found[:attacked], alone)


# ---- random weight perturbation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_random_perturbation_lies_on_each_tensors_sphere(dtype: torch.dtype) -> None:
    model, found = conv_net(dtype=dtype).train(), method("random_weight_perturbation", xi=0.3)
    assert isinstance(found, WeightPerturbation)
    before, weights = state(model), [p.detach().double() for p in copy.deepcopy(model).parameters()]
    offsets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with found.applied(model, lambda: pytest.fail("needs no loss"), 0):
            offsets.append([p.detach().double() - w for p, w in zip(model.parameters(), weights, strict=True)])
            for name, buffer in model.named_buffers():
                assert torch.equal(buffer, before["tensors"][name])
        assert_same_state(before, state(model))
    normalisation = {"1.weight", "1.bias"}
    for (name, _), w, a, b, c in zip(model.named_parameters(), weights, *offsets, strict=True):
        if name in normalisation:
            assert not a.any()
            continue
        assert float(a.norm()) == pytest.approx(0.3 * float(w.norm()), rel=1e-5)
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_random_perturbation_has_no_preferred_direction() -> None:
    model, found = conv_net(), method("random_weight_perturbation", xi=1.0)
    w = model[0].weight.detach().clone()
    torch.manual_seed(0)
    total, squares, draws = torch.zeros_like(w), torch.zeros_like(w), 2000
    for _ in range(draws):
        with found.applied(model, lambda: torch.zeros(()), 0):
            offset = model[0].weight.detach() - w
        total += offset
        squares += offset**2
    variance = float(w.norm()) ** 2 / w.numel()
    assert float((total / draws / math.sqrt(variance / draws)).abs().max()) < 4.5
    torch.testing.assert_close(squares / draws, torch.full_like(w, variance), rtol=0.2, atol=0)


def test_weights_come_back_when_the_step_fails() -> None:
    model, found = conv_net(dtype=torch.float32), method("random_weight_perturbation")
    before = state(model)
    with pytest.raises(ZeroDivisionError), found.applied(model, lambda: torch.zeros(()), 0):
        _ = 1 / 0
    assert_same_state(before, state(model))


def test_random_perturbation_trains_with_the_gradient_there() -> None:
    """One step of plain SGD by hand: w - lr * g(w + nu), the attack at w."""
    spec = trial(
        {"name": "random_weight_perturbation", "xi": 0.5},
        optimizer={"name": "sgd", "lr": 0.01, "momentum": 0, "nesterov": False, "weight_decay": 0},
    )
    trainer = Trainer(spec, digits(), None, CPU)
    twin = copy.deepcopy(trainer.model)
    weights = [p.detach().clone() for p in twin.parameters()]
    x, y = trainer.batches.batch(0, 0)
    x_adv = method("at").attack(twin, x, Labels(y, 10), spec.training.attack, generator(CPU, spec.seed, "attack", 0, 0))
    next(trainer.run())
    torch.manual_seed(seed_of(spec.seed, "step", 0, 0))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if "norm" not in name:
                nu = torch.randn_like(parameter)
                parameter += 0.5 * parameter.norm() * nu / nu.norm()
    (-twin.train()(x_adv).log_softmax(1)[range(len(y)), y]).mean().backward()
    for (name, new), old, moved in zip(trainer.model.named_parameters(), weights, twin.parameters(), strict=True):
        assert moved.grad is not None
        torch.testing.assert_close(new.detach(), old - 0.01 * moved.grad, rtol=1e-4, atol=1e-6, msg=name)
