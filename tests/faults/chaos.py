"""Sweeps in which everything dies, each compared with one that was left alone.

    python tests/faults/chaos.py --seeds 0-199        # these seeds
    python tests/faults/chaos.py --minutes 30         # fresh seeds for so long
    python tests/faults/chaos.py --mended             # faults that showed a mistake once
    python tests/faults/chaos.py --seeds 0-2 --ray    # `flatsweep submit` itself, on a local Ray of its own

Each seed draws what happens (`chaos_faults`), runs a small sweep until nothing is left to run (`chaos_seed`), and looks
at what it left (`chaos_findings`). Exit code 1 where one differs from the undisturbed sweep; its folder then stays. A
later call with the same `--folder` goes on there: sweeps that are through are not run again, and count.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (imported once, before processes are forked)
import sympy  # noqa: F401  (likewise: torch takes it when it first trains)
from chaos_faults import Drawn, drawn, mended
from chaos_outcomes import Outcome, table
from chaos_place import DATA, SWEEP, write_digits
from chaos_processes import MODULES, fork, in_child, one_thread, read_lines
from chaos_seed import FOUND, RESULT, Seed
from chaos_server import import_server
from mlflow import MlflowClient

from orchestrator.tracking_place import DATABASE, quiet

UNDISTURBED, EMPTY = "undisturbed", "empty.db"
DONE = "done.jsonl"
"""In the runner's folder: a line for each sweep that is through."""


class Chaos:
    """Many sweeps, some side by side.

    Args:
        folder: where each has a folder.
        jobs: how many side by side.
        on_ray: as `flatsweep submit` runs them; the undisturbed one as ever.
    """

    def __init__(self, folder: Path, jobs: int, on_ray: bool = False) -> None:
        self.folder, self._jobs, self._on_ray = folder, jobs, on_ray
        self._running: dict[int, str] = {}
        done = read_lines(folder / DONE)
        self.done = {one["seed"] for one in done}
        self.failed = {one["seed"] for one in done if one["problems"]}
        self.outcomes = [Outcome(**each) for one in done for each in one["outcomes"]]

    def prepare(self) -> None:
        """Runs the undisturbed sweep, and makes what all others begin with: a data set, and an empty store, as making
        one takes long. Nothing where an earlier call did."""
        before = set(sys.modules)
        undisturbed = self.folder / UNDISTURBED
        if not (undisturbed / RESULT).exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_digits(self.folder / DATA)
            in_child(lambda: quiet() or MlflowClient(f"sqlite:///{self.folder}/{EMPTY}").search_experiments())
            self._place(UNDISTURBED)
            in_child(lambda: self._run(undisturbed, None, Drawn([])))
        found = json.loads((undisturbed / RESULT).read_text())
        if found["problems"]:
            raise SystemExit(f"the undisturbed sweep itself is wrong: {found['problems']}")
        # what processes import as they go is imported once, here
        for name in sorted(set((undisturbed / MODULES).read_text().split()) - before):
            with contextlib.suppress(Exception):  # some are no modules that can be imported by their names
                importlib.import_module(name)
        assert threading.active_count() == 1, "a process that forks must have one thread"

    def run(self, sweeps: Iterable[tuple[str, Drawn]]) -> None:
        """Runs sweeps and says how each ended; Ctrl-C lets those that run come to their end."""
        stop = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        for name, what in sweeps:
            if name in self.done:
                continue
            while len(self._running) >= self._jobs:
                self._wait()
            if stop.is_set():
                break
            place, expected = self._place(f"seed-{name}"), self.folder / UNDISTURBED / FOUND
            self._running[fork(lambda: self._run(place, expected, what) or 0)] = name  # noqa: B023
        while self._running:
            self._wait()

    def _place(self, name: str) -> Path:
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "runs").mkdir(parents=True)
        shutil.copy(self.folder / EMPTY, place / EMPTY)
        shutil.copy(self.folder / EMPTY, place / "runs" / DATABASE)
        shutil.copy(self.folder / DATA, place / DATA)
        return place

    def _run(self, place: Path, expected: Path | None, what: Drawn) -> None:
        os.setpgid(0, 0)  # Ctrl-C is meant for this command alone
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        output = os.open(place / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        Seed(place, expected, what, self._on_ray).run()

    def _wait(self) -> None:
        process, _ = os.wait()
        name = self._running.pop(process)
        place = self.folder / f"seed-{name}"
        file = place / RESULT
        result = json.loads(file.read_text()) if file.exists() else {"problems": ["see output.txt"], "outcomes": []}
        problems = result["problems"]
        self.done.add(name)
        self.outcomes += [Outcome(**one) for one in result["outcomes"]]
        with (self.folder / DONE).open("a") as lines:
            lines.write(
                json.dumps({"seed": name} | {key: result.get(key) for key in ("problems", "outcomes", "seconds")})
                + "\n"
            )
        how = "DIFFERS" if problems else "identical"
        print(f"seed {name}: {len(result['outcomes'])} faults, {result.get('seconds', 0):.1f} s: {how}")
        for problem in problems[:10]:
            print(f"    {problem[:400]}")
        sys.stdout.flush()
        if problems:
            self.failed.add(name)
            print(f"    see {place}", flush=True)
        else:
            shutil.rmtree(place)


def _seeds(text: str) -> Iterator[tuple[str, Drawn]]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        for seed in range(int(first), int(last or first) + 1):
            yield str(seed), drawn(seed)


def _fresh(minutes: float, sweeps: Iterable[tuple[str, Drawn]] | None = None) -> Iterator[tuple[str, Drawn]]:
    """Those given, or seeds that nobody has run, until the time is over."""
    until = time.monotonic() + 60 * minutes
    first = random.SystemRandom().randrange(10**6, 10**9)
    for one in sweeps or ((str(seed), drawn(seed)) for seed in count(first)):
        if time.monotonic() > until:
            return
        yield one


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", help="such as 0-199 or 3,7")
    parser.add_argument("--mended", action="store_true", help="the faults in chaos_mended.json")
    parser.add_argument(
        "--minutes", type=float, help="begin no more after so long; without seeds, fresh ones until then"
    )
    parser.add_argument("--jobs", type=int, default=2, help="sweeps side by side")
    parser.add_argument("--folder", type=Path, help="stays, and a later call goes on there; a temporary one otherwise")
    parser.add_argument("--ray", action="store_true", help="`flatsweep submit` on a local Ray")
    parser.add_argument("--small", action="store_true", help="two trials instead of four")
    given = parser.parse_args()
    if given.small:
        SWEEP["grid"]["regularizers"] = SWEEP["grid"]["regularizers"][1:]
    else:
        import_server()
    one_thread()
    os.environ["GIT_CEILING_DIRECTORIES"] = "/"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    sweeps = iter(mended().items()) if given.mended else _seeds(given.seeds) if given.seeds else None
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos = Chaos(folder.absolute(), given.jobs, given.ray)
    chaos.prepare()
    chaos.run(_fresh(given.minutes, sweeps) if given.minutes else sweeps or _seeds("0-9"))
    print(f"\n{table(chaos.outcomes)}\n")
    print(f"{len(chaos.done)} sweeps, {len(chaos.outcomes)} faults, {len(chaos.failed)} sweeps that differ", flush=True)
    if chaos.failed:
        print(f"seeds: {', '.join(sorted(chaos.failed))}; their folders are in {folder}")
        return 1
    if not given.folder:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
