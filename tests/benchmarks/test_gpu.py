"""The benchmark for machines with a GPU, in small on the CPU, with nothing but what it says it needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ABSENT = (
    *("ray", "mlflow", "rich", "typer", "yaml", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow", "packaging"),
    *("threadpoolctl", "curvlinops", "pyautoattack", "safetensors", "platformdirs", "torchattacks", "foolbox"),
)


def test_runs_with_torch_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--no-compile", "--repetitions", "1"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    for title in ("AT step, batch 8", "average flatness, 2 draws", "2 trials, 2 steps each"):
        assert title in done.stdout
    assert re.search(r"in all; fast paths agree$", done.stdout.strip())
    assert "s an epoch" in done.stdout and "floor: " in done.stdout
