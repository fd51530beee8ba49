"""Fuzz targets: journals, in one file and in segments."""

import json
from functools import cache
from pathlib import Path
from random import Random

import fsspec

from orchestrator import origins
from orchestrator.report.files import training_curves
from tests.faults.fuzz_mutations import bent, changed_json
from tests.faults.fuzz_target import Target
from tests.faults.fuzz_watch import watched
from workers.journal import FILE, Record, line_of, parse, read_records
from workers.storage import Folder

SEPARATOR = b"\x1e"
"""Between files of one input; a file begins with its name and NUL."""


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


TARGETS = {
    "journal": Target(lambda random: _change_journal(random, _journal(random)), _check_journal),
    "segments": Target(_segments, _check_segments),
}
