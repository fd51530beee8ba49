"""Runs fuzz targets: `python -m tests.faults.fuzz [TARGET ...] [--inputs N] [--first K] [--seed S] [--jobs J]
[--keep FOLDER]`.

Each input is made from the seed, the target's name and the input's number alone, so that many can be read in parts. An
input that a reader fell over is written to the folder of `--keep`, and is read again by `TARGET --input FILE`.
"""

import argparse
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from tests.faults import fuzz_archives, fuzz_files, fuzz_records, fuzz_words
from tests.faults.fuzz_target import Target

MODULES = (fuzz_words, fuzz_records, fuzz_files, fuzz_archives)
TARGETS: dict[str, Target] = {name: target for module in MODULES for name, target in module.TARGETS.items()}
MAX_WAYS = 20
"""Different ways to fail, after which a target is given up."""


@dataclass
class Fuzzed:
    """What became of a target's inputs: how many were taken for good ones, and the ways to fail, in words."""

    name: str
    inputs: int = 0
    good: int = 0
    ways: dict[str, str] = field(default_factory=dict)
    cpu_seconds: float = 0.0


def made(name: str, seed: int, number: int) -> bytes:
    """The input of a number."""
    return TARGETS[name].make(Random(f"{seed}/{name}/{number}"))


def fuzzed(name: str, inputs: int, seed: int, keep: Path | None = None, first: int = 0) -> Fuzzed:
    """Reads inputs, from number `first` on, until all are read, or `MAX_WAYS` different ways to fail are found."""
    found, started = Fuzzed(name), time.process_time()
    with tempfile.TemporaryDirectory(prefix="flatsweep-fuzz-") as folder:
        for number in range(first, first + inputs):
            content = made(name, seed, number)
            try:
                found.good += TARGETS[name].check(content, Path(folder))
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                way = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
                if way not in found.ways:
                    found.ways[way] = f"{name} {number}: {way}: {str(error)[:300]!a}"
                    if keep:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{name}-{seed}-{number}").write_bytes(content)
            found.inputs += 1
            if len(found.ways) == MAX_WAYS:
                break
    found.cpu_seconds = time.process_time() - started
    return found


def quiet() -> None:
    """Readers warn of each damaged file, and torch would take every core for itself."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; all if not given")
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--input", type=Path, help="one input of one target, from a file")
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if asked.input:
        with tempfile.TemporaryDirectory(prefix="flatsweep-fuzz-") as folder:
            print("good" if TARGETS[asked.targets[0]].check(asked.input.read_bytes(), Path(folder)) else "refused")
        return 0
    failed = False
    # a reader that brings its process down breaks the pool, which says so
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn"), quiet) as pool:
        names = asked.targets or list(TARGETS)
        runs = [pool.submit(fuzzed, name, asked.inputs, asked.seed, asked.keep, asked.first) for name in names]
        for found in (run.result() for run in runs):
            print(
                f"{found.name:10} {found.inputs} inputs, {found.good} taken for good, {len(found.ways)} ways to fail, "
                f"{found.cpu_seconds:.0f} s of CPU",
                *found.ways.values(), sep="\n  ", flush=True,
            )  # fmt: skip
            failed = failed or bool(found.ways)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
