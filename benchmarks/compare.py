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


def print_ratios(
    title: str,
    seconds: Mapping[str, list[float]],
    ours: str,
    unit: str = "ms",
    in_unit: Callable[[float], float] = lambda value: 1000 * value,
    console: Console | None = None,
) -> None:
    """A row per alternative: its seconds shown in a unit, and how many times slower than ours, pair by pair."""
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for heading in (f"{unit}, median", "min", "max", "times ours, median", "min", "max"):
        table.add_column(heading, justify="right")
    for name, values in seconds.items():
        ratios = [value / own for value, own in zip(values, seconds[ours], strict=True)]
        shown = [in_unit(value) for value in values]
        table.add_row(
            name,
            *(f"{value:,.1f}" for value in (statistics.median(shown), min(shown), max(shown))),
            *(f"{value:.2f}" for value in (statistics.median(ratios), min(ratios), max(ratios))),
        )
    (console or Console()).print(table)


def machine() -> str:
    """What the numbers were taken on."""
    return f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, torch {torch.__version__}"
