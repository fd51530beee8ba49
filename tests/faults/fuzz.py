"""Runs fuzz targets: `python -m tests.faults.fuzz [TARGET ...] [--inputs N] [--seed S] [--keep FOLDER]`.

Each input is made from the seed, the target's name and the input's number alone. An input that a reader fell over is
written to the folder of `--keep`, and is read again by `--input FILE`.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random

from tests.faults import fuzz_archives, fuzz_records, fuzz_words
from tests.faults.fuzz_target import Target

TARGETS: dict[str, Target] = fuzz_words.TARGETS | fuzz_records.TARGETS | fuzz_archives.TARGETS


def made(name: str, seed: int, number: int) -> bytes:
    """The input of a number."""
    return TARGETS[name].make(Random(f"{seed}/{name}/{number}"))


def fuzzed(name: str, inputs: int, seed: int, keep: Path | None, most: int = 20) -> tuple[int, list[str]]:
    """Reads inputs until all are read, or `most` different ways to fail are found.

    Returns:
        How many inputs were taken for good ones, and for each way to fail the number of its first input and why.
    """
    good, failures = 0, dict[str, str]()
    with tempfile.TemporaryDirectory(prefix="flatsweep-fuzz-") as folder:
        for number in range(inputs):
            content = made(name, seed, number)
            try:
                good += TARGETS[name].check(content, Path(folder))
            except Exception as error:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                way = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
                if way in failures:
                    continue
                failures[way] = f"{name} {number}: {way}: {str(error)[:300]!a}"
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{name}-{seed}-{number}").write_bytes(content)
                    print(failures[way], flush=True)
                if len(failures) == most:
                    break
    return good, list(failures.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--input", type=Path, help="one input of one target, from a file")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if asked.input:
        with tempfile.TemporaryDirectory(prefix="flatsweep-fuzz-") as folder:
            print("good" if TARGETS[asked.targets[0]].check(asked.input.read_bytes(), Path(folder)) else "refused")
        return 0
    failed = 0
    for name in asked.targets or TARGETS:
        started = time.perf_counter(), time.process_time()
        good, failures = fuzzed(name, asked.inputs, asked.seed, asked.keep)
        wall, own = time.perf_counter() - started[0], time.process_time() - started[1]
        print(
            f"{name:12} {asked.inputs} inputs, {good} taken for good, {len(failures)} ways to fail; "
            f"{wall:.0f} s, {own:.0f} s of CPU",
            flush=True,
        )
        failed += len(failures)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
