"""What a fresh interpreter imports for `--help` and `plan`: nothing that takes seconds."""

import json
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


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: text for key, text in os.environ.items() if key not in {"RAY_ADDRESS", "MLFLOW_TRACKING_URI"}}
    return subprocess.run(
        [sys.executable, "-c", CODE, *words], capture_output=True, text=True, cwd=folder, env=environment, timeout=120
    )


def imported(folder: Path, *words: str) -> tuple[str, set[str]]:
    done = start(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"], ["--version"], ["schema"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    said, modules = imported(tmp_path, *words)
    assert said.strip()
    assert not {"torch", "ray", "mlflow", "pandas", "numpy", "scipy", "matplotlib"} & modules


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = "import sys, orchestrator; assert 'load_sweep' in orchestrator.__all__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert not {"torch", "ray", "mlflow", "pandas", "numpy", "pydantic", "matplotlib"} & set(done.stdout.split())


def test_help_names_every_command(tmp_path: Path) -> None:
    said, _ = imported(tmp_path, "--help")
    commands = "init schema plan submit rerun evaluate status logs cancel measure export correlate compare report"
    commands += " doctor sync prune ui server"
    for command in commands.split():
        assert f"\n  {command} " in said


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder with a package that offers a method and says so when it is imported."""
    folder = tmp_path / "packages"
    info = folder / "trap-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trap\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flatsweep.methods]\nsprung = trap:Sprung\n")
    (folder / "trap.py").write_text("raise RuntimeError('the trap is sprung')\n")
    return folder


@pytest.mark.parametrize("words", [["--help"], ["plan", "s.yaml"]], ids=" ".join)
def test_packages_that_offer_components_are_not_imported(
    words: list[str], trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(trap), *filter(None, [os.environ.get("PYTHONPATH")])]))
    _, modules = imported(tmp_path, *words)
    assert "trap" not in modules


def test_the_schema_imports_them_and_warns_of_a_broken_one(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(trap), *filter(None, [os.environ.get("PYTHONPATH")])]))
    done = start(tmp_path, "schema")
    assert done.returncode == 0 and json.loads(done.stdout)
    warning, modules = done.stderr.splitlines()
    assert warning == (
        "method 'sprung' is left out: entry point 'sprung = trap:Sprung' of package trap 1.0 cannot be imported: "
        "RuntimeError: the trap is sprung"
    )
    assert not {"torch", "ray", "mlflow"} & set(modules.split())


def test_plan_of_a_fresh_sweep_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SWEEP)
    said, modules = imported(tmp_path, "plan", "s.yaml")
    assert "2 trials: 2 to run." in said
    assert not {"torch", "ray", "mlflow"} & modules
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]
