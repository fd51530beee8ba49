"""A short run of every fuzz target, always the same one; and the inputs that readers fell over before."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrator.cluster.request import EVENT, Options, Request, parse_event
from orchestrator.driver import HOLDER_FILE, driver_lock
from orchestrator.errors import UserError
from orchestrator.evaluations import Changes, applied
from orchestrator.limits import Limits
from orchestrator.ray_session import SCRATCH_NOTE, left_scratch
from orchestrator.spec.loading import load_sweep_file
from orchestrator.spec.sweep import Evaluation, Sweep
from tests.faults.fuzz import TARGETS, fuzzed, made, quiet
from tests.faults.fuzz_archives import whole_copy
from tests.faults.fuzz_watch import TooSlowError, watched
from workers import layout
from workers.failures import DivergedError, StorageError
from workers.journal import FILE, Journal, Record, line_of, parse, read_records
from workers.layout import best_epoch
from workers.leases import Lease
from workers.measurement import KeptParts, kept_result
from workers.recorder import Recorder
from workers.sealed import sealed, unsealed
from workers.storage import MOVING, Folder
from workers.trial import record_failure

INPUTS = {"sweep": 120, "checkpoint": 100, "arrays": 60, "copy": 100}
"""Of a target in this run; 400 of the others."""


@pytest.fixture
def quietly() -> Iterator[None]:
    import logging
    import warnings

    with warnings.catch_warnings():
        quiet()
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_told_or_left_out(name: str, quietly: None) -> None:
    found = fuzzed(name, INPUTS.get(name, 400), seed=1)
    assert not found.ways
    assert 0 < found.good < found.inputs, "all inputs are alike"


def test_an_input_is_made_from_its_number() -> None:
    assert [made("journal", 0, number) for number in range(20)] == [made("journal", 0, number) for number in range(20)]
    assert made("journal", 0, 3) != made("journal", 1, 3)


@pytest.mark.parametrize(
    "act",
    [
        lambda path: path.write_text("x"),
        lambda path: path.mkdir(),
        lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)),
        lambda path: subprocess.run(["true"], check=True),
        lambda path: np.save(path, np.zeros(2)),
    ],
)
def test_the_watch_sees_what_is_written_and_run(act: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a reader"), watched(tmp_path):
        act(tmp_path / "new")


def test_the_watch_lets_reading_pass_and_ends_what_hangs(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    with watched(tmp_path):
        assert (tmp_path / "x").read_bytes() == b"1"
    with pytest.raises(TooSlowError), watched(tmp_path, seconds=0.1):
        while True:
            pass


# what was found


@pytest.mark.parametrize(
    "text", ["grid: &g\n  <<: *g\n  seeds: [0]\n", "a: &a {<<: *a}\n", "a: &a {b: {<<: [*a, *a]}}\n"]
)
def test_a_mapping_merged_into_itself(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=r"s\.yaml:\d+: nested more than 64 levels deep"):
        load_sweep_file(tmp_path / "s.yaml")


@pytest.mark.parametrize(
    "setting",
    [
        "draws=2001-13-45",
        "draws=2001-01-01T99:00:00Z",
        f"draws={'9' * 5000}",
        "draws=" + "[" * 3000,
        "draws=!!float",
        "draws=\udcff",
        "draws=!!python/object/apply:os.system [ls]",
        "draws=&a [*a]",
    ],
)
def test_a_setting_that_yaml_stumbles_over(setting: str) -> None:
    evaluation = Evaluation.model_validate({"measures": ["average_flatness"]})
    with pytest.raises(UserError):
        applied(evaluation, Changes(settings=(setting,)))
    with pytest.raises(UserError):
        applied(evaluation, Changes(measures="[" + setting.removeprefix("draws=")))


def test_a_setting_is_read_as_in_a_sweep_file() -> None:
    """YAML 1.1 takes 1e-3 for a text, and 1:30 for ninety."""
    assert yaml.safe_load("1e-3") == "1e-3" and yaml.safe_load("1:30") == 90
    found = applied(Evaluation.model_validate({"measures": ["average_flatness"]}), Changes(settings=("xi=[1e-3]",)))
    assert json.loads(found.model_dump_json())["measures"][0]["xi"] == [0.001]


GOOD = Record("metric", "train/loss", 0.5, 1, time_ms=5)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"kind": [], "key": "a", "time_ms": 1}',
        b'{"kind": "metric", "key": [1], "value": 1.0, "step": 1, "text": "", "time_ms": 1}',
        b'{"kind": "metric", "key": "a", "value": "1", "step": 1, "text": "", "time_ms": 1}',
        b'{"kind": "metric", "key": "a", "value": 1.0, "step": 1e3, "text": "", "time_ms": 1}',
        b'{"kind": "metric", "key": "a", "value": 1.0, "step": 18446744073709551616, "text": "", "time_ms": 1}',
        b'{"kind": "metric", "key": "a", "value": 1.0, "step": true, "text": "", "time_ms": 1}',
        b'{"kind": "metric", "key": "a", "value": 1' + b"0" * 400 + b', "step": 1, "text": "", "time_ms": 1}',
        b'{"kind": "state", "key": "state", "value": 0.0, "step": 0, "text": "flying", "time_ms": 1}',
        line_of(GOOD).rstrip().replace(b"0.5", b"0.7"),
    ],
)
def test_a_line_that_is_no_record(line: bytes) -> None:
    content = line_of(GOOD) + line + b"\n" + line_of(GOOD)
    assert parse(content) == ([GOOD, GOOD], line_of(GOOD) * 2)


def test_a_line_of_an_earlier_version_has_no_checksum() -> None:
    line = b'{"kind": "metric", "key": "a", "value": 1.5, "step": 2, "text": "", "time_ms": 3}\n'
    assert parse(line) == ([Record("metric", "a", 1.5, 2, time_ms=3)], line)


def test_every_tipped_bit_of_a_line_is_noticed() -> None:
    line = line_of(GOOD)
    for place in range(len(line)):
        for bit in range(8):
            damaged = line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]
            assert all(record == GOOD for record in parse(damaged)[0]), damaged


def test_a_torn_segment_costs_no_line_of_the_next() -> None:
    folder = Folder("memory://test-fuzz-torn")
    other = Record("tag", "a", text="b", time_ms=6)
    (folder / FILE).write("00000001-00000001", line_of(GOOD)[:-9])
    (folder / FILE).write("00000002-00000002", line_of(other))
    assert read_records(folder) == [other]


def test_text_that_no_store_takes(tmp_path: Path) -> None:
    """A path with bytes that are no UTF-8, in an error's message."""
    folder = Folder(str(tmp_path))
    recorder = Recorder(folder)
    record_failure(DivergedError("in \udcff"), folder, recorder)
    texts = {record.key: record.text for record in Journal(folder).records}
    assert texts["error"] == "DivergedError: in \\udcff" and texts["state"] == "failed"
    assert b"in \\udcff" in folder.read(layout.ERROR)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"values": {"a": "b"}, "seconds": 1}']
)
def test_a_damaged_result_is_measured_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(content)
    folder = Folder(str(tmp_path))
    assert kept_result(folder, "r") is None
    assert dict(KeptParts(folder, "r")) == {}
    with pytest.raises(ValueError, match=r"damaged|Expecting|no mapping|missing|decode|deeply|utf"):
        best_epoch(content)


