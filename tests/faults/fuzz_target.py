"""What is fuzzed: a reader, how its inputs are made, and what must be true of its answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Target:
    """One reader."""

    make: Callable[[Random], bytes]
    """An input, mostly a good one to which something happened."""
    check: Callable[[bytes, Path], bool]
    """Reads one input, in an empty folder of its own; says whether it was taken for a good one.

    Raises whatever the reader should not have raised, and AssertionError where its answer is wrong.
    """
