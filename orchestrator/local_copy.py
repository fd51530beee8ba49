"""A copy of a sweep's runs on this machine, brought up to date by asking the store only for what has changed since.

MLflow can neither list runs without all that they hold nor say which of them changed. So flatsweep marks every change
with its time (`sink.CHANGED`). A look at the store asks for the runs whose mark is newer than `MARGIN_MS` before the
newest mark of the last look, for those that the copy does not hold as settled, and whether the ids are still the same:
runs may be deleted, restored, or made by a version without marks. Where they are not, everything is fetched again.

The margin is for writers' clocks that differ and for what was under way during the last look. What it cannot see is a
settled run that somebody changes by hand, or a writer whose clock is later by more than the margin: `fresh` does. Where
it decides what is run, the store is asked besides whether every run stands as the copy says (`confirmed_runs`).
"""

import io
import json
import logging
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.addresses import without_secret
from orchestrator.local_folder import local_folder
from orchestrator.sink import STATUS
from orchestrator.spec.base import digest
from orchestrator.spec.places import is_address
from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.trial_run import TrialRun
from workers.storage import Folder

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

FOLDER = "cache"
FORMAT = "2"
"""Of the file; another one is fetched anew."""
CHECK_BYTES = 4
MARGIN_MS = 5 * 60 * 1000

Curves = dict[int, dict[str, float]]


class LocalCopy:
    """The runs of one sweep, from the copy and from the store.

    Args:
        sweep: the sweep; the copy lies in this machine's folder of it.
        store: where it is recorded.
        fresh: fetch everything, whatever the copy holds.
    """

    def __init__(self, sweep: Sweep, store: Store, fresh: bool = False) -> None:
        self._sweep, self._store = sweep, store
        # without the password, which may change while the store stays the same
        self._key = digest({"uri": without_secret(store.uri), "experiment": store.experiment_id, "sweep": sweep.name})
        self._folder, self._file = Folder(str(local_folder(sweep))) / FOLDER, f"{self._key}.parquet"
        self._curves: dict[str, dict[str, Curves]] = {}
        self._kept: dict[str, TrialRun] = {}
        self._looked_ms = 0
        if not fresh:
            self._read()
        self._is_new = self._all_fetched = False

    def trial_runs(self) -> list[TrialRun]:
        """What `Store.trial_runs` gives now."""
        now_ms = int(time.time() * 1000)
        found = self._changed() if self._kept else None
        self._all_fetched = found is None
        if found is None:
            found = {run.run_id: run for run in self._store.trial_runs(self._sweep.name)}
        if found != self._kept:
            changed = {run_id for run_id, run in found.items() if run != self._kept.get(run_id)}
            self._curves = {run_id: kept for run_id, kept in self._curves.items() if run_id not in changed}
            self._kept, self._looked_ms, self._is_new = found, now_ms, True
        return sorted(found.values(), key=lambda run: (run.started_ms, run.run_id))

    def confirmed_runs(self) -> list[TrialRun]:
        """What `Store.trial_runs` gives now, for a driver: nobody's clock and no change by hand is trusted.

        The store has confirmed of every run that it is there, with its status, state, evaluation and class of error;
        where it does not, all are fetched. Other values are as in `trial_runs`.
        """
        runs = self.trial_runs()
        if self._all_fetched or self._store.confirms(self._sweep.name, runs):
            return runs
        self._kept = {}
        return self.trial_runs()

    def with_curves(self, run: TrialRun, keys: Sequence[str], prefix: str = "") -> TrialRun:
        """What `Store.with_curves` gives; asked for once while the run does not change."""
        known = self._curves.setdefault(run.run_id, {})
        name = digest([prefix, *keys])
        if name not in known:
            found = self._store.with_curves(run, keys, prefix).curves
            known[name] = {epoch: dict(values) for epoch, values in found.items()}
            self._is_new = True
        return replace(run, curves=known[name])

    def keep(self) -> None:
        """Writes the copy, if it has changed; nowhere if the sweep's folder is not here, or a read-only one."""
        if not self._is_new or not self._kept:
            return
        if not is_address(self._sweep.storage) and not Path(self._sweep.storage, self._sweep.name).exists():
            return
        try:
            self._folder.write(self._file, _packed(self._kept.values(), self._curves, self._looked_ms, self._key))
        except OSError as error:
            logger.info("the copy of the runs cannot be kept in %s: %s", self._folder, error)

    def _changed(self) -> dict[str, TrialRun] | None:
        """The copy with what has changed since; None where it has other runs than the store."""
        newest_ms = max(run.changed_ms for run in self._kept.values())
        since_ms = min(newest_ms, self._looked_ms) - MARGIN_MS
        new = self._store.changed_runs(self._sweep.name, since_ms)
        found = self._kept | {run.run_id: run for run in new}
        open_runs = sorted({run.run_id for run in found.values() if not settled(run)} - {run.run_id for run in new})
        found |= {run.run_id: run for run in self._store.runs_by_id(open_runs)}
        return found if self._store.holds_exactly(self._sweep.name, list(found)) else None

    def _read(self) -> None:
        try:
            if self._folder.exists(self._file):
                content = self._folder.read(self._file)
                self._kept, self._curves, self._looked_ms = _unpacked(content, self._key)
        except Exception as error:  # whatever is wrong with a file: the store has it all
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            logger.warning("%s/%s is damaged and made again from the store: %s", self._folder, self._file, why[:200])


