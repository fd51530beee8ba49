"""One step of adversarial training with PGD-10, ours against what is usually written, on three networks.

    python benchmarks/at_step.py [--repetitions 7] [--networks small_preact_resnet cnn preact_resnet18]

A step is attack, loss, gradient and SGD on one batch. Ours is the step of a trial, with everything that it records: in
single precision as theirs, with the attack alone in bfloat16, and with all of it in bfloat16. The peers' steps differ
in the attack alone: a `loss.backward()` loop as in the papers' codes, torchattacks and foolbox. All look at the last
iterate, as the peers do. Peers compute as they are published, in the default memory layout.
"""

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from attack_step import backward_loop, network
from compare import counted_flop, in_a_trial, interleaved, machine, matrix_peak, print_ratios
from peers import peer, titled
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from orchestrator.spec.sweep import Trial
from workers.data.splits import Images, Splits
from workers.modes import frozen
from workers.training import Trainer

STEPS, EPS, STEP_SIZE = 10, 8 / 255, 2 / 255
BATCHES = 8
"""Of an epoch, whose end counts with ours."""
ATTACK = {"eps": EPS, "step_size": STEP_SIZE, "steps": STEPS, "best_iterate": False}
OPTIMIZER = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
CASES = {
    "small_preact_resnet": ({"width": 16}, (1, 8, 8), 100),
    "cnn": ({"width": 32}, (3, 32, 32), 128),
    "preact_resnet18": ({"width": 64}, (3, 32, 32), 16),
}
"""Parameters, shape of the images, batch."""

FORMS: dict[str, dict[str, Any]] = {
    "flatsweep": {},
    "flatsweep, attack in bf16": {"attack": {**ATTACK, "precision": "bf16"}},
    "flatsweep, bf16": {"precision": "bf16"},
}
"""Settings of training."""

Step = Callable[[], object]
Attacked = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From network, images and labels to adversarial examples."""


def random_splits(shape: tuple[int, int, int], count: int) -> Splits:
    """Random bytes with random labels: time does not depend on them."""
    images = Images(torch.randint(256, (count, *shape), dtype=torch.uint8), torch.randint(10, (count,)))
    return Splits(images, images, images, 10, "random")


def first_batch(name: str, splits: Splits) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and labels."""
    batch = CASES[name][2]
    return splits.train.x[:batch].float() / 255, splits.train.y[:batch]


def trial_of(name: str, training: dict[str, Any]) -> Trial:
    """A trial that goes on for ever."""
    parameters, _, batch = CASES[name]
    return Trial.model_validate(
        {
            "data": {"name": "digits"},
            "model": {"name": name, **parameters},
            "method": "at",
            "training": {"epochs": 10_000, "batch_size": batch, "schedule": "constant", "attack": ATTACK,
                         "optimizer": {"name": "sgd", **OPTIMIZER}} | training,
            "seed": 0,
        }
    )  # fmt: skip


def ours(name: str, splits: Splits, training: dict[str, Any]) -> Step:
    """The step of a trial."""
    steps = Trainer(trial_of(name, training), splits, None, torch.device("cpu")).run()

    def step() -> None:
        while not next(steps).batch:  # the end of an epoch
            pass

    return step


def usual(name: str, splits: Splits, attacked: Attacked) -> Step:
    """The usual step around somebody's attack."""
    parameters, shape, _ = CASES[name]
    model = network(name, parameters, shape[0], shape[1])
    optimizer = torch.optim.SGD(model.parameters(), **OPTIMIZER)
    x, y = first_batch(name, splits)

    def step() -> None:
        adversarial = attacked(model, x, y)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(adversarial), y).backward()
        optimizer.step()

    return step


def peers() -> dict[str, Attacked]:
    """Everybody's PGD that there is."""
    from attack_step import ATTACK as SAME

    found: dict[str, Attacked] = {"loss.backward() loop": lambda model, x, y: backward_loop(model, x, y, SAME)}
    if torchattacks := peer("torchattacks"):
        found[titled("torchattacks")] = lambda model, x, y: torchattacks.PGD(model, EPS, STEP_SIZE, STEPS)(x, y)
    if foolbox := peer("foolbox"):
        pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS)

        def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            adversarial: Tensor = pgd(foolbox.PyTorchModel(model.eval(), (0, 1)), x, y, epsilons=EPS)[1]
            return adversarial

        found[titled("foolbox")] = attacked
    return found


def floor(name: str, splits: Splits) -> float:
    """FLOP that no implementation can do without: the gradient of every step to the input, and once to the weights."""
    parameters, shape, _ = CASES[name]
    model = network(name, parameters, shape[0], shape[1])
    x, y = first_batch(name, splits)

    def attack_step() -> None:
        with frozen(model):
            F.cross_entropy(model(x.requires_grad_()), y).backward()

    def training_step() -> None:
        F.cross_entropy(model(x.detach()), y).backward()

    return STEPS * counted_flop(attack_step) + counted_flop(training_step)


def main() -> None:
    """Prints one table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="seconds of the processor, not of the wall")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    print(machine())
    attacks, peak = peers(), matrix_peak()
    clock = time.process_time if wanted.processor_time else time.perf_counter
    for name in wanted.networks:
        _, shape, batch = CASES[name]
        splits = random_splits(shape, BATCHES * batch)
        alternatives = {form: ours(name, splits, training) for form, training in FORMS.items()}
        around = {form: in_a_trial(step) for form, step in alternatives.items()}
        alternatives |= {title: usual(name, splits, attacked) for title, attacked in attacks.items()}
        seconds = interleaved(alternatives | peak.alternative, wanted.repetitions, clock=clock, around=around)
        title = f"AT step, PGD-{STEPS}, {name}, {batch} images {'x'.join(map(str, shape))}"
        print_ratios(title, seconds, "flatsweep", floor=floor(name, splits), peak=peak)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
