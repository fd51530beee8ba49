"""Public packages that the benchmarks compare with, and that flatsweep itself does not need.

`make bench` installs `benchmarks/requirements.txt` into `build/peers`, beside the locked packages and not among them.
"""

import importlib
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "build" / "peers"


def peer(name: str) -> ModuleType | None:
    """The package, imported; None where it is not installed, which one sentence then says."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        print(f"{name} cannot be imported ({missing}), so its rows are left out; `make bench` gets it")
        return None


def titled(name: str) -> str:
    """Name and version."""
    return f"{name} {version(name)}"
