"""What MLflow would print between our own lines."""

import pytest
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR as BARS

from orchestrator.tracking_place import quiet


def test_a_file_from_a_server_comes_without_bars_unless_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BARS.name, "true")
    quiet()
    assert BARS.get() is True
    monkeypatch.delenv(BARS.name)
    assert BARS.get() is True  # MLflow's own default
    quiet()
    assert BARS.get() is False
