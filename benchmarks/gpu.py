"""Everything about speed that only a GPU can show, checked and timed in one call of less than 10 minutes.

    python benchmarks/gpu.py [--device cuda] [--repetitions 5] [--tiny] [--no-compile]

Needs torch, torchvision, numpy and pydantic, and no data: images are random. First the fast paths are checked against
the plain one: bfloat16 and compiled training, and the network inside attacks. Then PreActResNet-18 on 32x32 images: the
AT step (PGD-10) in all ways against the usual single-precision loop, with what an epoch of 50,000 images takes; average
flatness (10 draws, 1000 images, PGD-20), with attacks in bfloat16 and in single precision, against the published
procedure; and several trials on one GPU at once. For a look at whether it runs there is the same in small:
`--device cpu --tiny --no-compile`.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from attack_step import backward_loop
from compare import counted_flop, interleaved, machine, matrix_peak, print_ratios
from published import Published
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from orchestrator.spec.measures import AverageFlatness
from orchestrator.spec.models import MODELS
from orchestrator.spec.sweep import Trial
from orchestrator.spec.training import Attack
from workers.data.splits import Images, Splits
from workers.folding import folded
from workers.measures.average_flatness import average_flatness
from workers.measures.robust_loss import robust_examples
from workers.models.classifier import Classifier
from workers.modes import frozen
from workers.training import Trainer

ATTACK = Attack(eps=8 / 255, step_size=2 / 255, steps=10, best_iterate=False)
EPOCH = 50_000
XI = 0.5
FORMS: dict[str, dict[str, object]] = {
    "flatsweep, fp32": {},
    "flatsweep, bf16": {"precision": "bf16"},
    "flatsweep, bf16, compiled": {"precision": "bf16", "compile": True},
}
TOLERANCE = 0.05
"""Of the robust loss after some steps in bfloat16, or under attacks in it, relative to single precision."""


class Case:
    """Sizes of the run.

    Args:
        device: where everything happens.
        tiny: so small that a CPU does it in seconds.
    """

    def __init__(self, device: torch.device, tiny: bool) -> None:
        self.device, self.width, self.size = device, 2 if tiny else 64, 8 if tiny else 32
        self.batches, self.examples, self.draws = ((8,), 16, 2) if tiny else ((128, 512), 1000, 10)
        self.trials, self.steps, self.checked_steps = (2, 2, 4) if tiny else (4, 20, 60)
        self.peak_size = 256 if tiny else 8192

    def images(self, count: int) -> Images:
        """Random images whose class can be seen: of class k, row k is bright."""
        random = torch.Generator().manual_seed(0)
        y = torch.randint(self.size, (count,), generator=random).clamp_(max=9)
        x = torch.randint(128, (count, self.size, self.size, 3), dtype=torch.uint8, generator=random)
        x[torch.arange(count), y] += 100
        return Images(x.permute(0, 3, 1, 2).to(self.device), y.to(self.device))

    def splits(self, count: int) -> Splits:
        """The same images in every part."""
        images = self.images(count)
        return Splits(images, images, images, 10, "random")

    def trainer(self, batch: int, images: int, **training: object) -> Trainer:
        """Adversarial training that goes on for ever."""
        recipe = {"epochs": 100_000, "batch_size": batch, "schedule": "constant", "attack": ATTACK.model_dump()}
        trial = Trial.model_validate(
            {"data": {"name": "digits"}, "model": {"name": "preact_resnet18", "width": self.width}, "method": "at",
             "training": recipe | training, "seed": 0}
        )  # fmt: skip
        return Trainer(trial, self.splits(images), None, self.device)

    def network(self) -> Classifier:
        """The network as it is usually run: in torch's default memory layout."""
        spec = MODELS.parse({"name": "preact_resnet18", "width": self.width})
        torch.manual_seed(0)
        inner = spec.load()(spec, (3, self.size, self.size), 10)
        return Classifier(inner, torch.full((3,), 0.5), torch.full((3,), 0.25)).to(self.device)


def steps_of(trainer: Trainer) -> Callable[[], None]:
    """One training step at a time."""
    progress = trainer.run()

    def step() -> None:
        while not next(progress).batch:  # the end of an epoch
            pass

    return step


def usual_step(case: Case, batch: int) -> Callable[[], None]:
    """The step of the papers' codes: single precision, eager, `loss.backward()`."""
    model, images = case.network(), case.images(batch)
    x, y = (images.x.float() / 255).contiguous(), images.y
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        adversarial = backward_loop(model, x, y, ATTACK)
        optimizer.zero_grad()
        F.cross_entropy(model(adversarial), y).backward()
        optimizer.step()

    return step


def check(case: Case) -> bool:
    """Prints what the fast paths give beside the plain one, and whether they agree."""
    losses: dict[str, float] = {}
    batch = case.batches[0]
    for name, training in FORMS.items():
        trainer = case.trainer(batch, 4 * batch, **training)
        step = steps_of(trainer)
        for _ in range(case.checked_steps):
            step()
        losses[name] = robust_examples(trainer.model, case.images(4 * batch), ATTACK, batch, 0).mean_loss()
    plain = losses["flatsweep, fp32"]
    agree = all(abs(loss - plain) <= TOLERANCE * plain for loss in losses.values())
    print(f"robust loss after {case.checked_steps} steps: {losses}; within {TOLERANCE:.0%}: {agree}")
    model, x = trainer.model, case.images(batch).x.float() / 255
    found: list[Tensor] = []
    for mode in (frozen, folded):
        with mode(model), torch.no_grad():
            found.append(model(x))
    distance = float((found[0] - found[1]).abs().max() / found[0].abs().max())
    print(f"logits inside attacks, folded against plain: largest difference {distance:.1e} of the largest logit")
    return agree and distance < 1e-2  # convolutions of a GPU may use TF32, with 10 bits


