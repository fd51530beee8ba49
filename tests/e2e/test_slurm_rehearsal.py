"""The Slurm guide's job script, rehearsed to the end of a sweep: real Ray on two hosts, Slurm's commands played."""

import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from allocation import Allocation
from hosts import Hosts
from sweeping import Place, environment, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(hosts.why_not() is not None, reason=str(hosts.why_not())),
]
SCRIPT = Path(__file__).parents[2] / "docs/guides/slurm/sweep.sbatch"
NODES = ["n1", "n2"]
EPOCHS = 80
SLOW = {"epochs": EPOCHS, "batch_size": 100, "attack": {"eps": 0.15, "steps": 2, "step_size": 0.05}}


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[tuple[Allocation, Place, dict[str, str]]]:
    """The nodes, a sweep on a disk that they share, and the environment that its user has."""
    with Hosts([*NODES, "login"]) as made, tempfile.TemporaryDirectory(prefix="fss-") as short:
        allocation = Allocation(tmp_path, made, NODES)
        address = f"{made.address('login')}:5000"
        database = f"sqlite:///{tmp_path}/mlflow.db"
        words = [str(Path(sys.executable).with_name("mlflow")), "server", "--host", made.address("login")]
        words += ["--port", "5000", "--workers", "1", "--allowed-hosts", address]
        words += ["--backend-store-uri", database, "--artifacts-destination", str(tmp_path / "artifacts")]
        with (tmp_path / "mlflow.log").open("wb") as log:
            server = subprocess.Popen(
                made.command("login", *words), stdout=log, stderr=log, env=environment(), start_new_session=True
            )
        try:
            made.wait_for_port("login", 5000, server, 400)
            place = Place(tmp_path, "slurm", uri=database, training={**SLOW, "schedule": "constant"})
            yield allocation, place, environment(MLFLOW_TRACKING_URI=f"http://{address}", TMPDIR=short)
        finally:
            server.terminate()
            server.wait(60)


def test_a_job_that_runs_out_of_time_goes_on_when_it_is_queued_again(
    rehearsal: tuple[Allocation, Place, dict[str, str]],
) -> None:
    allocation, place, env = rehearsal
    trials = set(place.trials())
    job = allocation.start(SCRIPT, str(place.file), env=env)
    try:
        wait_for(
            lambda: all(place.epochs(trial) >= 1 for trial in trials) or job.poll() is not None, "both trials", 900
        )
        assert job.poll() is None, allocation.output
        assert stat.S_IMODE(allocation.token.stat().st_mode) == 0o600
        assert stat.S_IMODE(allocation.token.parent.stat().st_mode) == 0o700
        job.send_signal(signal.SIGUSR1)  # Slurm's, five minutes before the end
        assert job.wait(200) == 130, allocation.output
    finally:
        allocation.end(job)
    assert allocation.requeued.read_text() == str(allocation.job)
    assert not allocation.token.parent.exists()
    assert allocation.left() == []
    runs = place.recorded()
    assert {run.tag("state") for run in runs.values()} == {"interrupted"}
    assert {run.tag("host") for run in runs.values()} == set(NODES)
    done = {trial: place.epochs(trial) for trial in trials}
    assert all(1 <= epochs < EPOCHS for epochs in done.values()), done

    allocation.requeued.unlink()
    job = allocation.start(SCRIPT, str(place.file), env=env | {"SLURM_RESTART_COUNT": "1"})
    try:
        assert job.wait(1200) == 0, allocation.output
    finally:
        allocation.end(job)
    assert "start 2" in allocation.output
    assert not allocation.requeued.exists()
    runs = place.recorded()
    assert {(run.status, run.tag("attempt")) for run in runs.values()} == {("FINISHED", "2")}
    assert {trial: place.epochs(trial) for trial in trials} == dict.fromkeys(trials, EPOCHS)
    assert allocation.left() == []


def test_a_mistake_ends_the_job_for_good(rehearsal: tuple[Allocation, Place, dict[str, str]]) -> None:
    allocation, place, env = rehearsal
    place.write(resources={"cpu": 64, "gpu": 0})
    job = allocation.start(SCRIPT, str(place.file), env=env)
    try:
        assert job.wait(900) == 2, allocation.output
    finally:
        allocation.end(job)
    assert "resources: a trial wants 64 CPU" in allocation.output
    assert not allocation.requeued.exists()
    assert not allocation.token.parent.exists()
    assert allocation.left() == []
