"""Reading and answering a large sweep, first, after ten new runs and with nothing new, against plain search_runs.

    python benchmarks/table.py [--runs 10000] [--repetitions 5] [--postgres] [--part first|table|commands|none]
        [--keep FOLDER]

The runs are synthetic (large_sweep.py) but lie in a real MLflow store: SQLite, or a private Postgres that is started
for the time of the benchmark (Postgres' programs and `pip install flatsweep[postgres]` are needed). Making them takes
minutes: with --keep they stay in a folder, where a later call finds them, and adds its repetitions to those before.
Whole commands are timed from the start of Python to their last line. Seconds of the processor, of all processes and
threads of flatsweep together, stand beside those of the clock, as they depend less on what else the machine does.
"""

import argparse
import contextlib
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import mlflow
from compare import machine, print_ratios
from large_sweep import CELLS, FLATNESS, GAP, SEEDS, add, large_sweep, leave_folders, recorded_as, write

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.table import compared, read_table
from orchestrator.local_copy import FOLDER, LocalCopy
from orchestrator.recorded import Places, open_sweep
from orchestrator.report.write import write_report
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store

ROOT = Path(__file__).parents[1]
NEW = 10
COMMANDS = ("correlate", "report", "status", "plan", "submit")
"""Of flatsweep. The last two are about the runs without the new ones, all of which are recorded: nothing to train."""
INCREMENTAL = f"the table after {NEW} new runs"


@dataclass
class Clocks:
    """Seconds by the clock and of the processor, by name."""

    wall: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, run: Callable[[], object]) -> None:
        """Runs once and keeps how long it took, without what Python has left to tidy up from before."""
        gc.collect()
        wall, used = time.perf_counter(), sum(os.times()[:4])
        run()
        self.processor.setdefault(name, []).append(sum(os.times()[:4]) - used)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)


def command(name: str, place: str) -> None:
    """A whole `flatsweep` command, run where no file or folder has the sweep's name."""
    start = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    subprocess.run(
        [*start, name, "large", "--storage", place],
        check=True, stdout=subprocess.DEVNULL, cwd=f"{place}/large", env=environment,
    )  # fmt: skip


@contextlib.contextmanager
def database(postgres: bool, kept: Path | None) -> Iterator[str | None]:
    """Where the runs go: a private Postgres, or None for SQLite in the storage."""
    if not postgres:
        yield None
        return
    sys.path.append(str(ROOT / "tests"))
    from postgres import private_postgres

    with private_postgres(kept=kept / "postgres" if kept else None) as server:
        yield server.database("mlflow")


@contextlib.contextmanager
def storage(kept: Path | None) -> Iterator[str]:
    """The sweep's: a folder that is there already, or a temporary one."""
    if kept:
        (kept / "storage").mkdir(parents=True, exist_ok=True)
        kept.chmod(0o755)  # Postgres' servant looks for its folder in it
        yield str((kept / "storage").resolve())
        return
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place:
        yield place


def one_pair(made: Sweep, store: Store) -> None:
    """The question of most users: average flatness with the gap of the robust loss."""
    correlate(compared(read_table(made, store)), [FLATNESS], [GAP])


@dataclass(frozen=True)
class Recorded:
    """A large sweep, recorded."""

    made: Sweep
    """With the trials that become new runs."""
    whole: Sweep
    """Without them."""
    store: Store

    @classmethod
    def of(cls, runs: int, place: str) -> "Recorded":
        """Made unless it is there already."""
        made = large_sweep(runs, SEEDS * CELLS, place)
        store = Store.of(made)
        store.prepare()
        if store.parent_run(made.name) is None:
            started, trials = time.perf_counter(), made.trials()[:runs]
            write(store, made, trials, random.Random(0))
            leave_folders(made, trials)
            recorded_as(made)
            store.open_parent(made, "", "")
            print(f"{runs} runs written in {time.perf_counter() - started:.0f} s")
        return cls(made, large_sweep(runs, 0, place), store)

    def add(self, runs: int) -> None:
        """Records as many of the trials that have no run yet."""
        known = {run.trial_id for run in LocalCopy(self.made, self.store).trial_runs()}
        new = [trial for trial in self.made.trials() if trial.trial_id not in known][:runs]
        add(self.store, self.made, new, self.store.parent_run(self.made.name) or "", random.Random(len(known)))


