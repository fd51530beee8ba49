"""Interleaved timing of alternatives in one run, and the table that every benchmark prints."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from rich.console import Console
from rich.table import Table


def interleaved(alternatives: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of each alternative in each repetition, A B C A B C ..., after one warm-up of each."""
    for run in alternatives.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(repetitions):
        for name, run in alternatives.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def print_ratios(title: str, seconds: Mapping[str, list[float]], ours: str, console: Console | None = None) -> None:
    """A row per alternative: median milliseconds, and how many times slower than ours, pair by pair."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for heading in ("ms, median", "min", "max", "times ours, median", "min", "max"):
        table.add_column(heading, justify="right")
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, seconds[ours], strict=True)]
        times = [1000 * value for value in (statistics.median(values), min(values), max(values))]
        table.add_row(
            name,
            *(f"{value:.1f}" for value in times),
            *(f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))),
        )
    (console or Console()).print(table)


def machine() -> str:
    """What the numbers were taken on."""
    return f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}"
