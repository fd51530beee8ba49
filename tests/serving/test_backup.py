"""A store on Postgres, saved and put back as docs/tracking-server.md says: every table comes back as it was."""

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import psycopg
import pytest

from orchestrator.analysis.table import read_table
from orchestrator.sink import RunSink
from orchestrator.spec.loading import load_sweep_file
from orchestrator.tracking import Store
from tests.postgres import NO_PROGRAMS, private_postgres, programs
from workers.journal import Record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(programs() is None or not shutil.which("pg_restore"), reason=NO_PROGRAMS),
]

DOCS = Path(__file__).parents[2] / "docs" / "tracking-server.md"


def commands() -> list[str]:
    """The lines of the section on saving and putting back that begin with Postgres' programs."""
    (section,) = re.findall(r"(?m)^## Save and put back\n(.*?)(?=^## )", DOCS.read_text(), re.DOTALL)
    return re.findall(r"(?m)^\$ ((?:pg_dump|dropdb|createdb|pg_restore) .*)$", section)


def tables(uri: str) -> int:
    with contextlib.closing(psycopg.connect(uri)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'")
        return int(cursor.fetchone()[0])


def test_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.yaml").write_text("name: s\ngrid: {methods: [at, trades], seeds: [0, 1]}\n")
    sweep = load_sweep_file(tmp_path / "s.yaml").sweep
    with private_postgres() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.database("mlflow"))
        store = Store.of(sweep)
        store.prepare()
        parent = store.open_parent(sweep, "text", "")
        for number, trial in enumerate(sweep.trials()):
            run_id = store.create_trial_run(trial, sweep.evaluation, "s", parent, "")
            values = [Record("metric", "robust_loss_gap", value=number / 7), Record("tag", "note", text="'\u00fc\\")]
            values.append(Record("tag", "evaluation_id", text=sweep.evaluation.evaluation_id))
            RunSink(store.uri, run_id).send([*values, Record("state", "state", text="finished")])
        before, runs = read_table(sweep, store, fresh=True), store.trial_runs("s")
        assert len(before) == 4 and before["robust_loss_gap"].tolist() == [0, 1 / 7, 2 / 7, 3 / 7]
        whole = urlsplit(server.uri())
        where = {"PGHOST": whole.hostname, "PGPORT": str(whole.port), "PGUSER": whole.username}
        env = os.environ | where | {"PGPASSWORD": server.password}
        lines = commands()
        assert [line.split()[0] for line in lines] == ["pg_dump", "dropdb", "createdb", "pg_restore"]
        store.client._tracking_client.store.engine.dispose()
        for line in lines:
            subprocess.run(line, shell=True, check=True, cwd=tmp_path, env=env, timeout=100)
            if line.startswith("createdb"):
                assert tables(server.uri("mlflow")) == 0  # nothing is left of it
        again = Store.of(sweep)
        pd.testing.assert_frame_equal(read_table(sweep, again, fresh=True), before)
        assert again.trial_runs("s") == runs