def time_first(sweep: Recorded, clocks: Clocks) -> None:
    """Reading where nothing has been read before."""
    shutil.rmtree(Path(sweep.made.storage) / sweep.made.name / FOLDER, ignore_errors=True)
    clocks.time("the table, first look", lambda: read_table(sweep.made, sweep.store))
    clocks.time("mlflow.search_runs", lambda: mlflow.search_runs([sweep.store.experiment_id]))


def time_table(sweep: Recorded, clocks: Clocks) -> None:
    """Reading again, and answering within one process."""
    made, store = sweep.made, sweep.store
    read_table(made, store)  # there may have been no look before
    sweep.add(NEW)
    clocks.time(INCREMENTAL, lambda: read_table(made, store))
    clocks.time("the table with nothing new", lambda: read_table(made, store))
    clocks.time("the table and one pair correlated", lambda: one_pair(made, store))
    clocks.time("the table and all pairs correlated", lambda: correlate(compared(read_table(made, store))))
    file = open_sweep(made.name, Places(made.storage))
    clocks.time("the table and the report", lambda: write_report([(file, store)]))
    clocks.time("mlflow.search_runs", lambda: mlflow.search_runs([store.experiment_id]))


def time_commands(sweep: Recorded, clocks: Clocks) -> None:
    """Whole commands; the last two are about the runs without the new ones."""
    sweep.add(NEW)
    for name in COMMANDS:
        recorded_as(sweep.whole if name in ("plan", "submit") else sweep.made)
        shown = f"flatsweep {name}" + (f", {NEW} new runs" if name == COMMANDS[0] else "")
        clocks.time(shown, partial(command, name, sweep.made.storage))
    recorded_as(sweep.made)


PARTS = {"first": time_first, "table": time_table, "commands": time_commands}


def report(clocks: Clocks, title: str) -> None:
    """Prints both clocks, each beside the first way of reading that all others are compared with."""
    for what, seconds in (("seconds", clocks.wall), ("seconds of the processor", clocks.processor)):
        ours = INCREMENTAL if INCREMENTAL in seconds else next(iter(seconds))
        print_ratios(f"{title}, {what}", seconds, ours, unit="s", in_unit=lambda value: value)


def main() -> None:
    """Prints the seconds of each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="a private Postgres in place of SQLite")
    parser.add_argument("--part", choices=[*PARTS, "none"], help="leave out the others, or only make the runs")
    parser.add_argument("--keep", type=Path, help="folder of the runs and of the seconds so far; each store its own")
    wanted = parser.parse_args()
    if wanted.runs % (SEEDS * CELLS):
        parser.error(f"--runs is a multiple of {SEEDS * CELLS}, whole grids")
    with storage(wanted.keep) as place, database(wanted.postgres, wanted.keep) as uri:
        if uri:  # its password may stand in no sweep file
            os.environ["MLFLOW_TRACKING_URI"] = uri
        sweep = Recorded.of(wanted.runs, place)
        mlflow.set_tracking_uri(sweep.store.uri)
        for name, run in PARTS.items():
            if wanted.part not in (None, name):
                continue
            so_far = wanted.keep / f"{name}.json" if wanted.keep else None
            clocks = Clocks(**json.loads(so_far.read_text())) if so_far and so_far.exists() else Clocks()
            for _ in range(wanted.repetitions):
                run(sweep, clocks)
                if so_far:
                    so_far.write_text(json.dumps(vars(clocks)))
            load = " / ".join(f"{value:.1f}" for value in os.getloadavg())
            kind = "Postgres" if wanted.postgres else "SQLite"
            report(clocks, f"{wanted.runs} runs in {kind}; {machine()}; load {load}")


if __name__ == "__main__":
    main()
