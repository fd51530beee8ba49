"""Removes from an installation what no container needs, and for VARIANT cpu what torch loads only with a GPU.

Usage: python trim.py gpu|cpu, with the interpreter of the installation. There is no CPU build of torch and torchvision
on the ordinary index; but of the CUDA libraries, torch needs only those that it is linked to. Which these are is asked
of the system, after an import: the files of the packages that this process has mapped.
"""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

LARGE = ("numpy", "pandas", "pyarrow", "scipy", "sklearn")
"""Packages with large tests."""
GPU_ONLY = ("triton",)
"""Packages that compile for GPUs; torch works without."""
PROOF = """
import torch, torchvision
images = torch.randn(2, 3, 8, 8, requires_grad=True)
torchvision.models.resnet18(num_classes=2)(images).sum().backward()
torch.linalg.eigh(torch.eye(3))
assert images.grad is not None
"""
"""Fails where something is missing."""


def main(variant: str) -> None:
    """Trims the installation of this interpreter."""
    packages = Path(importlib.util.find_spec("torch").origin).parents[1]
    for archive in packages.rglob("*.a"):  # for linking, never loaded
        archive.unlink()
    for name in LARGE:
        for tests in sorted((packages / name).rglob("tests")):
            shutil.rmtree(tests, ignore_errors=True)
    if variant == "cpu":
        _remove_gpu(packages)
    subprocess.run([sys.executable, "-c", PROOF], check=True)  # noqa: S603


def _remove_gpu(packages: Path) -> None:
    import torch  # noqa: F401
    import torchvision  # noqa: F401  (both for what they load)

    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    for file in (packages / "nvidia").rglob("*"):
        if file.is_file() and str(file.resolve()) not in mapped:
            file.unlink()
    for name in GPU_ONLY:
        for folder in [packages / name, *packages.glob(f"{name}-*.dist-info")]:
            shutil.rmtree(folder)


if __name__ == "__main__":
    if sys.argv[1:] not in (["gpu"], ["cpu"]):
        sys.exit("VARIANT is gpu or cpu")
    main(sys.argv[1])
