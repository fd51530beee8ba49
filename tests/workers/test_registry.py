"""Every registered method, regulariser, optimizer and schedule in a short training on real digits: it learns, leaves
alone what is not its own, depends on the seed alone and goes on bit for bit after a stop anywhere."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from toys import CPU, assert_same_state, digits, state, trial

from orchestrator.spec.base import Registry
from orchestrator.spec.methods import METHODS, WEIGHT_PERTURBABLE
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.sweep import Trial
from orchestrator.spec.training import OPTIMIZERS, SCHEDULES
from workers.labels import Labels
from workers.seeding import generator
from workers.steps import drain
from workers.storage import Folder
from workers.training import Trainer, weights_digest

EPOCHS = 3


class Example(NamedTuple):
    """One use of a component, small enough for three epochs of four batches."""

    parameters: dict[str, Any]
    updates: int = 1
    """How often a step updates the running statistics of batch normalisation: the forwards of the method's loss."""


EXAMPLES: dict[str, dict[str, Example]] = {
    "method": {
        "standard": Example({}),
        "at": Example({"adversarial_fraction": 0.5}),
        "trades": Example({"beta": 2.5}, updates=2),
        "mart": Example({"beta": 2.5}, updates=2),
        "pgd_tau": Example({"tau": 1}),
        "self_supervision": Example({}, updates=2),
        "advlc": Example({"linear_warmup": True}, updates=2),
        "ignore_incorrect": Example({}),
        "prevent_label_leaking": Example({}),
        "fgsm_rs": Example({}),
        "free": Example({"replays": 3}),
        "unlabeled": Example({"fraction": 0.3}),
        "random_weight_perturbation": Example({"xi": 0.05}),
        "awp": Example({"gamma": 0.02, "warmup": 1, "ramp": 1}),
    },
    "regularizer": {
        "weight_decay": Example({"value": 1e-3}),
        "label_smoothing": Example({"amount": 0.1}),
        "label_noise": Example({"rate": 0.1}),
        "weight_clipping": Example({"bound": 0.1}),
        "autoaugment": Example({}),
        "cutout": Example({"size": 3}),
        "mixup": Example({"alpha": 0.2}),
        "cutmix": Example({"alpha": 0.2}),
        "entropy_sgd": Example({"steps": 3, "inner_lr": 1.0, "noise": 1e-3}),
        "weight_averaging": Example({"decay": 0.9}),
        "dropout": Example({}),
        "activation": Example({"kind": "silu"}),
        "sam": Example({}),
        "asam": Example({}),
        "input_gradient": Example({}),
    },
    "optimizer": {
        "sgd": Example({"lr": 0.02, "nesterov": False}),
        "adam": Example({"lr": 0.005}),
        "adamw": Example({"lr": 0.005}),
    },
    "schedule": {
        "multistep": Example({"milestones": [1, 2]}),
        "constant": Example({}),
        "cosine": Example({}),
        "cyclic": Example({}),
    },
}
REGISTRIES: tuple[Registry[Any], ...] = (METHODS, REGULARIZERS, OPTIMIZERS, SCHEDULES)
OVER = ("awp", "random_weight_perturbation")
"""Methods that go over others."""


class Case(NamedTuple):
    trial: Trial
    updates: int


def known(registry: Registry[Any]) -> dict[str, Example]:
    return {name: example for name, example in EXAMPLES[registry.kind].items() if name in registry.classes()}


def cases() -> Iterator[tuple[str, Case]]:
    noise = {"name": "label_noise", "rate": 0.1}
    for name, example in known(METHODS).items():
        yield name, Case(trial({"name": name, **example.parameters}, [noise], epochs=EPOCHS), example.updates)
    for name, example in known(METHODS).items():
        if name not in WEIGHT_PERTURBABLE.classes():
            continue
        over = {"over": {"name": name, **example.parameters}}
        for outer in OVER if name == "free" else OVER[:1]:
            method = {"name": outer, **EXAMPLES["method"][outer].parameters, **over}
            yield f"{outer} over {name}", Case(trial(method, epochs=EPOCHS), example.updates)
    regularizers = [{"name": name, **example.parameters} for name, example in known(REGULARIZERS).items()]
    for one in regularizers:
        yield one["name"], Case(trial("at", [one], epochs=EPOCHS), EXAMPLES["regularizer"][one["name"]].updates)
    yield "all regularisers", Case(trial("at", regularizers, epochs=EPOCHS), 1)
    carriers = [one for one in regularizers if one["name"] in {"entropy_sgd", "weight_averaging"}]
    awp_over_free = {"name": "awp", "gamma": 0.02, "over": {"name": "free", "replays": 3}}
    yield "all that carry a state", Case(trial(awp_over_free, carriers, epochs=EPOCHS), 1)
    for registry in (OPTIMIZERS, SCHEDULES):
        for name, example in known(registry).items():
            part = {registry.kind: {"name": name, **example.parameters}}
            yield name, Case(trial("at", epochs=EPOCHS, **part), example.updates)