def test_a_tipped_digit_of_a_result_is_noticed(tmp_path: Path) -> None:
    content = sealed({"values": {"a": 1.5}, "seconds": 0.5})
    assert unsealed(content, values=dict) == {"values": {"a": 1.5}, "seconds": 0.5}
    (tmp_path / "r").write_bytes(content.replace(b"1.5", b"1.7"))
    assert kept_result(Folder(str(tmp_path)), "r") is None


def test_names_that_look_like_numbers_of_leases(tmp_path: Path) -> None:
    for name in ("\u00b2", "\u0663", "9" * 30):
        (tmp_path / name).write_bytes(b"{}")
    assert not Lease(Folder(str(tmp_path)), "x").is_held()


@pytest.mark.parametrize("content", [b"\xff", b"../../x", b"\0"])
def test_a_note_of_a_move_that_leads_elsewhere(content: bytes) -> None:
    folder = Folder("memory://test-fuzz-moves")
    folder.write("a/b", b"1")
    folder.write(MOVING + "a", content)
    with pytest.raises(StorageError, match=r"\.moving-a is damaged"):
        folder.finish_moves()
    assert folder.read("a/b") == b"1"


def test_a_scratch_note_that_is_no_path(tmp_path: Path) -> None:
    for content in (b"\xff\xfe", b"/tmp/flatsweep-\0x", b""):
        (tmp_path / SCRATCH_NOTE).write_bytes(content)
        left = left_scratch(tmp_path)
        assert left is None or not left.exists()


def test_a_holder_that_is_no_text(tmp_path: Path) -> None:
    sweep = Sweep.model_validate({"name": "x", "grid": {"methods": ["at"], "seeds": [0]}, "storage": str(tmp_path)})
    with driver_lock(sweep):
        (tmp_path / "x" / HOLDER_FILE).write_bytes(b"\xff\xfe")
        with pytest.raises(UserError, match="is being run by"), driver_lock(sweep):
            pass


def test_profiles_that_are_no_value_are_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\ndata: {name: digits}\nprofiles: !!timestamp {small: {training: {epochs: 1}}}\n")
    with pytest.raises(UserError, match=r"s\.yaml:3:") as raised:
        load_sweep_file(path, "small")
    assert "small" not in str(raised.value).replace(path.name, "")


@pytest.mark.parametrize("key", ["values", "seconds"])
def test_numbers_that_no_float_can_be_are_damage(key: str, tmp_path: Path) -> None:
    good = {"values": {"a": 1.5}, "seconds": 2}
    too_large = "1" + "0" * 400
    text = json.dumps(good | {key: {"a": "?"} if key == "values" else "?"}).replace('"?"', too_large)
    (tmp_path / "r.json").write_text(text)
    assert kept_result(Folder(str(tmp_path)), "r.json") is None
    (tmp_path / "r.json").write_text(text.replace(too_large, "1" + "0" * 307))
    assert kept_result(Folder(str(tmp_path)), "r.json") is not None


def test_an_event_that_is_nested_too_deeply_is_none() -> None:
    assert parse_event(EVENT + '{"event": ' + '{"a":' * 10_000 + "1" + "}" * 10_001) is None


def test_a_request_with_limits_that_cannot_be_is_not_understood(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\ndata: {name: digits}\ngrid: {methods: [at], seeds: [0]}\n")
    request = Request.of("submit", load_sweep_file(path), Options(limits=Limits(max_hours=1.5)))
    request.write(tmp_path)
    assert Request.read(tmp_path) == request
    sent = tmp_path / "request.json"
    sent.write_text(sent.read_text().replace('"max_hours":1.5', '"max_hours":0'))
    with pytest.raises(ValueError, match="max-hours 0"):
        Request.read(tmp_path)


def test_any_bit_that_tips_in_the_local_copy_is_noticed(tmp_path: Path, quietly: None) -> None:
    whole = whole_copy()
    check = TARGETS["copy"].check
    assert check(whole, tmp_path)
    for place in range(0, len(whole), 5):
        tipped = whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        assert not check(tipped, tmp_path), place
