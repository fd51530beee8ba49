"""Fuzz targets: the lines and JSON files of the storage. Journals, results, and what the driver noted."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import fsspec

from orchestrator import evaluations, origins, recorded
from orchestrator.cluster.request import Options, Request, parse_event
from orchestrator.errors import UserError
from orchestrator.launch import SCRATCH_NOTE, left_scratch
from orchestrator.prune import prune
from orchestrator.recorded import SWEEP_FILE, TEXT_FILE
from orchestrator.report.files import training_curves
from orchestrator.spec.external import External
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.stored import stored_runs
from tests.faults.fuzz_mutations import bent, changed_json, changed_tree
from tests.faults.fuzz_target import Target
from tests.faults.fuzz_watch import watched
from workers import layout
from workers.failures import StorageError
from workers.journal import FILE, Record, line_of, parse, read_records
from workers.leases import LEASE_SECONDS, Lease
from workers.measurement import KeptParts, kept_result
from workers.retention import Contents
from workers.sealed import CHECK, sealed
from workers.storage import Folder

SEPARATOR = b"\x1e"
"""Between files of one input; a file begins with its name and NUL."""


@cache
def _sweep() -> Sweep:
    return Sweep.model_validate(
        {"name": "x", "data": {"name": "digits", "train_size": 60}, "grid": {"methods": ["at"], "seeds": [0]}}
    )


# journals


@cache
def _records() -> tuple[Record, ...]:
    note = json.dumps({"trials": ["0" * 16], "tags": {"flatsweep.git_commit": "abc"}, "profile": ""})
    metrics = [
        Record("metric", key, value, step, time_ms=1_700_000_000_000 + step)
        for step in (1, 2, 3)
        for key, value in (("train/loss", 2.25 / step), ("train/error", 0.125), ("validation/robust_loss", 1e-7 * step))
    ]
    odd = [Record("metric", "wci", float("nan"), 3), Record("metric", "path_norm", float("inf"), 3)]
    texts = [Record("tag", "error", text="boom\n\u2028 \U0001f4a9 \0"), Record("tag", origins.KEY, text=note)]
    files = [Record("file", "measures/a.npz", text="0123"), Record("file", "../../x", text="0")]
    ends = [Record("state", "state", text=text) for text in ("running", "interrupted", "running", "finished")]
    return (ends[0], *metrics[:3], ends[1], ends[2], *metrics[3:], *odd, *texts, *files, ends[3])


@cache
def _lines() -> dict[bytes, Record]:
    return {line_of(record): record for record in _records()}


def _journal(random: Random) -> bytes:
    lines = list(_lines())
    low = random.randrange(len(lines))
    return b"".join(lines[low : low + random.randint(1, 6)])


def _change_journal(random: Random, content: bytes) -> bytes:
    if random.random() < 0.35:  # lines without checksum, of an earlier version or of nobody
        lines = content.splitlines(keepends=True)
        if lines:
            place = random.randrange(len(lines))
            plain = changed_json(random, lines[place])
            try:
                found = json.loads(plain)
                found.pop("crc", None)
                plain = json.dumps(found).encode()
            except (ValueError, AttributeError, TypeError):
                pass
            lines[place] = plain + b"\n"
        content = b"".join(lines)
    return bent(random, content, list(_lines())) if random.random() < 0.8 else content


def _check_found(content: bytes, found: list[Record]) -> None:
    """Every line that stands there as it was written is found, in order, and whatever else is found is a record."""
    intact = [_lines()[line + b"\n"] for line in content.split(b"\n")[:-1] if line + b"\n" in _lines()]
    # compared as text: not a number differs from itself
    rest = iter([repr(record) for record in found])
    assert all(repr(record) in rest for record in intact), "an intact line was lost"
    for record in found:
        assert record.kind in {"metric", "tag", "state", "file"}
        assert isinstance(record.key, str) and isinstance(record.text, str)
        assert float(record.value) is not None and abs(record.step) < 2**64 and 0 <= record.time_ms < 2**63
        hash((record.key, record.step))


def _check_journal(content: bytes, folder: Path) -> bool:
    (folder / FILE).write_bytes(content)
    place = Folder(str(folder))
    with watched(folder):
        found, whole = parse(content)
        assert repr(read_records(place)) == repr(found)
        again, same = parse(whole)
        curves = training_curves(place.parent, [folder.name])
        origins.noted(place)
    assert same == whole and repr(again) == repr(found)
    _check_found(content, found)
    for curve in curves.values():
        assert all(points == sorted(points) for points in curve.values())
    return whole == content


# the same in segments, on an object store


def _segments(random: Random) -> bytes:
    lines, parts, number = list(_lines()), [], 1
    for _ in range(random.randint(1, 5)):
        low, count = random.randrange(len(lines)), random.randint(1, 3)
        parts.append(f"{number:08d}-{number + count - 1:08d}".encode() + b"\0" + b"".join(lines[low : low + count]))
        number += count if random.random() < 0.9 else random.choice((0, 1, 7))
    return _change_segments(random, SEPARATOR.join(parts))


def _change_segments(random: Random, content: bytes) -> bytes:
    parts = content.split(SEPARATOR)
    place = random.randrange(len(parts))
    name, _, inside = parts[place].partition(b"\0")
    names = [b"00000001-00000009", b"00000009-00000001", b"0-1", b"00000000-00000000", b"x", b"99999999-99999999"]
    match random.randrange(5):
        case 0:
            parts[place] = random.choice([*names, bent(random, name)[:60]]) + b"\0" + inside
        case 1:
            random.shuffle(parts)
        case _:
            parts[place] = name + b"\0" + _change_journal(random, inside)
    return SEPARATOR.join(parts)


def _files(content: bytes) -> dict[str, bytes]:
    """Name -> content, of names that a file can have."""
    found = {}
    for part in content.split(SEPARATOR):
        raw, _, inside = part.partition(b"\0")
        name = raw.decode(errors="ignore").replace("/", "").replace("\\", "").strip()
        if name not in {"", ".", ".."} and len(name.encode()) < 200 and name.isprintable():
            found[name] = inside
    return found


def _check_segments(content: bytes, folder: Path) -> bool:
    """What counts is what a plain model says: each segment that reaches beyond those before it."""
    store = fsspec.filesystem("memory")
    store.rm("/fuzz", recursive=True) if store.exists("/fuzz") else None
    files = _files(content)
    for name, inside in files.items():
        store.pipe_file(f"/fuzz/t/{FILE}/{name}", inside)
    with watched(folder):
        found = read_records(Folder("memory://fuzz/t"))
    spans = []
    for name in files:
        first, _, last = name.partition("-")
        if len(name) == 17 and all(len(end) == 8 and end.isascii() and end.isdigit() for end in (first, last)):
            spans.append((int(first), -int(last), name))
    reached = 0
    wanted: list[Record] = []
    for first, last, name in sorted(spans):
        if first > reached:
            reached = -last
            wanted += parse(files[name] + (b"" if files[name].endswith(b"\n") else b"\n"))[0]
    assert repr(found) == repr(wanted)
    assert (
        {name.rsplit("/", 1)[-1] for name in store.ls(f"/fuzz/t/{FILE}", detail=False)} == set(files) if files else True
    )
    return bool(found)


# JSON files


@cache
def _json_files() -> dict[str, list[bytes]]:
    """By the reader's name good contents of what it reads."""
    sweep = _sweep()
    trial = sweep.trials()[0]
    other = Evaluation.model_validate({"measures": [{"name": "robustness", "test_examples": 10}]})
    external = External.model_validate(
        {"label": "theirs", "weights": "0" * 64, "data": "digits", "attack": {"eps": 0.1}}
    )
    request = Request.of("evaluate", SweepFile(sweep, "name: x\n", Path("s.yaml"), None, ""), Options(evaluation=other))
    result = {
        "measure": {"name": "norms"},
        "seed": 0,
        "network": "last",
        "epoch": 2,
        "values": {"a": 1.5, "b": float("nan")},
    }
    return {
        layout.TRIAL: [trial.model_dump_json().encode()],
        layout.EXTERNAL: [external.model_dump_json().encode()],
        origins.FILE: [sealed({"tags": {"a": "b"}, "params": {"c": "d"}, "made_ms": 1_700_000_000_000})],
        "evaluation": [other.model_dump_json().encode()],
        SWEEP_FILE: [sweep.model_dump_json().encode()],
        TEXT_FILE: [b"name: x\n"],
        "request.json": [request.model_dump_json().encode()],
        "result": [
            sealed(result | {"flags": ["odd"], "seconds": 0.5}, indent=2),
            json.dumps(result | {"seconds": 1}).encode(),
        ],
        "parts": [sealed({"parts": {"0": [0.5, 1.0], "1": {"loss": 1.0}}, "seconds": 0.25})],
        layout.SELECTION: [sealed({"looked": 2, "best": {"epoch": 1, "robust_error": 0.5, "robust_loss": 1.0}})],
        "lease": [
            json.dumps({"holder": "0", "who": "process 1 on x", "released": each}).encode() for each in (True, False)
        ],
        "scratch": [b"/tmp/flatsweep-abc", b"/tmp/x"],
        "event": [b'@flatsweep {"event": "refused", "message": "x"}'],
    }


