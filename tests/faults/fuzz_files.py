"""Fuzz targets: the JSON files of the storage. Results, what a trial is, what a driver noted."""

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from orchestrator import evaluations, origins, recorded
from orchestrator.cluster.request import Options, Request, parse_event
from orchestrator.errors import UserError
from orchestrator.prune import prune
from orchestrator.ray_session import SCRATCH_NOTE, left_scratch
from orchestrator.recorded import SWEEP_FILE, TEXT_FILE
from orchestrator.spec.external import External
from orchestrator.spec.loading import SweepFile
from orchestrator.spec.sweep import Evaluation, Sweep
from orchestrator.stored import stored_runs
from tests.faults.fuzz_mutations import bent, changed_tree
from tests.faults.fuzz_target import Target
from tests.faults.fuzz_watch import watched
from workers import layout
from workers.failures import StorageError
from workers.leases import Lease
from workers.measurement import KeptParts, kept_result
from workers.retention import Contents
from workers.sealed import CHECK, sealed
from workers.storage import Folder


@cache
def _sweep() -> Sweep:
    return Sweep.model_validate(
        {"name": "x", "data": {"name": "digits", "train_size": 60}, "grid": {"methods": ["at"], "seeds": [0]}}
    )


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
        assert held is (b"false" in content)
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


TARGETS = {"json": Target(_json_input, _check_json)}
