"""Nothing listens beyond this machine unless it was asked to: all sockets of a local submit and of `ui`."""

import signal
from pathlib import Path

import pytest

from tests.e2e.sweeping import Place, wait_for
from tests.processes import Listener, listeners
from tests.serving.test_server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_local_submit(tmp_path: Path) -> None:
    training = {"epochs": 300, "batch_size": 100, "attack": {"eps": 0.15, "steps": 1, "step_size": 0.1}}
    place = Place(
        tmp_path, "quiet", training=training | {"schedule": "constant"}, grid={"methods": ["at"], "seeds": [0]}
    )
    (trial_id,) = place.trials()
    found: set[Listener] = set()
    with place.started("submit") as process:
        # looked at from the start, as what is open for a moment is open too
        def trains() -> bool:
            found.update(listeners(process.pid))
            return place.epochs(trial_id) >= 1 or process.poll() is not None

        wait_for(trains, "an epoch", 300)
        assert process.poll() is None, place.output("stderr")
        found.update(listeners(process.pid))
        process.send_signal(signal.SIGINT)
        process.wait(120)
    names = " ".join(one.command for one in found)
    assert "gcs_server" in names and "raylet" in names and "ray::" in names  # Ray's were among them
    assert [one for one in found if not one.is_loopback] == []


def test_ui(tmp_path: Path) -> None:
    place = Place(tmp_path, "shown")
    from orchestrator.tracking import Store

    store = Store(place.uri, "shown", tmp_path / "artifacts")
    (tmp_path / "runs" / "shown").mkdir(parents=True)
    store.prepare()
    port = free_port()
    with place.started("ui", "--port", str(port)) as process:
        wait_for(lambda: bool(listeners(process.pid)) or process.poll() is not None, "a socket", 200)
        found = listeners(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert [(one.address, one.port) for one in found] == [("127.0.0.1", port)]