def _json_input(random: Random) -> bytes:
    name = random.choice(list(_json_files()))
    return _change_json(random, name.encode() + b"\0" + random.choice(_json_files()[name]))


def _change_json(random: Random, content: bytes) -> bytes:
    name, _, inside = content.partition(b"\0")
    if random.random() < 0.55:
        try:
            tree = changed_tree(random, json.loads(inside))
            if isinstance(tree, dict) and random.random() < 0.7:
                tree.pop(CHECK, None)
                inside = sealed(tree) if random.random() < 0.5 else json.dumps(tree).encode()
            else:
                inside = json.dumps(tree).encode()
        except (ValueError, RecursionError):
            pass
    if random.random() < 0.5:
        inside = bent(random, inside)
    return name + b"\0" + inside


def _check_json(content: bytes, folder: Path) -> bool:
    raw, _, inside = content.partition(b"\0")
    name = raw.decode(errors="replace")
    reader = _READERS.get(name)
    return reader is not None and reader(inside, folder)


def _placed(folder: Path, path: str, content: bytes) -> Sweep:
    """The sweep whose storage is the folder, with one file in it and nothing else."""
    root = folder / "x"
    for old in sorted(root.rglob("*"), reverse=True) if root.exists() else ():
        old.rmdir() if old.is_dir() else old.unlink()
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    return _sweep().model_copy(update={"storage": str(folder)})


