"""Interleaved timing of alternatives in one run, and the table that every benchmark prints.

A `Peak` is an alternative too: a matrix product, or a copy in memory, timed between the others. It turns the time of an
alternative, and the least work that any implementation has to do (its floor), into the fraction of the machine that
this work gets. Cores that are shared slow both, so that the fraction means something on a busy machine as well.
"""

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from workers.memory import kept_memory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Peak:
    """What this machine can do at best if it does nothing else.

    name: of its row. amount: FLOP or bytes that one run takes. unit: which of the two. run: does it once.
    """

    name: str
    amount: float
    unit: str
    run: Callable[[], object]

    @property
    def alternative(self) -> dict[str, Callable[[], object]]:
        """What `interleaved` times, to be merged with the others."""
        return {self.name: self.run}


def matrix_peak(device: torch.device = CPU, dtype: torch.dtype = torch.float32, size: int = 2048) -> Peak:
    """A product of two square matrices: the FLOP rate that everything made of products is held against."""
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    kind = str(dtype).removeprefix("torch.")
    return Peak(f"matrix product, {kind}", 2.0 * size**3, "FLOP", lambda: torch.mm(a, b, out=out))


def copy_peak(device: torch.device = CPU, mebibytes: int = 256) -> Peak:
    """A copy of memory, larger than the caches; bytes read and bytes written both count."""
    a = torch.ones(mebibytes * 2**20, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return Peak("copy of memory", 2.0 * a.numel(), "bytes", lambda: b.copy_(a))


def counted_flop(run: Callable[[], object]) -> float:
    """FLOP of the convolutions and matrix products of one run, a multiplication with its addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


Around = Callable[[], contextlib.AbstractContextManager[None]]
"""In which an alternative is timed; entering and leaving it is not."""


def in_a_trial(warm: Callable[[], object]) -> Around:
    """As a trial runs its parts: the process keeps memory that is freed, and has some already, of what came before.

    Args:
        warm: something short that needs as much memory as what is timed.
    """

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        with kept_memory():
            warm()
            yield

    return around


def interleaved(
    alternatives: Mapping[str, Callable[[], object]],
    repetitions: int,
    device: torch.device = CPU,
    clock: Callable[[], float] = time.perf_counter,
    around: Mapping[str, Around] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each alternative in each repetition, A B C A B C ..., after one warm-up of each.

    Args:
        alternatives: what to run, by name.
        repetitions: how often.
        device: on which they compute; a GPU is waited for.
        clock: `time.process_time` counts this process's own seconds, on all its threads, whoever else computes.
        around: for some of the alternatives.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for run in alternatives.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repetitions):
        for name, run in alternatives.items():
            with (around or {}).get(name, contextlib.nullcontext)():
                wait()
                started = clock()
                run()
                wait()
                seconds[name].append(clock() - started)
    return seconds


def print_ratios(
    title: str,
    seconds: Mapping[str, list[float]],
    ours: str,
    unit: str = "ms",
    in_unit: Callable[[float], float] = lambda value: 1000 * value,
    floor: float | None = None,
    peak: Peak | None = None,
) -> None:
    """A row per alternative: its seconds shown in a unit, and how many times slower than ours, pair by pair.

    Args:
        title: of the table.
        seconds: of each alternative in each repetition, from `interleaved`.
        ours: the alternative that the others are compared with.
        unit: in which seconds are shown.
        in_unit: from seconds to that unit.
        floor: least amount of FLOP or bytes that the task takes, whoever does it.
        peak: timed in the same run, in the unit of `floor`; then each row shows at which fraction of the peak's rate it
            does the floor's work.
    """
    three = ("median", "min", "max")
    headings = ["", *(f"{unit}, {each}" for each in three), *(f"times ours, {each}" for each in three)]
    fractions = reached(seconds, floor, peak) if floor and peak else {}
    headings += [f"% of peak, {each}" for each in three] if fractions else []
    rows = []
    for name, values in seconds.items():
        if peak and name == peak.name:
            continue
        ratios = [value / own for value, own in zip(values, seconds[ours], strict=True)]
        row = [name, *_three([in_unit(value) for value in values], 1), *_three(ratios, 2)]
        rows.append(row + (_three([100 * each for each in fractions[name]], 1) if fractions else []))
    print(f"\n{title}")
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    for row in [headings, *rows]:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *cells]))
    if floor and peak:
        median, least, most = _three([peak.amount / value / 1e9 for value in seconds[peak.name]], 1)
        print(f"floor: {floor / 1e9:,.4g} G{peak.unit}; peak: {peak.name}, {median} G{peak.unit}/s ({least} to {most})")


def reached(seconds: Mapping[str, list[float]], floor: float, peak: Peak) -> dict[str, list[float]]:
    """Of each alternative in each repetition: rate at which the floor was done, over the peak's rate just then."""
    rates = [peak.amount / value for value in seconds[peak.name]]
    return {
        name: [floor / value / rate for value, rate in zip(values, rates, strict=True)]
        for name, values in seconds.items()
        if name != peak.name
    }


def _three(values: Sequence[float], digits: int) -> list[str]:
    """Median, smallest and largest as text."""
    return [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]


def machine() -> str:
    """What the numbers were taken on."""
    kind = platform.processor() or platform.machine()
    if torch.cuda.is_available():
        kind += f", {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads, {kind}, torch {torch.__version__}"
