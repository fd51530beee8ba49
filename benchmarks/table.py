"""Reading and answering a large sweep, first, after ten new runs and with nothing new, against plain search_runs.

    python benchmarks/table.py [--runs 10000] [--repetitions 5] [--postgres] [--no-commands]

The runs are synthetic (large_sweep.py) but lie in a real MLflow store: SQLite, or a private Postgres that is started
for the time of the benchmark (Postgres' programs and `pip install flatsweep[postgres]` are needed). Whole commands are
timed from the start of Python to their last line. Seconds of the processor, of all processes and threads of flatsweep
together, stand beside those of the clock, as they depend less on what else the machine does.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import mlflow
from compare import machine, print_ratios
from large_sweep import CELLS, FLATNESS, GAP, MEASURES, SEEDS, add, large_sweep, leave_folders, recorded_as, write

from orchestrator.analysis.correlation import correlate
from orchestrator.analysis.table import compared, read_table
from orchestrator.local_copy import FOLDER
from orchestrator.recorded import Places, open_sweep
from orchestrator.report.write import write_report
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store

ROOT = Path(__file__).parents[1]
NEW = 10
COMMANDS = ("correlate", "report", "status", "plan", "submit")
"""Of flatsweep. The last two are about the runs without the new ones, all of which are recorded: nothing to train."""
INCREMENTAL = f"the table after {NEW} new runs"


class Clocks:
    """Seconds by the clock and of the processor, by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.processor: dict[str, list[float]] = {}

    def time(self, name: str, run: Callable[[], object]) -> None:
        """Runs once and keeps how long it took."""
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
def database(postgres: bool) -> Iterator[str | None]:
    """Where the runs go: a private Postgres, or None for SQLite in the storage."""
    if not postgres:
        yield None
        return
    sys.path.append(str(ROOT / "tests"))
    from postgres import private_postgres

    with private_postgres() as server:
        yield server.database("mlflow")


def one_pair(made: Sweep, store: Store) -> None:
    """The question of most users: average flatness with the gap of the robust loss."""
    correlate(compared(read_table(made, store)), [FLATNESS], [GAP])


def timings(made: Sweep, whole: Sweep, store: Store, repetitions: int, commands: bool) -> Clocks:
    """All ways of reading and answering, twice ten new runs in each repetition.

    Args:
        made: the sweep with the trials that become new runs.
        whole: without them.
        store: where it is recorded.
        repetitions: how often.
        commands: whether to time whole commands.
    """
    clocks, draw, trials = Clocks(), random.Random(1), made.trials()
    place, runs, parent = made.storage, len(whole.trials()), store.parent_run(made.name) or ""
    copy = Path(place) / made.name / FOLDER
    file = open_sweep(made.name, Places(place))
    for repetition in range(repetitions):
        new = trials[runs + 2 * NEW * repetition :][: 2 * NEW]
        shutil.rmtree(copy, ignore_errors=True)
        clocks.time("the table, first look", lambda: read_table(made, store))
        add(store, made, new[:NEW], parent, draw)
        clocks.time(INCREMENTAL, lambda: read_table(made, store))
        clocks.time("the table with nothing new", lambda: read_table(made, store))
        clocks.time("the table and one pair correlated", lambda: one_pair(made, store))
        clocks.time("the table and all pairs correlated", lambda: correlate(compared(read_table(made, store))))
        clocks.time("the table and the report", lambda: write_report([(file, store)]))
        add(store, made, new[NEW:], parent, draw)
        for name in COMMANDS if commands else ():
            recorded_as(made if name not in ("plan", "submit") else whole)
            shown = f"flatsweep {name}" + (f", {NEW} new runs" if name == COMMANDS[0] else "")
            clocks.time(shown, partial(command, name, place))
        clocks.time("mlflow.search_runs", lambda: mlflow.search_runs([store.experiment_id]))
    return clocks


def main() -> None:
    """Prints the seconds of each way of reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--postgres", action="store_true", help="a private Postgres in place of SQLite")
    parser.add_argument("--no-commands", dest="commands", action="store_false", help="leave out whole commands")
    wanted = parser.parse_args()
    if wanted.runs % (SEEDS * CELLS):
        parser.error(f"--runs is a multiple of {SEEDS * CELLS}, whole grids")
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as place, database(wanted.postgres) as uri:
        if uri:  # its password may stand in no sweep file
            os.environ["MLFLOW_TRACKING_URI"] = uri
        made = large_sweep(wanted.runs, 2 * NEW * wanted.repetitions, place)
        whole = large_sweep(wanted.runs, 0, place)
        store = Store.of(made)
        store.prepare()
        store.open_parent(made, "", "")
        trials = made.trials()[: wanted.runs]
        started = time.perf_counter()
        write(store, made, trials, random.Random(0))
        leave_folders(made, trials)
        recorded_as(made)
        measures = f"{len(MEASURES)} measures of the vocabulary"
        print(f"{machine()}; {wanted.runs} runs with {measures} written in {time.perf_counter() - started:.0f} s")
        mlflow.set_tracking_uri(store.uri)
        clocks = timings(made, whole, store, wanted.repetitions, wanted.commands)
        load = " / ".join(f"{value:.1f}" for value in os.getloadavg())
        kind = "Postgres" if wanted.postgres else "SQLite"
        for what, seconds in (("seconds", clocks.wall), ("seconds of the processor", clocks.processor)):
            title = f"{wanted.runs} runs in {kind}, {wanted.repetitions} repetitions, {what}; load {load}"
            print_ratios(title, seconds, INCREMENTAL, unit="s", in_unit=lambda value: value)


if __name__ == "__main__":
    main()