def _read_trial(content: bytes, folder: Path) -> bool:
    """In a folder that is no cell's, in the cell's own, and where prune looks."""
    known = _sweep().trials()[0].trial_id
    for name in ("0" * len(known), known):
        sweep = _placed(folder, f"{name}/{layout.TRIAL}", content)
        with watched(folder):
            found, left = stored_runs(sweep)
            prune(sweep, "last", dry_run=True)
        assert len(found) + len(left) == 1
        assert all(stored.trial_id == name for stored in found)
    return bool(found)


def _read_external(content: bytes, folder: Path) -> bool:
    sweep = _placed(folder, f"{'0' * 16}/{layout.EXTERNAL}", content)
    with watched(folder):
        found, left = stored_runs(sweep)
    assert len(found) + len(left) == 1
    return bool(found)


def _read_source(content: bytes, folder: Path) -> bool:
    _placed(folder, origins.FILE, content)
    with watched(folder):
        found = origins.noted_external(Folder(str(folder / "x")))
    assert found is None or all(isinstance(text, str) for text in (*found.tags.values(), *found.params.values()))
    return found is not None


def _read_evaluation(content: bytes, folder: Path) -> bool:
    good = Evaluation.model_validate_json(_json_files()["evaluation"][0]).evaluation_id
    sweep = _placed(folder, f"{evaluations.FOLDER}/{good}.json", content)
    with watched(folder):
        try:
            found = evaluations.recorded(sweep)
        except UserError as error:
            assert good in str(error)
            return False
    assert set(found) == {sweep.evaluation.evaluation_id, good}
    return True


