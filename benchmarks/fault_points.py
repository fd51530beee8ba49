"""What the fault points cost while they are off.

    python benchmarks/fault_points.py [--repetitions 7]

A call of `faults.point` against an empty loop, and its share of a training step: of the smallest network on digits,
where steps are shortest, with PGD-10. Processor time of one thread, so that other work on the machine does not count.
"""

import argparse
import timeit
from statistics import median
from time import process_time

import torch
from compare import machine

from orchestrator.spec.sweep import Trial
from workers import faults
from workers.data.splits import load_splits
from workers.training import Trainer

CALLS = 1_000_000
STEPS = 20


def nanoseconds_per_call() -> float:
    """Of one call, without the loop around it."""
    calls = timeit.timeit("point('train/batch')", timer=process_time, globals={"point": faults.point}, number=CALLS)
    empty = timeit.timeit("pass", timer=process_time, number=CALLS)
    return (calls - empty) / CALLS * 1e9


class Step:
    """One training step after another of a trial."""

    def __init__(self) -> None:
        trial = Trial.model_validate(
            {
                "data": {"name": "digits", "train_size": 800},
                "model": {"name": "small_preact_resnet", "width": 1},
                "method": "at",
                "training": {"epochs": 1000, "batch_size": 100, "schedule": "constant", "attack": {"steps": 10}},
                "seed": 0,
            }
        )
        device = torch.device("cpu")
        self.run = Trainer(trial, load_splits(trial.data, device), None, device).run()

    def seconds(self) -> float:
        """Of one."""
        return timeit.timeit(lambda: next(self.run), timer=process_time, number=STEPS) / STEPS


def points_per_step() -> int:
    """How often a step reaches a point."""
    reached = list[str]()
    original = faults.point
    try:
        faults.point = lambda name, _of="": reached.append(name)
        step = Step()
        for _ in range(STEPS // 2):
            next(step.run)
        first = len(reached)
        next(step.run)
        return len(reached) - first
    finally:
        faults.point = original


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    print(machine())
    calls = [nanoseconds_per_call() for _ in range(repetitions)]
    step, points = Step(), points_per_step()
    steps = [step.seconds() for _ in range(repetitions)]
    share = median(calls) * 1e-9 * points / median(steps)
    print(f"a point that is off: {median(calls):.0f} ns ({min(calls):.0f} to {max(calls):.0f})")
    print(f"a step: {median(steps) * 1e3:.1f} ms ({min(steps) * 1e3:.1f} to {max(steps) * 1e3:.1f}), {points} points")
    print(f"share of a step: {100 * share:.4f} %")


if __name__ == "__main__":
    main()
