"""AutoAttack against closed forms, the library's own loop, and PGD in the same ball."""

import json
import sys
from typing import Any

import pytest
import torch
from torch import nn
from toys import CPU, assert_same_state, digits, seeded, state

from orchestrator.spec.network_measures import AutoAttack
from orchestrator.spec.training import Attack
from workers.data.batches import to_unit
from workers.data.splits import Images, Splits
from workers.measures import autoattack as module
from workers.measures.autoattack import Cascade, adversarial_examples, autoattack, is_inside
from workers.measures.robust_loss import clean_examples, robust_examples
from workers.models.classifier import Classifier
from workers.seeding import seed_of

LINF, L2 = Attack(eps=0.02), Attack(norm="l2", eps=0.06)
GRADIENT = ("apgd-ce", "apgd-t", "fab-t")


class Mlp(nn.Sequential):
    """Random weights; the scale makes some images foolable and some not."""

    def __init__(self, pixels: int, classes: int, hidden: int | None = None, scale: float = 1.0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            layers = [nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, classes)] if hidden else []
            super().__init__(nn.Flatten(), *(layers or [nn.Linear(pixels, classes)]))
        with torch.no_grad():
            self[-1].weight.mul_(scale)


def own_labels(
    model: nn.Module, count: int, side: int = 4, channels: int = 1, low: int = 60, high: int = 196
) -> Splits:
    """Random images with the network's own predictions as labels, each eighth one changed to another class."""
    x = torch.randint(low, high, (count, side, side, channels), generator=seeded(5), dtype=torch.uint8)
    x = x.permute(0, 3, 1, 2)  # the layout of all data sets: channels_last
    with torch.no_grad():
        logits = model(to_unit(x))
    y = logits.argmax(1)
    y[::8] = (y[::8] + 1) % logits.shape[1]
    return Splits(Images(x, y), Images(x, y), Images(x, y), logits.shape[1], "")


def fooled_by(model: nn.Module, splits: Splits, attack: Attack, seed: int = 0, **settings: Any) -> list[int]:
    found = autoattack(model, splits, AutoAttack(**settings), attack=attack, seed=seed)
    return found.arrays["fooled_by_test"].tolist()


def slack(model: Mlp, images: Images, attack: Attack) -> torch.Tensor:
    """Of a linear network: smallest margin that is left at the worst point of each image's ball."""
    w, b = model[-1].weight.double(), model[-1].bias.double()
    x, y = images.x.double().flatten(1) / 255, images.y
    margins = (x @ w.T + b).gather(1, y[:, None]) - (x @ w.T + b)
    steepness = (w[y][:, None] - w).norm(p=1 if attack.norm == "linf" else 2, dim=2)
    left = margins - attack.eps * steepness
    return left.scatter(1, y[:, None], torch.inf).amin(1).detach()


