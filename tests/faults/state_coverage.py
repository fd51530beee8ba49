"""Which lines of plan, submit, rerun and cancel the lives in `test_states.py` reach.

Run as `python tests/faults/state_coverage.py [--lives N] [--steps M]`; prints for each file the share of its functions'
lines that were run, and the lines that were not.
"""

import argparse
import inspect
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import test_states

from orchestrator import cancel, plan, submit

MODULES = (plan, submit, cancel)


def lines_of(code: CodeType) -> Iterator[int]:
    """Lines of a function and of those inside it; its first is the `def` itself."""
    yield from (line for _, _, line in code.co_lines() if line and line != code.co_firstlineno)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from lines_of(inner)


def lines_in_functions(file: Path) -> set[int]:
    """Lines of a module that run when something in it is called."""
    found = set[int]()
    for code in compile(file.read_text(), str(file), "exec").co_consts:
        if isinstance(code, CodeType):
            is_class = not code.co_flags & inspect.CO_OPTIMIZED
            parts = [part for part in code.co_consts if isinstance(part, CodeType)] if is_class else [code]
            found |= {line for part in parts for line in lines_of(part)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lives", type=int, default=30)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    files = {str(module.__file__): set[int]() for module in MODULES}

    def watch(frame: FrameType, event: str, _about: Any) -> Any:
        seen = files.get(frame.f_code.co_filename)
        if seen is None:
            return None
        if event == "line":
            seen.add(frame.f_lineno)
        return watch

    with tempfile.TemporaryDirectory() as folder:
        sys.settrace(watch)
        try:
            test_states.run(Path(folder), asked.lives, asked.steps)
        finally:
            sys.settrace(None)
    for name, seen in files.items():
        whole = lines_in_functions(Path(name))
        left = ", ".join(map(str, sorted(whole - seen)))
        print(f"{Path(name).name}: {len(whole & seen)} of {len(whole)} lines ({len(whole & seen) / len(whole):.0%})")
        print(f"  not run: {left or 'none'}")


if __name__ == "__main__":
    main()
