"""Very many very short trials on a cluster of hosts apart, and what they cost beside their work."""

import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apart import BIN, Apart

DRIVER = "orchestrator.cluster.job"
LOOK_SECONDS = 1.0


@dataclass
class Memory:
    """The driver's resident memory in MiB, second by second, with the times in s since 1970."""

    samples: list[tuple[float, float]] = field(default_factory=list)

    def at(self, seconds: float) -> float:
        """Memory at the last look before a time, or at the first one."""
        return [size for when, size in self.samples if when <= seconds or when == self.samples[0][0]][-1]


@dataclass(frozen=True)
class Many:
    """How it went."""

    memory: Memory
    output: str


def short_trials(count: int) -> dict[str, Any]:
    """Changes of a sweep file: trials of about a tenth of a second."""
    return {
        "data": {"name": "digits", "train_size": 64},
        "model": {"name": "small_preact_resnet", "width": 4},
        "training": {"epochs": 1, "batch_size": 32, "schedule": "constant", "attack": {"steps": 2}},
        "grid": {"methods": ["at"], "seeds": list(range(count))},
        "evaluation": {
            "measures": [{"name": "robustness", "attack": {"steps": 2}, "train_examples": 50, "test_examples": 50}]
        },
    }


def run_many(apart: Apart, name: str, count: int, timeout: float = 1200) -> Many:
    """Submits them from the client and watches the driver, which runs on the head.

    Raises:
        RuntimeError: the sweep did not end well.
    """
    file, memory, ended = apart.sweep(name, **short_trials(count)), Memory(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(memory, ended), daemon=True)
    watcher.start()
    try:
        done = subprocess.run(
            apart.hosts.command("client", str(BIN / "flatsweep"), "submit", str(file)),
            env=apart.client_environment(), capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
    finally:
        ended.set()
        watcher.join()
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])
    return Many(memory, done.stdout)


def _watch(memory: Memory, ended: threading.Event) -> None:
    while not ended.wait(LOOK_SECONDS):
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = status.read_bytes().split(b"\0")
                if DRIVER.encode() in words and b"python" in words[0]:
                    lines = (status.parent / "status").read_text().splitlines()
                    size = next(int(line.split()[1]) / 1024 for line in lines if "VmRSS" in line)
                    memory.samples.append((time.time(), size))
            except (OSError, StopIteration):
                continue  # it has just ended