def floor(case: Case, batch: int) -> float:
    """FLOP of a step that nobody can do without."""
    model, x = case.network(), torch.rand(2, 3, case.size, case.size, device=case.device)
    y = torch.zeros(2, dtype=torch.int64, device=case.device)

    def gradient(model: nn.Module) -> None:
        F.cross_entropy(model.eval()(x.requires_grad_()), y).backward()

    with frozen(model):
        attack = counted_flop(lambda: gradient(model))
    x = x.detach()

    def training() -> None:
        F.cross_entropy(model(x), y).backward()

    return batch / len(x) * (ATTACK.steps * attack + counted_flop(training))


def time_steps(case: Case, batch: int, repetitions: int) -> None:
    """The AT step in all ways."""
    alternatives = {name: steps_of(case.trainer(batch, 4 * batch, **training)) for name, training in FORMS.items()}
    alternatives["loss.backward() loop, fp32"] = usual_step(case, batch)
    peak = matrix_peak(case.device, torch.bfloat16, case.peak_size)
    seconds = interleaved(alternatives | peak.alternative, repetitions, case.device)
    best = min(FORMS, key=lambda name: statistics.median(seconds[name]))
    print_ratios(f"AT step, batch {batch}", seconds, best, floor=floor(case, batch), peak=peak)
    for name in alternatives:
        print(f"  {name}: {statistics.median(seconds[name]) * EPOCH / batch:.1f} s an epoch")


def time_flatness(case: Case, repetitions: int) -> bool:
    """Average flatness, without the reference robust loss, which both need; whether both precisions agree."""
    model, splits = case.network().eval(), case.splits(case.examples)
    ours = case.network().eval().to(memory_format=torch.channels_last)
    attack = ATTACK.model_copy(update={"steps": 20, "step_size": 0.007, "best_iterate": True})
    own = {"step_size": attack.step_size, "steps": attack.steps}
    at_w: dict[str, Any] = {"at w": {"loss test": 0.0}}

    def measured(precision: str) -> float:
        settings = AverageFlatness(
            xi=(XI,), draws=case.draws, attack={**own, "precision": precision}, examples=case.examples
        )
        values = average_flatness(ours, splits, settings, attack=attack, seed=0, parts=dict(at_w)).values
        return values[settings.key(XI)]

    published = Published(model, splits.test.x / 255, splits.test.y, attack.eps, attack.step_size)
    alternatives = {
        "flatsweep, attacks in bf16": lambda: measured("bf16"),
        "flatsweep, fp32": lambda: measured("fp32"),
        "published procedure": lambda: published.average(XI, attack.steps, case.draws),
    }
    seconds = interleaved(alternatives, repetitions, case.device)
    title = f"average flatness, {case.draws} draws, {case.examples} images, PGD-{attack.steps}"
    print_ratios(title, seconds, "flatsweep, attacks in bf16", "s", lambda value: value)
    low, full = measured("bf16"), measured("fp32")
    agree = abs(low - full) <= TOLERANCE * full
    print(f"robust loss, bf16 {low:.4f}, fp32 {full:.4f}; within {TOLERANCE:.0%}: {agree}")
    return agree


def sharing(orders: Connection, device: str, tiny: bool) -> None:
    """A trial of its own process: takes `steps` steps whenever it is told to."""
    case = Case(torch.device(device), tiny)
    step = steps_of(case.trainer(case.batches[0], 4 * case.batches[0], precision="bf16"))
    step()
    while orders.recv():
        for _ in range(case.steps):
            step()
        if case.device.type == "cuda":
            torch.cuda.synchronize()
        orders.send("done")


def time_sharing(case: Case, tiny: bool, repetitions: int) -> None:
    """Several trials at once on the device, against one after the other."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in range(case.trials)]
    processes = [
        context.Process(target=sharing, args=(theirs, str(case.device), tiny), daemon=True) for _, theirs in pairs
    ]
    for process in processes:
        process.start()
    ends = [mine for mine, _ in pairs]

    def at_once() -> None:
        for end in ends:
            end.send(True)
        for end in ends:
            end.recv()

    def in_turn() -> None:
        for end in ends:
            end.send(True)
            end.recv()

    alternatives = {"at once": at_once, "one after the other": in_turn}
    print_ratios(f"{case.trials} trials, {case.steps} steps each", interleaved(alternatives, repetitions), "at once")
    for end, process in zip(ends, processes, strict=True):
        end.send(False)
        process.join()


def main() -> None:
    """Checks, then times; exit code 1 where a fast path disagrees with the plain one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave out what takes a compiler")
    wanted = parser.parse_args()
    if wanted.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU: run this on a machine with one, or try it with --device cpu --tiny")
    started = time.perf_counter()
    print(machine())
    if not wanted.compile:
        FORMS.pop("flatsweep, bf16, compiled")
    case = Case(torch.device(wanted.device), wanted.tiny)
    agree = check(case)
    for batch in case.batches:
        time_steps(case, batch, wanted.repetitions)
    agree &= time_flatness(case, wanted.repetitions)
    time_sharing(case, wanted.tiny, wanted.repetitions)
    print(f"\n{time.perf_counter() - started:.0f} s in all; fast paths {'agree' if agree else 'DISAGREE'}")
    raise SystemExit(not agree)


if __name__ == "__main__":
    main()