CASES = dict(cases())


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_component_has_an_example(registry: Registry[Any]) -> None:
    missing = sorted(set(registry.classes()) ^ set(EXAMPLES[registry.kind]))
    assert not missing, f"add to EXAMPLES in {Path(__file__).name} (or take out) the {registry.kind}s {missing}"


class Step(NamedTuple):
    """What a network is like after a step."""

    updates: set[int]
    no_gradients: bool
    flags: list[bool]
    kinds: dict[str, tuple[torch.dtype, torch.device]]


class Run(NamedTuple):
    """A training that nothing disturbs."""

    weights: str
    losses: list[float]
    trainer: Trainer
    before: Step
    steps: list[Step]


class Losses:
    """Stands in for the recorder."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def metrics(self, values: dict[str, float], step: int) -> None:
        self.seen.append(values["train/loss"])


def looked_at(trainer: Trainer) -> Step:
    model = trainer.model
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return Step(
        {int(norm.num_batches_tracked) for norm in norms},  # type: ignore[arg-type]
        all(parameter.grad is None for parameter in model.parameters()),
        [parameter.requires_grad for parameter in model.parameters()],
        {name: (tensor.dtype, tensor.device) for name, tensor in model.state_dict().items()},
    )


@pytest.fixture(scope="module")
def undisturbed() -> Callable[[str], Run]:
    done: dict[str, Run] = {}

    def get(case: str) -> Run:
        if case not in done:
            trainer, losses = Trainer(CASES[case].trial, digits(), None, CPU), Losses()
            before = looked_at(trainer)
            steps = [looked_at(trainer) for progress in trainer.run(losses) if progress.batch]  # type: ignore[arg-type]
            done[case] = Run(weights_digest(trainer.model), losses.seen, trainer, before, steps)
        return done[case]

    return get


@pytest.mark.parametrize("case", CASES)
def test_learns(case: str, undisturbed: Callable[[str], Run]) -> None:
    run = undisturbed(case)
    assert len(run.losses) == EPOCHS and all(map(math.isfinite, run.losses))
    assert run.losses[-1] < run.losses[0]
    assert all(bool(tensor.isfinite().all()) for tensor in run.trainer.model.state_dict().values())


@pytest.mark.parametrize("case", CASES)
def test_a_step_leaves_the_rest_as_it_was(case: str, undisturbed: Callable[[str], Run]) -> None:
    run = undisturbed(case)
    assert len(run.steps) == EPOCHS * run.trainer.steps_per_epoch
    for count, step in enumerate(run.steps, 1):
        assert step.updates == {count * CASES[case].updates}
        assert step.no_gradients and step.flags == run.before.flags and step.kinds == run.before.kinds
    for tensor in floats([value for key, value in run.trainer._state().items() if key != "sums"]):
        assert tensor.dtype == torch.float32 and tensor.device == CPU


def floats(value: Any) -> Iterator[Tensor]:
    """Every floating tensor somewhere inside."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from floats(item)


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_ends_with_the_same_bits(case: str, undisturbed: Callable[[str], Run], tmp_path: Path) -> None:
    """Stops after two of three replays or steps of a walk, after the last step of an epoch, and at the end of one."""
    folder, losses, run = Folder(str(tmp_path)), Losses(), undisturbed(case)
    torch.manual_seed(len(case))  # the global random state has no say
    for stop in ((0, 2), (1, run.trainer.steps_per_epoch), (2, 0)):
        trainer = Trainer(CASES[case].trial, digits(), folder, CPU)
        steps = trainer.run(losses)  # type: ignore[arg-type]
        for progress in steps:
            if (progress.epoch, progress.batch) == stop:
                break
        steps.close()
        assert (trainer.epoch, trainer.next_batch) == stop
    trainer = Trainer(CASES[case].trial, digits(), folder, CPU)
    assert (trainer.epoch, trainer.next_batch) == stop
    drain(trainer.run(losses))  # type: ignore[arg-type]
    assert weights_digest(trainer.model) == run.weights
    assert losses.seen == run.losses
    again = Trainer(CASES[case].trial, digits(), folder, CPU)
    assert again.finished and weights_digest(again.model) == run.weights


@pytest.mark.parametrize("case", [case for case, made in CASES.items() if made.trial.method.name != "at"])
def test_attack_leaves_network_and_statistics_alone(case: str) -> None:
    spec = CASES[case].trial
    trainer = Trainer(spec, digits(), None, CPU)
    next(trainer.run())  # free starts at clean images
    trainer.model.train()
    before, attack = state(trainer.model), spec.training.attack
    x, y = trainer.batches.batch(0, 1)
    original = x.clone()
    found = trainer.method.attack(trainer.model, x, Labels(y, 10), attack, generator(CPU, 0, "attack", 0, 1))
    assert_same_state(before, state(trainer.model))
    assert torch.equal(x, original) and found.dtype == x.dtype and not found.requires_grad
    assert bool(((found >= 0) & (found <= 1)).all()) and float((found - x).abs().max()) <= attack.eps + 1e-6
    assert torch.equal(found, x) is (spec.method.name == "standard")
