"""The list of all packages, and the audit of them, which does not take silence for safety."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import audit

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"


@pytest.mark.slow
def test_the_bill_of_materials_is_valid_and_has_every_locked_package(tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (recipe,) = re.findall(r"(?m)^sbom:.*\n(?:\t.*\n)*", (ROOT / "Makefile").read_text())
    words = " ".join(
        line.strip("\t\\@") for line in recipe.splitlines() if "cyclonedx" in line or line.startswith("\t\t")
    )
    words = words.replace("$(BIN)/python", sys.executable).replace("build/sbom.json", str(tmp_path / "sbom.json"))
    done = subprocess.run(words.split(), cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "sbom.json").read_text()
    content = json.loads(text)
    version = SchemaVersion.from_version(content["specVersion"])
    assert JsonStrictValidator(version).validate_str(text) is None
    listed = {(part["name"], part["version"]) for part in content["components"]}
    locked = set(re.findall(r"(?m)^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK.read_text()))
    assert len(locked) > 100 and listed == locked
    assert all(part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}" for part in content["components"])
    hashes = [item for part in content["components"] for ref in part["externalReferences"] for item in ref["hashes"]]
    assert len(hashes) == LOCK.read_text().count("--hash=sha256:")
    assert content["metadata"]["component"]["name"] == "flatsweep"


@pytest.mark.slow
def test_an_audit_that_cannot_ask_says_so(tmp_path: Path) -> None:
    """Whether the service can be reached from here or not: a vulnerable package is never passed."""
    (tmp_path / "lock").write_text(f"{audit.CANARY} --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, str(ROOT / "tools" / "audit.py"), str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    if done.returncode == 2:
        assert done.stderr.startswith("audit: not done: ") and len(done.stderr.splitlines()) == 1
    else:
        assert done.returncode == 1 and "requests 2.19.0: " in done.stdout


NOT_FOUND = "Dependency not found on PyPI and could not be audited: a (1)"  # as pip-audit 2.10 says it
ANSWERS = {
    "all skipped": {"dependencies": [{"name": "a", "skip_reason": NOT_FOUND}], "fixes": []},
    "nothing": {"dependencies": [], "fixes": []},
    "one skipped": {
        "dependencies": [{"name": "b", "version": "1", "vulns": []}, {"name": "a", "skip_reason": NOT_FOUND}]
    },
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_was_left_out_is_no_good_news(case: str) -> None:
    with pytest.raises(audit.NotAskedError, match=r"of 2 packages were left out"):
        audit.check_complete(ANSWERS[case], ["a", "b"])


def test_what_was_found_is_listed() -> None:
    found = {"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
    answer = {"dependencies": [found, {"name": "b", "version": "2", "vulns": []}]}
    audit.check_complete(answer, ["a", "b"])
    assert audit.vulnerable(answer) == [("a", "1", ["PYSEC-1", "PYSEC-2"])]
