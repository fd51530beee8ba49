"""The journal: what was added is there at the next opening, except a line that a crash cut short."""

import json
import logging
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.journal import FILE, Journal, Record, parse
from workers.storage import Folder

PARTS = {"key": st.text(max_size=8), "value": st.floats(allow_nan=False), "step": st.integers(0, 5)}
STATES = st.sampled_from(["pending", "running", "interrupted", "finished", "failed"])
RECORDS = st.one_of(
    st.builds(Record, kind=st.sampled_from(["metric", "tag"]), text=st.text(max_size=20), **PARTS),
    st.builds(Record, kind=st.just("state"), text=STATES, **PARTS),
)


def first_of_each(records: list[Record]) -> list[Record]:
    """A plain model of what a journal keeps."""
    kept, seen = [], set()
    for record in records:
        if record.kind == "metric" and (record.key, record.step) in seen:
            continue
        if record.kind == "metric":
            seen.add((record.key, record.step))
        kept.append(record)
    return kept


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.lists(RECORDS, max_size=5), max_size=5))
def test_reopened_it_holds_the_first_of_each(
    calls: list[list[Record]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, everything = Folder(str(tmp_path_factory.mktemp("journal"))), []
    journal = Journal(folder)
    for number, call in enumerate(calls):
        expected = first_of_each(everything + call)[len(first_of_each(everything)) :]
        assert journal.add(call) == expected
        everything += call
        if number % 2:
            journal = Journal(folder)
    assert Journal(folder).records == journal.records == first_of_each(everything)
    lines = folder.read(FILE).decode().split("\n") if folder.exists(FILE) else [""]
    assert [json.loads(line)["key"] for line in lines[:-1]] == [r.key for r in journal.records] and lines[-1] == ""


@settings(max_examples=40, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=4), data=st.data())
def test_a_torn_last_line_is_dropped_and_mended(
    records: list[Record], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = Folder(str(tmp_path_factory.mktemp("journal")))
    kept = Journal(folder).add(records)
    content = folder.read(FILE)
    last = content[:-1].rfind(b"\n") + 1
    cut = data.draw(st.integers(last, len(content) - 1))
    folder.write(FILE, content[:cut])
    journal = Journal(folder)
    assert journal.records == kept[:-1]
    assert folder.read(FILE) == content[:last]
    added = Record("tag", "after", text="the crash")
    assert journal.add([added]) == [added]
    assert Journal(folder).records == [*kept[:-1], added]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b'{"kind": "metric", "colour": 1}', b"\xff\xfe", b"null", b""])
def test_a_damaged_line_in_the_middle_costs_only_itself(
    line: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(str(tmp_path))
    records = [Record("metric", "loss", value=1.0, step=step) for step in range(3)]
    Journal(folder).add(records)
    lines = folder.read(FILE).splitlines(keepends=True)
    folder.write(FILE, lines[0] + line + b"\n" + b"".join(lines[1:]))
    with caplog.at_level(logging.WARNING):
        assert Journal(folder).records == records
    assert "line 2" in caplog.text


def test_a_metric_keeps_its_first_value_and_a_tag_its_last(tmp_path: Path) -> None:
    journal = Journal(Folder(str(tmp_path)))
    journal.add([Record("metric", "loss", value=1.0, step=1), Record("tag", "host", text="a")])
    assert journal.add([Record("metric", "loss", value=2.0, step=1)]) == []
    journal.add([Record("metric", "loss", value=3.0, step=2), Record("tag", "host", text="b")])
    assert journal.values("loss") == [1.0, 3.0]
    assert [r.text for r in journal.records if r.kind == "tag"] == ["a", "b"]


def test_values_that_are_not_finite_survive(tmp_path: Path) -> None:
    Journal(Folder(str(tmp_path))).add([Record("metric", "x", value=float("inf"), step=0)])
    records, _ = parse(Folder(str(tmp_path)).read(FILE))
    assert records[0].value == float("inf")


def test_not_a_number_is_replaced_by_another_value_only(tmp_path: Path) -> None:
    journal = Journal(Folder(str(tmp_path)))
    nan = Record("metric", "path_norm", value=math.nan)
    assert journal.add([nan], replace=True) == [nan]
    assert journal.add([Record("metric", "path_norm", value=math.nan)], replace=True) == []
    assert len(journal.add([Record("metric", "path_norm", value=1.0)], replace=True)) == 1
    assert len(journal.add([nan], replace=True)) == 1