def confirmed_runs(sweep: Sweep, store: Store) -> list[TrialRun]:
    """`LocalCopy.confirmed_runs` of a new look, which is kept."""
    copy = LocalCopy(sweep, store)
    runs = copy.confirmed_runs()
    copy.keep()
    return runs


def settled(run: TrialRun) -> bool:
    """Whether whatever changes a run next will mark it: nobody is at work on it, and MLflow's status says the same.

    One that waits for a driver of a version without marks is not settled.
    """
    at_work = run.state == "running" or any(
        key.startswith("evaluated/") and text == "running" for key, text in run.tags.items()
    )
    waits_unmarked = run.state == "pending" and not run.changed_ms
    return not at_work and not waits_unmarked and STATUS.get(run.state) == run.status


def _packed(runs: Iterable[TrialRun], curves: Mapping[str, Mapping[str, Curves]], looked_ms: int, key: str) -> bytes:
    """A parquet file, a row per run, with a CRC-32 behind it: parquet's own leave out what describes the pages."""
    import pyarrow as pa
    from pyarrow import parquet

    runs = list(runs)
    table = pa.table(
        {
            "run_id": pa.array([run.run_id for run in runs], pa.string()),
            "status": pa.array([run.status for run in runs], pa.string()),
            "started_ms": pa.array([run.started_ms for run in runs], pa.int64()),
            "changed_ms": pa.array([run.changed_ms for run in runs], pa.int64()),
            "tags": _maps([run.tags for run in runs], pa.string()),
            "metrics": _maps([run.metrics for run in runs], pa.float64()),
            "params": _maps([run.params for run in runs], pa.string()),
            "curves": pa.array([json.dumps(curves.get(run.run_id, {})) for run in runs], pa.string()),
        }
    ).replace_schema_metadata({"format": FORMAT, "key": key, "looked_ms": str(looked_ms)})
    file = io.BytesIO()
    # zstd finds what repeats; dictionaries and statistics only take their time here
    parquet.write_table(table, file, compression="zstd", use_dictionary=False, write_statistics=False)
    return file.getvalue() + _check(file.getvalue())


def _check(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(CHECK_BYTES)


def _maps(dicts: Sequence[Mapping[str, Any]], kind: "pa.DataType") -> "pa.MapArray":
    """A column of maps (pyarrow itself makes them from lists of pairs, slowly)."""
    import pyarrow as pa

    ends = list(accumulate(map(len, dicts), initial=0))
    keys = pa.array(list(chain.from_iterable(dicts)), pa.string())
    values = pa.array([value for one in dicts for value in one.values()], kind)
    return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, values)


def _unpacked(content: bytes, key: str) -> tuple[dict[str, TrialRun], dict[str, dict[str, Curves]], int]:
    """What `_packed` was given.

    Raises:
        ValueError: damaged, of another format, or the runs of another store.
    """
    import pyarrow as pa
    from pyarrow import parquet

    content, check = content[:-CHECK_BYTES], content[-CHECK_BYTES:]
    if check != _check(content):
        raise ValueError("its checksum differs")
    table = parquet.read_table(pa.BufferReader(content))
    about = table.schema.metadata or {}
    if about.get(b"format") != FORMAT.encode() or about.get(b"key") != key.encode():
        raise ValueError("it is of another format or store")
    names = ("run_id", "status", "tags", "metrics", "params", "started_ms", "changed_ms")
    rows = zip(*(_column(table.column(name)) for name in names), strict=True)
    runs = {row[0]: TrialRun.of(*row) for row in rows}
    curves = {
        run_id: {
            name: {int(epoch): values for epoch, values in of_evaluation.items()}
            for name, of_evaluation in json.loads(text).items()
        }
        for run_id, text in zip(runs, table.column("curves").to_pylist(), strict=True)
        if text != "{}"
    }
    return runs, curves, int(about[b"looked_ms"])


def _column(column: "pa.ChunkedArray") -> list[Any]:
    """A column as Python values, maps as dicts (pyarrow itself makes lists of pairs, slowly)."""
    import pyarrow as pa

    whole = column.combine_chunks()
    if not pa.types.is_map(column.type):
        return _values(whole)
    ends, keys, values = whole.offsets.to_pylist(), _values(whole.keys), _values(whole.items)
    return [dict(zip(keys[low:high], values[low:high], strict=True)) for low, high in pairwise(ends)]


def _values(array: "pa.Array") -> list[Any]:
    """Numbers and texts as Python values, each different text once: names, and most tags, are the same in all runs."""
    import numpy as np
    import pyarrow as pa

    if not pa.types.is_string(array.type):
        return list(array.to_pylist())
    coded = array.dictionary_encode()
    return list(np.asarray(coded.dictionary.to_pylist(), dtype=object)[coded.indices.to_numpy()])
