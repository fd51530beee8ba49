"""A cluster that dies in parts: the raylet of the node that has a trial, then the whole head. Nothing is lost."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clusters import add_node, head, node_of
from sweeping import BASE, Place, alive, wait_for
from undisturbed import as_undisturbed, slowly, went_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

EPOCHS = 40
EPOCH_SECONDS = 2.0
RECONNECT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}
"""After so many seconds without the head Ray ends its processes; a minute by default."""


@dataclass
class Cluster:
    """A head without places for trials, and two nodes."""

    made: Any
    nodes: dict[str, Any]

    def kill_raylet(self, node: Any) -> None:
        """And takes it off the list of processes: as long as it is there, its workers believe that it lives."""
        process = node.all_processes["raylet"][0].process
        process.kill()
        process.wait(30)

    def kill_head(self) -> None:
        """All of its processes at once, the store of the cluster's state among them."""
        for processes in self.made.head_node.all_processes.values():
            for one in processes:
                one.process.kill()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cluster]:
    """Its workers have the environment of its nodes, not that of who submits."""
    for key, text in (RECONNECT | slowly(tmp_path, EPOCHS, EPOCH_SECONDS)).items():
        monkeypatch.setenv(key, text)
    with head() as made:
        nodes = {name: add_node(made, name, num_cpus=1) for name in ("one", "two")}
        made.wait_for_nodes()
        yield Cluster(made, nodes)


def test_a_raylet_is_killed_then_the_head(cluster: Cluster, tmp_path: Path) -> None:
    grid = {"methods": ["at"], "seeds": [0]}
    place = Place(tmp_path, "dying", training=BASE["training"] | {"epochs": EPOCHS}, grid=grid, resources={"cpu": 1})
    (trial_id,) = place.trials()
    with place.started("submit", "--address", str(cluster.made.address)) as process:
        wait_for(lambda: place.epochs(trial_id) >= 2 or process.poll() is not None, "two epochs", 600)
        worker = int(place.journal_tag(trial_id, "pid"))
        first = node_of(worker)
        cluster.kill_raylet(cluster.nodes[first])
        before = place.epochs(trial_id)
        wait_for(lambda: not alive(worker), "the end of the node's worker", 120)
        wait_for(
            lambda: process.poll() is not None or (place.attempts(trial_id), place.epochs(trial_id)) >= (2, before + 2),
            "two more epochs on the other node", 300,
        )  # fmt: skip
        second = int(place.journal_tag(trial_id, "pid"))
        assert {first, node_of(second)} == {"one", "two"}
        assert place.epochs(trial_id) < EPOCHS
        cluster.kill_head()
        code = process.wait(200)
    assert code != 0, "the driver noticed"
    wait_for(lambda: not alive(second), "the end of the worker", 120)
    assert place.epochs(trial_id) < EPOCHS
    done = place.run("submit")  # on a Ray of its own
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.attempts(trial_id) == 3
    assert len(firsts := went_on(place, trial_id)) == 2 and all(1 < epoch <= EPOCHS for epoch in firsts)
    as_undisturbed(place, tmp_path / "alone")
