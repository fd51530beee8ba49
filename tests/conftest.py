"""What several folders of tests share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.spec.sweep import Sweep
from orchestrator.tracking import Store
from orchestrator.tracking_place import database_file, tracking_uri

# the tracking servers that tests start run no jobs of MLflow's own, for which each would start eight processes more
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"


class Installer:
    """Builds and installs packages as users do, but without network: the build backend is at hand."""

    OPTIONS = (
        "--isolated",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    )

    def install(self, source: Path, target: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", *self.OPTIONS, "--target", str(target), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installer() -> Installer:
    return Installer()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's schema and nothing in it, to be copied: making one takes seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture(scope="session", autouse=True)
def _copied_stores(request: pytest.FixtureRequest) -> Iterator[None]:
    """A new SQLite store of a sweep, in this process, is a copy of the empty one."""
    opened = Store.of

    def of(sweep: Sweep) -> Store:
        file = database_file(tracking_uri(sweep))
        if file is not None and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(request.getfixturevalue("empty_store"), file)
        return opened(sweep)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Store, "of", of)
        yield
