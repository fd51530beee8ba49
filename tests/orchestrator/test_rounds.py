"""A sweep that makes way and goes on: what runs in which round."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, cast

import pytest
from rich.console import Console

from orchestrator import rounds
from orchestrator.plan import Entry
from orchestrator.priority import Claim, Turn


@dataclass(frozen=True)
class Named:
    trial_id: str


@dataclass
class Result:
    state: str | None
    error: Exception | None = None

    @property
    def metrics(self) -> dict[str, Any] | None:
        return {"state": self.state} if self.state else None


@dataclass
class Given:
    """Rounds that end as they are told to; `contested` looks are answered in turn."""

    results: list[list[Result]]
    contested: list[Claim | None]
    requested: bool = False
    cancelled: frozenset[str] = frozenset()
    lost_to: Claim | None = None
    ran: list[list[str]] = field(default_factory=list)

    def contested_by(self) -> Claim | None:
        claim = self.contested.pop(0) if self.contested else None
        self.lost_to = self.lost_to and claim
        return claim

    def run(self, entries: Sequence[Entry]) -> list[Result]:
        self.ran.append([entry.trial_id for entry in entries])
        self.lost_to = CLAIM if len(self.results) > 1 else None
        return self.results.pop(0)


CLAIM = Claim("g", "high", 5, (("CPU", 1.0),))
ENTRIES = cast("list[Entry]", [Named("a"), Named("b"), Named("c"), Named("d")])
FINISHED, RUNNING = Result("finished"), Result("running")
LOST = Result("running", RuntimeError("its worker died"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "WAIT_SECONDS", 0)


def run(given: Given) -> tuple[set[str], list[str], str]:
    out = StringIO()
    lost, left = rounds.run_in_rounds(ENTRIES, given.run, cast("Turn", given), given, Console(file=out))
    return lost, [entry.trial_id for entry in left], out.getvalue()


def test_one_round_is_all_without_others() -> None:
    given = Given([[FINISHED, Result("failed"), LOST, FINISHED]], [])
    assert run(given) == ({"c"}, [], "")
    assert given.ran == [["a", "b", "c", "d"]]


def test_the_rest_runs_in_the_next_turn() -> None:
    """Finished, failed and lost trials are through; one that ran, one without a result, one not taken up are not."""
    given = Given([[FINISHED, RUNNING, Result(None)], [LOST, FINISHED, FINISHED]], [None, CLAIM, CLAIM, None])
    lost, left, said = run(given)
    assert given.ran == [["a", "b", "c", "d"], ["b", "c", "d"]]
    assert (lost, left) == ({"b"}, [])
    assert said.count("waiting    until sweep 'high' (priority 5)") == 1 and said.count("going on") == 1


def test_what_a_stop_leaves_does_not_run_again() -> None:
    given = Given([[FINISHED, RUNNING, RUNNING]], [])
    assert run(given)[:2] == (set(), ["b", "c", "d"])
    assert len(given.ran) == 1


def test_stopped_while_it_waits() -> None:
    given = Given([], [CLAIM], requested=False)
    given.contested_by = lambda: setattr(given, "requested", True) or CLAIM  # type: ignore[method-assign]
    assert run(given)[:2] == (set(), ["a", "b", "c", "d"])
    assert given.ran == []


def test_cancelled_trials_do_not_run_again() -> None:
    given = Given([[FINISHED, RUNNING, RUNNING, FINISHED], [FINISHED]], [], cancelled=frozenset("b"))
    assert run(given)[:2] == (set(), [])
    assert given.ran == [["a", "b", "c", "d"], ["c"]]
