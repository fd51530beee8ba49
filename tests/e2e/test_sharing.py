"""Sweeps that share a cluster: kinds of nodes, fractions of a GPU, a cap on trials, priorities, a limit of time."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from clusters import cluster, node_of
from sweeping import BASE, Place, alive, wait_for

from workers.layout import parse_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    nodes: dict[str, Any] = {
        "plain": {"num_cpus": 4, "resources": {"lane": 1}},
        "fast": {"num_cpus": 4, "num_gpus": 1, "resources": {"accelerator_type:H100": 1}},
        "old": {"num_cpus": 4, "num_gpus": 1, "resources": {"accelerator_type:T4": 1}},
    }
    with cluster(**nodes) as found:
        yield found


def place(folder: Path, name: str, epochs: int, seeds: int = 1, **resources: Any) -> Place:
    grid = {"methods": ["at"], "seeds": list(range(seeds))}
    return Place(folder, name, training=BASE["training"] | {"epochs": epochs}, grid=grid, resources=resources)


def times(place: Place, trial_id: str) -> list[tuple[str, int]]:
    """The trial's states with the moments, in ms, when it came to them."""
    return [(record.text, record.time_ms) for record in place.journal(trial_id) if record.kind == "state"]


def states(place: Place, trial_id: str) -> list[str]:
    return [state for state, _ in times(place, trial_id)]


def most_at_once(place: Place) -> int:
    changes = []
    for trial_id in place.trials():
        (_, start), (_, end) = times(place, trial_id)
        changes += [(start, 1), (end, -1)]
    running = [0]
    for _, change in sorted(changes):
        running.append(running[-1] + change)
    return max(running)


def test_half_a_gpu_of_one_kind(address: str, tmp_path: Path) -> None:
    """Two trials at once, all of them on the one node of three that has the GPU they ask for."""
    half = place(tmp_path, "half", 60, 3, cpu=1, gpu=0.5, accelerator_type="H100")
    found: dict[str, str] = {}

    def look() -> bool:
        for trial_id in half.trials():
            pid = half.journal_tag(trial_id, "pid")
            if pid and trial_id not in found and alive(int(pid)):
                found[trial_id] = node_of(int(pid))
        return len(found) == 3 or process.poll() is not None

    with half.started("submit", "--address", address) as process:
        wait_for(look, "the three trials")
        assert process.wait(400) == 0, half.output("stderr")
    assert set(found.values()) == {"fast"} and len(found) == 3
    assert most_at_once(half) == 2
    assert half.output("stdout").count("asks for a GPU, but PyTorch sees none") == (not torch.cuda.is_available())


def test_a_kind_that_no_node_is(address: str, tmp_path: Path) -> None:
    wrong = place(tmp_path, "wrong", 1, gpu=1, accelerator_type="h100", custom={"lanes": 1})
    done = wrong.run("submit", "--address", address, timeout=200)
    assert done.returncode == 2
    assert "a trial wants 1 CPU, 1 GPU, type h100 and 1 lanes on one node; nodes have: " in done.stderr
    assert "4 CPU, 0 GPU and 1 lane;" in done.stderr and "4 CPU, 1 GPU and type T4" in done.stderr
    assert "No node is of type 'h100'; did you mean 'H100'?" in done.stderr
    assert not wrong.runs()


def test_one_at_a_time(address: str, tmp_path: Path) -> None:
    one = place(tmp_path, "one", 2, 4, max_concurrent=3)
    done = one.run("submit", "--address", address, "--max-concurrent", "1")
    assert done.returncode == 0, done.stderr
    assert most_at_once(one) == 1
    starts = [times(one, trial_id)[0] for trial_id in one.trials()]
    assert starts == sorted(starts, key=lambda start: start[1])  # in the order of the plan
    assert len({one.journal_tag(trial_id, "pid") for trial_id in one.trials()}) == 1  # on one warm worker


def test_the_file_s_cap(address: str, tmp_path: Path) -> None:
    two = place(tmp_path, "two", 30, 4, max_concurrent=2)
    done = two.run("submit", "--address", address)
    assert done.returncode == 0, done.stderr
    assert most_at_once(two) == 2


def test_time_is_used_up(address: str, tmp_path: Path) -> None:
    long = place(tmp_path, "long", 100_000, 2, custom={"lane": 1})
    running, waiting = long.trials()
    done = long.run("submit", "--address", address, "--max-hours", str(60 / 3600), "--json")
    assert done.returncode == 3, done.stderr
    assert "hours are used up" in done.stderr
    said = json.loads(done.stdout)
    assert (said["interrupted"], said["stopped_by"]) == (True, "max_hours")
    assert {trial["trial_id"]: trial["action"] for trial in said["trials"]} == {running: "resume", waiting: "run"}
    assert states(long, running) == ["running", "interrupted"]
    parsed = parse_checkpoint(max(long.files(running, "checkpoints")))
    assert parsed is not None and parsed[0] == long.epochs(running)
    assert long.recorded()[running].status == "KILLED"
    (parent,) = long.runs("sweep")
    assert parent.info.status == "KILLED"


def test_the_higher_priority_goes_first(address: str, tmp_path: Path) -> None:
    """One lane, which a low sweep has: it makes way for a high one, and goes on when that is through, or dead."""
    low = place(tmp_path, "low", 100_000, custom={"lane": 1})
    quick = place(tmp_path, "quick", 2, custom={"lane": 1})
    killed = place(tmp_path, "killed", 100_000, custom={"lane": 1})
    equal = place(tmp_path, "equal", 2, custom={"lane": 1})
    ((low_id,), (quick_id,), (killed_id,), (equal_id,)) = (list(one.trials()) for one in (low, quick, killed, equal))
    with low.started("submit", "--address", address) as driver:
        wait_for(lambda: low.epochs(low_id) > 1 or driver.poll() is not None, "epochs of the low sweep")
        done = quick.run("submit", "--address", address, "--priority", "2", timeout=300)
        assert done.returncode == 0, done.stderr
        (_, started), (_, finished) = times(quick, quick_id)
        wait_for(lambda: len(states(low, low_id)) == 3, "the low sweep's next turn")
        assert states(low, low_id) == ["running", "interrupted", "running"]
        assert times(low, low_id)[1][1] <= started and finished <= times(low, low_id)[2][1]
        trained = low.epochs(low_id)
        with killed.started("submit", "--address", address, "--priority", "1") as high:
            wait_for(lambda: killed.epochs(killed_id) > 1 or high.poll() is not None, "epochs of the high sweep")
            assert states(low, low_id)[-1] == "interrupted"
            high.kill()
        wait_for(lambda: states(low, low_id)[3:] == ["interrupted", "running"], "a turn after the high driver's death")
        wait_for(lambda: low.epochs(low_id) > trained + 1, "more epochs of the low sweep")
        with equal.started("submit", "--address", address) as other:  # waits for its turn, which does not come
            wait_for(lambda: len(equal.runs()) == 1, "its run")
            wait_for(lambda: low.epochs(low_id) > trained + 60, "more epochs of the low sweep")
            assert states(equal, equal_id) == []
            other.send_signal(signal.SIGINT)
            assert other.wait(100) == 130
        assert len(states(low, low_id)) == 5
        driver.send_signal(signal.SIGINT)
        assert driver.wait(100) == 130
    assert "waiting    until sweep 'quick' (priority 2)" in low.output("stdout")
    assert "going on   no sweep of a higher priority waits" in low.output("stdout")
    # each turn went on where the one before stopped: every epoch once, in order
    steps = [record.step for record in low.journal(low_id) if record.key == "train/loss"]
    assert steps == list(range(1, len(steps) + 1))
