"""What a fresh interpreter imports for `--help` and `plan`: nothing that takes seconds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys
from orchestrator import cli
try:
    cli.main()
except SystemExit as end:
    code = end.code
print(*sorted(name for name in sys.modules if "." not in name), file=sys.stderr)
sys.exit(code)
"""
SWEEP = "name: fresh\ngrid:\n  methods: [at, trades]\n  seeds: [0]\n"


def imported(folder: Path, *words: str) -> tuple[str, set[str]]:
    environment = {key: text for key, text in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    done = subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"], ["--version"], ["schema"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    said, modules = imported(tmp_path, *words)
    assert said.strip()
    assert not {"torch", "ray", "mlflow", "pandas", "numpy", "scipy", "matplotlib"} & modules


def test_help_names_every_command(tmp_path: Path) -> None:
    said, _ = imported(tmp_path, "--help")
    for command in ("init", "schema", "plan", "submit", "rerun", "status", "export", "correlate", "ui"):
        assert f"\n  {command} " in said


def test_plan_of_a_fresh_sweep_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    said, modules = imported(tmp_path, "plan", "s.yaml")
    assert "2 trials: 2 to run." in said
    assert not {"torch", "ray", "mlflow"} & modules
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]
