"""The regularisers against closed forms, counts and one optimizer step by hand."""

import copy
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toys import CPU, digits, regularizer, seeded, trial

from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.training import Sgd
from workers.labels import Labels
from workers.regularizers.base import BatchTransform
from workers.training import Trainer

X = torch.zeros(1, 1, 2, 2)


@pytest.mark.parametrize(("rate", "classes"), [(0.3, 10), (1.0, 7), (0.05, 3)])
def test_label_noise_is_uniform_over_all_classes(rate: float, classes: int) -> None:
    """P(new = k) = rate / C, plus 1 - rate for the true one."""
    count, true = 60_000, 2
    y = torch.full((count,), true)
    _, noisy = regularizer("label_noise", rate=rate).transform(X, Labels(y, classes), seeded(0))
    expected = np.full(classes, count * rate / classes)
    expected[true] += count * (1 - rate)
    observed = np.bincount(noisy.index.numpy(), minlength=classes)
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    assert noisy.probabilities is None and torch.equal(y, torch.full((count,), true))


def test_label_noise_is_afresh_each_batch_and_off_at_zero() -> None:
    y = torch.arange(1000) % 10
    first, second = (
        regularizer("label_noise", rate=0.5).transform(X, Labels(y, 10), seeded(s))[1].index for s in (0, 1)
    )
    assert not torch.equal(first, second)
    assert torch.equal(regularizer("label_noise", rate=0.0).transform(X, Labels(y, 10), seeded(0))[1].index, y)


@settings(max_examples=30, deadline=None)
@given(amount=st.floats(0, 1), classes=st.integers(2, 20))
def test_smoothing_matrix(amount: float, classes: int) -> None:
    y = torch.arange(classes)
    _, soft = regularizer("label_smoothing", amount=amount).transform(X, Labels(y, classes), seeded(0))
    expected = (1 - amount) * np.eye(classes) + amount / classes
    np.testing.assert_allclose(soft.probabilities.numpy(), expected, atol=1e-6)
    assert torch.equal(soft.index, y)
    logits = torch.randn(classes, classes, generator=seeded(1))
    by_hand = -(expected * logits.double().log_softmax(1).numpy()).sum(1).mean()
    assert float(soft.cross_entropy(logits)) == pytest.approx(by_hand, rel=1e-5)
    library = F.cross_entropy(logits, y, label_smoothing=amount)
    assert float(soft.cross_entropy(logits)) == pytest.approx(float(library), rel=1e-5)


NOISE, SMOOTHING = {"name": "label_noise", "rate": 0.4}, {"name": "label_smoothing", "amount": 0.3}


def test_noise_and_smoothing_are_one_trial_in_both_orders() -> None:
    first, second = trial("at", [NOISE, SMOOTHING]), trial("at", [SMOOTHING, NOISE])
    assert first == second and first.trial_id == second.trial_id


@pytest.mark.parametrize("order", [[NOISE, SMOOTHING], [SMOOTHING, NOISE]])
@pytest.mark.parametrize("through_trial", [True, False])
def test_noise_and_smoothing_compose(order: list[Any], through_trial: bool) -> None:
    """Targets are (1 - t) * onehot(noisy label) + t / C, whichever regulariser acts first."""
    specs = trial("at", order).regularizers if through_trial else [REGULARIZERS.parse(item) for item in order]
    count, classes, true = 40_000, 5, 1
    y = Labels(torch.full((count,), true), classes)
    for number, spec in enumerate(specs):
        transform = spec.load()(spec)
        assert isinstance(transform, BatchTransform)
        _, y = transform.transform(X, y, seeded(number))
    expected = 0.7 * np.eye(classes)[y.index.numpy()] + 0.3 / classes
    assert y.probabilities is not None
    np.testing.assert_allclose(y.probabilities.numpy(), expected, atol=1e-6)
    counts = np.full(classes, count * 0.4 / classes)
    counts[true] += count * 0.6
    assert scipy.stats.chisquare(np.bincount(y.index.numpy(), minlength=classes), counts).pvalue > 1e-3


@settings(max_examples=20, deadline=None)
@given(bound=st.floats(1e-3, 0.5), seed=st.integers(0, 100))
def test_weight_clipping_bounds(bound: float, seed: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(12, 4))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=seeded(seed))
    before = copy.deepcopy(model)
    regularizer("weight_clipping", bound=bound).after_step(model, 0.5)
    for index, layer in enumerate(model):
        for name, parameter in layer.named_parameters():
            middle = 1.0 if index in {1, 2} and name == "weight" else 0.0
            old = before[index].get_parameter(name).detach().double().numpy()
            expected = np.minimum(np.maximum(old, middle - bound), middle + bound)
            np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-6)
            assert parameter.requires_grad
    assert torch.equal(model[1].running_mean, before[1].running_mean)


def test_weight_clipping_acts_after_every_step_of_training() -> None:
    trainer = Trainer(trial("at", [{"name": "weight_clipping", "bound": 0.05}]), digits(), None, CPU)
    run = trainer.run()
    for _ in range(3):
        next(run)
        for name, parameter in trainer.model.named_parameters():
            middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            assert float((parameter.detach() - middle).abs().max()) <= 0.05 + 1e-6, name


@pytest.mark.parametrize("method", ["standard", "at"])
def test_one_step_with_weight_decay_by_hand(method: str) -> None:
    """w - lr * (1 + momentum) * (g + decay * w): the first step of Nesterov's momentum."""
    spec = trial(method, [{"name": "weight_decay", "value": 0.5}], lr=0.01)
    trainer = Trainer(spec, digits(), None, CPU)
    twin = copy.deepcopy(trainer.model)
    x, y = trainer.batches.batch(0, 0)
    if method == "at":
        from workers.seeding import generator

        random = generator(CPU, spec.seed, "attack", 0, 0)
        x = trainer.method.attack(twin, x, Labels(y, 10), spec.training.attack, random)
    twin.train().double()
    F.cross_entropy(twin(x.double()), y).backward()
    next(trainer.run())
    for (name, parameter), old in zip(trainer.model.named_parameters(), twin.parameters(), strict=True):
        expected = old - 0.01 * 1.9 * (old.grad + 0.5 * old)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_weight_decay_leaves_the_other_settings() -> None:
    settings_ = Sgd(lr=0.3, momentum=0.8, weight_decay=1e-3)
    assert regularizer("weight_decay", value=0.25).optimizer(settings_) == Sgd(lr=0.3, momentum=0.8, weight_decay=0.25)