@pytest.mark.parametrize("attack", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("name", ["apgd-t", "fab-t", "apgd-ce"])
def test_error_of_a_linear_network_is_the_closed_form(attack: Attack, name: str) -> None:
    """The box cuts no ball. The targeted attacks are exact here; one that climbs cross-entropy may not be."""
    model = Mlp(16, 5)
    splits = own_labels(model, 40)
    left = slack(model, splits.test, attack)
    certain = left.abs() > 1e-3
    assert 0.2 < float((left < 0).double().mean()) < 0.8
    fooled = torch.tensor(fooled_by(model, splits, attack, batch_size=16, attacks=(name,))) >= 0
    if name == "apgd-ce":
        assert not (fooled & (left > 1e-3)).any()
        assert float((fooled == (left < 0)).double().mean()) > 0.9
    else:
        assert torch.equal(fooled[certain], (left < 0)[certain])


def test_the_whole_standard_version() -> None:
    model = Mlp(16, 5)
    splits = own_labels(model, 40)
    left = slack(model, splits.test, LINF)
    found = torch.tensor(fooled_by(model, splits, LINF))
    certain = left.abs() > 1e-3
    assert torch.equal((found >= 0)[certain], (left < 0)[certain])
    assert ((found == 0) == clean_examples(model, splits.test, 40).wrong).all()


def test_images_are_attacked_as_by_the_librarys_own_loop() -> None:
    """Same seed, same batches: image by image the same result, and which attack it was."""
    from pyautoattack import AutoAttack as Library

    model, attacks = Mlp(16, 5, hidden=20, scale=3.0), ("apgd-ce", "apgd-t", "fab-t")
    splits, eps = own_labels(model, 24), 0.06
    found = torch.tensor(fooled_by(model, splits, Attack(eps=eps), seed=3, attacks=attacks, batch_size=12))
    x, y = to_unit(splits.test.x).contiguous(), splits.test.y
    library = Library(model, norm="Linf", eps=eps, seed=seed_of(3, "autoattack"), version="standard", device="cpu")
    library.apgd_targeted.n_target_classes = library.fab.n_target_classes = 4
    for count in range(1, len(attacks) + 1):
        library.attacks_to_run = list(attacks[:count])
        with torch.random.fork_rng(devices=[]):
            _, predicted = library.run_standard_evaluation(x, y, batch_size=12)
        assert torch.equal((found >= 0) & (found <= count), predicted != y), count
    assert {0, 1, -1} <= set(found.tolist()) and (found > 1).any()


def test_whatever_pgd_clearly_fools_autoattack_fools() -> None:
    model = Mlp(16, 5, hidden=20, scale=3.0)
    splits, attack = own_labels(model, 40), Attack(eps=0.06, step_size=0.015, steps=20, restarts=2)
    found = torch.tensor(fooled_by(model, splits, attack, attacks=GRADIENT)) >= 0
    by_pgd = robust_examples(model, splits.test, attack, 100, 0)
    with torch.no_grad():
        logits = model(by_pgd.x)
    own = logits.gather(1, splits.test.y[:, None])[:, 0]
    other = logits.scatter(1, splits.test.y[:, None], -torch.inf).amax(1)
    clearly = own - other < -1e-3
    clean = clean_examples(model, splits.test, 100).wrong
    assert (clearly & ~clean).sum() > 5
    assert found[clearly | clean].all()
    assert found.double().mean() >= (by_pgd.wrong | clean).double().mean()


@pytest.mark.parametrize("attack", [LINF, L2], ids=["linf", "l2"])
@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"])
def test_adversarial_examples_lie_in_ball_and_box(name: Any, attack: Attack) -> None:
    """Images with three channels in the layout of data sets, pixels at 0 and 1 among them."""
    model = Mlp(108, 5, hidden=10, scale=3.0)
    splits = own_labels(model, 24, side=6, channels=3, low=0, high=256)
    splits.test.x[:, :, 0], splits.test.x[:, :, 1] = 0, 255
    cascade = Cascade(model, splits, AutoAttack(attacks=(name,)), attack, 0, {})
    cascade.library.square.n_queries = 300
    x, y = to_unit(splits.test.x).contiguous(), splits.test.y
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        right = model(x).argmax(1) == y
        found = adversarial_examples(cascade.library, name, x[right], y[right])
        assert (model(found).argmax(1) != y[right]).any()
    offset = (found - x[right]).double().flatten(1)
    length = offset.abs().amax(1) if attack.norm == "linf" else offset.norm(dim=1)
    assert float(length.max()) <= attack.eps + 1e-5
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert is_inside(found, x[right], attack).all()


def test_what_lies_outside_of_ball_or_box_is_seen() -> None:
    x = torch.full((3, 1, 2, 2), 0.95)
    moved = x.clone()
    moved[0] -= 0.02
    moved[1, 0, 0, 0] -= 0.03
    moved[2, 0, 1, 1] += 0.055
    assert is_inside(moved, x, LINF).tolist() == [True, False, False]
    assert is_inside(moved, x, L2).tolist() == [True, True, False]


def test_an_example_outside_of_the_ball_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "adversarial_examples", lambda _library, _name, x, _y: 1 - x)
    model = Mlp(16, 5, scale=30.0)
    splits = own_labels(model, 16)
    found = autoattack(model, splits, AutoAttack(attacks=("apgd-ce",)), attack=LINF, seed=0)
    assert found["autoattack_error_test"] == 2 / 16  # those that are wrong clean
    (flag,) = found.flags
    assert flag.endswith("adversarial examples of apgd-ce lay outside the ball and do not count")


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Attack and number of images of each call of the library."""
    calls: list[tuple[str, int]] = []
    real = adversarial_examples

    def counted(library: Any, name: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append((name, len(x)))
        return real(library, name, x, y)

    monkeypatch.setattr(module, "adversarial_examples", counted)
    return calls


def test_only_what_is_left_is_attacked_in_full_batches(attacked: list[tuple[str, int]]) -> None:
    """And on a linear network, where FAB-T is exact, FAB-T on everything at once gives no other error."""
    model, attacks = Mlp(16, 5), ("apgd-ce", "fab-t")
    splits = own_labels(model, 40)
    together = fooled_by(model, splits, LINF, attacks=attacks, batch_size=8)
    expected = []
    for number, name in enumerate(attacks, start=1):
        left = sum(by == -1 or by >= number for by in together)
        assert left < 40
        expected += [(name, 8)] * (left // 8) + ([(name, left % 8)] if left % 8 else [])
    assert attacked == expected
    alone = fooled_by(model, splits, LINF, attacks=("fab-t",), batch_size=40)
    assert [by >= 0 for by in alone] == [by >= 0 for by in together]
    assert len(set(together)) == 4


def test_goes_on_where_it_was_stopped(attacked: list[tuple[str, int]]) -> None:
    model = Mlp(16, 5, hidden=20, scale=3.0)
    splits = own_labels(model, 20)
    settings = AutoAttack(attacks=("apgd-ce", "apgd-t"), train_examples=10, batch_size=6)
    whole = autoattack(model, splits, settings, attack=Attack(eps=0.06), seed=0)
    calls = len(attacked)
    attacked.clear()
    parts: dict[str, Any] = {}
    ended = False
    while not ended:
        steps = autoattack.steps(model, splits, settings, attack=Attack(eps=0.06), seed=0, parts=parts)
        try:
            for _ in range(2):
                tick = next(steps)
                assert 0 < tick.done <= tick.total
            steps.close()
        except StopIteration as stop:
            ended = True
            again = stop.value
        parts = json.loads(json.dumps(parts))
    assert len(attacked) == calls  # nothing was attacked twice
    assert again.values == whole.values and again.flags == whole.flags
    for key, found in whole.arrays.items():
        assert torch.equal(again.arrays[key], found)


def test_the_seed_alone_decides_and_the_global_generator_is_left_alone() -> None:
    model = Mlp(16, 5, hidden=20, scale=3.0)
    splits = own_labels(model, 30)
    torch.manual_seed(1)
    settings: dict[str, Any] = {"attacks": ("apgd-ce", "apgd-dlr"), "test_examples": 12}
    first = fooled_by(model, splits, Attack(eps=0.06), **settings)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert fooled_by(model, splits, Attack(eps=0.06), **settings) == first
    assert torch.equal(torch.get_rng_state(), before)
    found = []
    for seed in (0, 0, 1):
        library = Cascade(model, splits, AutoAttack(), Attack(eps=0.06), seed, {}).library
        library.square.n_queries = 50
        x, y = to_unit(splits.test.x).contiguous(), splits.test.y
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found.append(adversarial_examples(library, "square", x, y))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_network_is_as_before_also_when_stopped(trained: Classifier) -> None:
    trained.train()
    trained.network.linear.weight.requires_grad_(False)
    before = state(trained)
    settings = AutoAttack(attacks=("apgd-ce", "fab-t"), test_examples=6, batch_size=3)
    steps = autoattack.steps(trained, digits(), settings, attack=LINF, seed=0)
    next(steps)
    assert_same_state(before, state(trained))
    steps.close()
    assert_same_state(before, state(trained))


def test_train_and_test_and_their_gap() -> None:
    model = Mlp(16, 5)
    splits = own_labels(model, 40)
    splits = Splits(splits.train.first(30), splits.train, Images(splits.test.x[20:], splits.test.y[20:]), 5, "")
    settings = AutoAttack(attacks=("apgd-t",), train_examples=25)
    values = autoattack(model, splits, settings, attack=LINF, seed=0).values
    assert tuple(values) == settings.keys()
    wrong = {
        "train": (slack(model, splits.train.first(25), LINF) < 0).double(),
        "test": (slack(model, splits.test, LINF) < 0).double(),
    }
    for part, expected in wrong.items():
        assert values[f"autoattack_error_{part}"] == float(expected.mean())
        error = float(expected.std() / len(expected) ** 0.5)
        assert values[f"autoattack_error_{part}_se"] == pytest.approx(error)
    assert values["autoattack_error_gap"] == values["autoattack_error_test"] - values["autoattack_error_train"]
    errors = values["autoattack_error_train_se"] ** 2 + values["autoattack_error_test_se"] ** 2
    assert values["autoattack_error_gap_se"] == pytest.approx(errors**0.5)
    assert AutoAttack(version="rand").keys() == ("autoattack_rand_error_test", "autoattack_rand_error_test_se")


class Noisy(Mlp):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x + 0.02 * torch.randn_like(x))


def test_rand_averages_twenty_gradients_and_standard_warns_of_a_random_network() -> None:
    model, calls = Noisy(16, 5), []
    splits = own_labels(Mlp(16, 5), 10)
    model.register_forward_pre_hook(lambda _module, inputs: calls.append(torch.is_grad_enabled()))
    settings = {"attacks": ("apgd-ce",), "test_examples": 10}
    standard = autoattack(model, splits, AutoAttack(**settings), attack=LINF, seed=0)
    once = sum(calls)
    calls.clear()
    random = autoattack(model, splits, AutoAttack(version="rand", **settings), attack=LINF, seed=0)
    assert once == 101 and sum(calls) == 20 * 101
    assert standard.flags == ("the network gives other logits each time: use the version rand",)
    assert random.flags == ()


def test_too_few_classes() -> None:
    three, two = Mlp(16, 3), Mlp(16, 2)
    splits = own_labels(three, 20)
    found = autoattack(three, splits, AutoAttack(attacks=("apgd-t", "apgd-ce")), attack=LINF, seed=0)
    assert found.flags == ("apgd-t needs at least 4 classes: left out",)
    assert set(found.arrays["fooled_by_test"].tolist()) == {-1, 0, 2}
    with pytest.raises(ValueError, match="2 classes are too few for apgd-dlr, apgd-t"):
        settings = AutoAttack(attacks=("apgd-dlr", "apgd-t"))
        autoattack(two, own_labels(two, 8), settings, attack=LINF, seed=0)


def test_what_makes_the_result_doubtful_is_said() -> None:
    """Probabilities instead of logits; inputs rounded to few levels, whose gradient is zero, where only Square sees."""

    class Rounded(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x * 16).round() / 16)

    probabilities = nn.Sequential(Mlp(16, 5), nn.Softmax(1))
    found = autoattack(
        probabilities, own_labels(probabilities, 8), AutoAttack(attacks=("apgd-ce",)), attack=LINF, seed=0
    )
    assert found.flags == ("the network gives probabilities instead of logits: AutoAttack's error is too low",)
    masked = Rounded(16, 5)
    splits = own_labels(masked, 12)
    found = autoattack(masked, splits, AutoAttack(attacks=("apgd-t", "square")), attack=Attack(eps=0.15), seed=0)
    assert found.flags[0] == "apgd-t met images without a gradient: it may miss adversarial examples there"
    assert found.flags[1].startswith("Square, which sees no gradient, fooled ") and len(found.flags) == 2


def test_predicted_cost_is_an_upper_bound() -> None:
    """Nothing is fooled: forward-backward passes are counted as 1, forward ones as 1/2."""
    model = Mlp(16, 10)
    splits, cost = own_labels(model, 4), 0.0
    splits = Splits(*[Images(splits.test.x[1:], splits.test.y[1:])] * 3, 10, "")

    def count(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal cost
        cost += len(inputs[0]) * (1.0 if torch.is_grad_enabled() else 0.5)

    model.register_forward_pre_hook(count)
    for name in (*GRADIENT, "square"):
        cost, settings = 0.0, AutoAttack(attacks=(name,), test_examples=3)
        found = autoattack(model, splits, settings, attack=Attack(eps=1e-6), seed=0)
        assert found["autoattack_error_test"] == 0
        own = cost - 3 * 0.5 * (5 + 1 + 1 + 1)  # what is checked before, and a look at the end
        assert 0.95 * settings.passes(LINF) < own <= settings.passes(LINF) * 1.01 + 3, name


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model = Mlp(16, 5)
    with pytest.raises(ImportError, match="pip install pyautoattack"):
        autoattack(model, own_labels(model, 4), AutoAttack(), attack=LINF, seed=0)


def test_on_the_device_of_the_images(trained: Classifier) -> None:
    cascade = Cascade(trained, digits(), AutoAttack(), LINF, 0, {})
    assert cascade.library.device == CPU