def _read_recorded(name: str) -> Any:
    def read(content: bytes, folder: Path) -> bool:
        sweep = _placed(folder, name, content)
        other = TEXT_FILE if name == SWEEP_FILE else SWEEP_FILE
        (folder / "x" / other).write_bytes(_json_files()[other][0])
        with watched(folder):
            try:
                found = recorded.open_sweep("x", recorded.Places(storage=str(folder), tracking_uri="sqlite:////x.db"))
            except UserError as error:
                assert name in str(error), error
                return False
        assert (found.sweep.name, found.sweep.storage) == ("x", sweep.storage)
        return True

    return read


def _read_request(content: bytes, folder: Path) -> bool:
    (folder / "request.json").write_bytes(content)
    with watched(folder):
        try:
            found = Request.read(folder)
        except ValueError:  # as its docstring says; the job's driver tells it in one message
            return False
    assert Request.model_validate_json(found.model_dump_json()) == found
    return True


def _read_result(content: bytes, folder: Path) -> bool:
    (folder / "r.json").write_bytes(content)
    with watched(folder):
        found = kept_result(Folder(str(folder)), "r.json")
    if found is None:
        return False
    assert all(float(value) is not None for value in (*found["values"].values(), found["seconds"]))
    "; ".join(found.get("flags", []))
    return True


def _read_parts(content: bytes, folder: Path) -> bool:
    (folder / "r.parts").write_bytes(content)
    with watched(folder):
        found = KeptParts(Folder(str(folder)), "r.parts")
    assert found.seconds_before + 0.0 is not None
    return bool(found)


def _read_selection(content: bytes, folder: Path) -> bool:
    path = f"{layout.CHECKPOINTS}/{layout.SNAPSHOTS}/{layout.SELECTION}"
    _placed(folder, path, content)
    with watched(folder):
        try:
            found = Contents.of(Folder(str(folder / "x"))).best
        except StorageError as error:
            assert layout.SELECTION in str(error)
            return False
    assert found is None or isinstance(found, int)
    return True


def _read_lease(content: bytes, folder: Path) -> bool:
    _placed(folder, "00000007", content)
    for odd in ("00000008.lock", "\u00b2", "\u0663", "0" * 30, "99", "clock-x"):
        (folder / "x" / odd).write_bytes(content)
    with watched(folder):
        held = Lease(Folder(str(folder / "x")), "x").is_held()
    if content in _json_files()["lease"]:
        assert held is (b"false" in content) and LEASE_SECONDS > 0
    return held


def _read_scratch(content: bytes, folder: Path) -> bool:
    """Whatever the note says, what is removed is a folder that a driver made."""
    _placed(folder, SCRATCH_NOTE, content)
    with watched(folder):
        left = left_scratch(folder / "x")
    assert left is None or (left.name.startswith("flatsweep-") and "\0" not in str(left) and ".." not in left.parts)
    return left is not None


def _read_event(content: bytes, folder: Path) -> bool:
    with watched(folder):
        found = parse_event(content.decode(errors="replace"))
    assert found is None or "event" in found
    return found is not None


_READERS = {
    layout.TRIAL: _read_trial,
    layout.EXTERNAL: _read_external,
    origins.FILE: _read_source,
    "evaluation": _read_evaluation,
    SWEEP_FILE: _read_recorded(SWEEP_FILE),
    TEXT_FILE: _read_recorded(TEXT_FILE),
    "request.json": _read_request,
    "result": _read_result,
    "parts": _read_parts,
    layout.SELECTION: _read_selection,
    "lease": _read_lease,
    "scratch": _read_scratch,
    "event": _read_event,
}


TARGETS = {
    "journal": Target(lambda random: _change_journal(random, _journal(random)), _check_journal),
    "segments": Target(_segments, _check_segments),
    "json": Target(_json_input, _check_json),
}
