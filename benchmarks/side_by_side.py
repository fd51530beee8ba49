"""Trials side by side, one thread each, against the same trials one after the other with all threads.

    python benchmarks/side_by_side.py [--trials 2] [--repetitions 5]

Trials train small_preact_resnet on 8x8 digits by PGD-10, each in a process of its own that is warm before the clock
starts, as Ray's workers are. Beside them so many matrix products at once, one thread each, against the same number on
all threads: what the machine has to offer.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from compare import interleaved, machine, matrix_peak, print_ratios

STEPS = 20


def worker(orders: Connection) -> None:
    """Does what it is told, with as many threads as it is told, and says when it is done."""
    from at_step import CASES, ours, random_splits

    _, shape, batch = CASES["small_preact_resnet"]
    step, product = ours("small_preact_resnet", random_splits(shape, batch), {}), matrix_peak(size=1024).run
    while order := orders.recv():
        what, threads = order
        torch.set_num_threads(threads)
        for _ in range(STEPS):
            step() if what == "train" else product()
        orders.send("done")


class Workers:
    """So many warm processes."""

    def __init__(self, count: int) -> None:
        os.environ["OMP_WAIT_POLICY"] = "passive"  # as flatsweep sets it for its workers
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(count)]
        self.count, self.ends = count, [mine for mine, _ in pairs]
        self.processes = [context.Process(target=worker, args=(theirs,), daemon=True) for _, theirs in pairs]
        for process in self.processes:
            process.start()

    def side_by_side(self, what: str) -> Callable[[], None]:
        """All at once, one thread each."""

        def run() -> None:
            for end in self.ends:
                end.send((what, 1))
            for end in self.ends:
                end.recv()

        return run

    def in_turn(self, what: str) -> Callable[[], None]:
        """One after the other, as many threads as there are processes."""

        def run() -> None:
            for end in self.ends:
                end.send((what, self.count))
                end.recv()

        return run

    def close(self) -> None:
        """Ends them."""
        for end in self.ends:
            end.send(None)
        for process in self.processes:
            process.join()


def main() -> None:
    """Prints a table for trials, and one for matrix products."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    wanted = parser.parse_args()
    workers = Workers(wanted.trials)
    print(f"{machine()}, {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f} at {time.strftime('%H:%M')}")
    for what, title in (("train", f"{wanted.trials} trials, {STEPS} steps each"), ("multiply", "matrix products")):
        alternatives = {
            f"side by side, {wanted.trials} x 1 thread": workers.side_by_side(what),
            f"in turn, {wanted.trials} threads": workers.in_turn(what),
        }
        print_ratios(title, interleaved(alternatives, wanted.repetitions), next(iter(alternatives)))
    workers.close()


if __name__ == "__main__":
    main()
