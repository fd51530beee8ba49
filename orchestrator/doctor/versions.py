"""Versions of Python and of the packages, against what flatsweep's own metadata wants."""

import platform
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import orchestrator
from orchestrator.doctor.finding import Finding, Level, Question

CHECK = "versions"
SHOWN = ("torch", "ray", "mlflow")
"""Packages that have a line of their own, whatever their version."""


def findings(_question: Question) -> list[Finding]:
    """Python, flatsweep, `SHOWN`, then what is wrong with any other package."""
    try:
        wanted = requires("flatsweep") or []
        python = metadata("flatsweep")["Requires-Python"] or ""
        installed = version("flatsweep")
    except PackageNotFoundError:
        return [Finding(CHECK, Level.PROBLEM, "flatsweep is not installed, only lies here", "pip install flatsweep")]
    found = [_compared("python", platform.python_version(), python), _own(installed)]
    needed = [Requirement(text) for text in wanted]
    needed = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    needed.sort(key=lambda item: SHOWN.index(item.name) if item.name in SHOWN else len(SHOWN))
    others = 0
    for item in needed:
        one = _package(item)
        if item.name in SHOWN or one.level is not Level.OK:
            found.append(one)
        else:
            others += 1
    return [*found, Finding(CHECK, Level.OK, f"{others} other packages are as wanted")]


def _own(installed: str) -> Finding:
    if installed == orchestrator.__version__:
        return Finding(CHECK, Level.OK, f"flatsweep {installed}")
    what = f"flatsweep {orchestrator.__version__} runs, and {installed} is installed"
    return Finding(CHECK, Level.WARNING, what, "install it again (pip install -e . in a checkout)")


def _package(item: Requirement) -> Finding:
    try:
        return _compared(item.name, version(item.name), str(item.specifier))
    except PackageNotFoundError:
        what = f"{item.name} is not installed; wanted: {item.specifier or 'any'}"
        return Finding(CHECK, Level.PROBLEM, what, f"pip install '{item.name}{item.specifier}'")


def _compared(name: str, is_there: str, wanted: str) -> Finding:
    if SpecifierSet(wanted).contains(is_there, prereleases=True):
        return Finding(CHECK, Level.OK, f"{name} {is_there}")
    mend = f"pip install '{name}{wanted}'" if name != "python" else f"install Python {wanted}"
    return Finding(CHECK, Level.PROBLEM, f"{name} is {is_there}; wanted: {wanted}", mend)
