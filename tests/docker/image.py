"""Builds the image from docker/Dockerfile without a container engine: buildah, on a base that debootstrap makes."""

import configparser
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composing import DOCKERFILE, ROOT

SUITE = "bookworm"
"""The Debian that the Dockerfile begins with."""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
REUSE = "FLATSWEEP_TEST_IMAGES"
"""Names a folder where base and layers are kept for the next run; without it they are made anew and removed."""
NEEDS = ("buildah", "debootstrap", "unshare", "nsenter")


def why_not() -> str | None:
    """Why no image can be built here; None where one can."""
    if os.geteuid() != 0:
        return "only root can build an image and enter it"
    missing = [name for name in NEEDS if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)}, as in Debian's packages buildah, debootstrap and util-linux"
    return None if mirror() else "needs a mirror of Debian, such as apt is configured with"


def mirror() -> str | None:
    """Where apt finds Debian's packages on this machine."""
    words = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(COMPONENT)", "Identifier: Packages"]
    if shutil.which(words[0]) is None:
        return None
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = [line.split() for line in done.stdout.splitlines()]
    found = [parts for parts in found if len(parts) == 3 and parts[0] == "Debian" and parts[2] == "main"]
    return next((uri for _, uri, _ in found if "security" not in uri), None)


@dataclass(frozen=True)
class Image:
    """A built image, laid open as a folder."""

    root: Path
    """Its files. Containers look at them and write elsewhere."""
    config: dict[str, Any]
    """As Docker keeps it: Env, User, WorkingDir, Cmd, Healthcheck."""

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])

    @property
    def user(self) -> tuple[int, int]:
        owner, group = self.config["User"].split(":")
        return int(owner), int(group)


class Builder:
    """Buildah with storage of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self._env = os.environ | {"TMPDIR": str(folder / "tmp"), "BUILDAH_ISOLATION": "chroot"}
        self._words = ["buildah", "--root", folder / "root", "--runroot", folder / "run", "--storage-driver"]
        self._words.append(self._driver())

    def _driver(self) -> str:
        """overlay where it works, as vfs copies every layer whole; or what buildah's own STORAGE_DRIVER says."""
        if given := os.environ.get("STORAGE_DRIVER"):
            return given
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            words = ["buildah", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "overlay"]
            tried = subprocess.run([*words, "info"], env=self._env, capture_output=True, check=False)
        return "vfs" if tried.returncode else "overlay"

    def run(self, *words: object, show: bool = False) -> str:
        """Buildah's answer; its words go to the terminal where they are to be shown."""
        command = [str(word) for word in [*self._words, *words]]
        done = subprocess.run(command, stdout=None if show else subprocess.PIPE, text=True, env=self._env, check=True)
        return (done.stdout or "").strip()

    def base(self) -> str:
        """A Debian with nothing in it, as an image; its name."""
        name = f"localhost/flatsweep-test-{SUITE}:base"
        if self.run("images", "--quiet", "--filter", f"reference={name}"):
            return name
        folder, where = self._folder / "base", mirror()
        assert where
        with (self._folder / "debootstrap.log").open("wb") as log:
            subprocess.run(
                ["debootstrap", "--variant=minbase", SUITE, str(folder), where], stdout=log, stderr=log, check=True
            )
        container = self.run("from", "scratch")
        self.run("add", "--quiet", container, folder, "/")
        self.run("commit", "--quiet", "--rm", container, name)
        shutil.rmtree(folder)
        return name

    def build(self, variant: str, commit: str) -> str:
        """The image from this tree, with the settings for package indexes that this machine has; its name."""
        name = f"localhost/flatsweep-test:{variant}"
        with tempfile.TemporaryDirectory() as folder:
            secrets = [f"--secret=id={id},src={file}" for id, file in _settings(Path(folder)).items()]
            arguments = {"BASE": self.base(), "VARIANT": variant, "COMMIT": commit}
            words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
            layers = "--layers" if os.environ.get(REUSE) else "--layers=false"
            self.run(
                "build", "--format", "docker", layers, *words, *secrets, "--tag", name, "--file", DOCKERFILE, ROOT,
                show=True,
            )  # fmt: skip
        return name

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[Image]:
        """The image's files and settings."""
        about = json.loads(self.run("inspect", "--type", "image", name))
        container = self.run("from", "--pull-never", name)
        try:
            yield Image(Path(self.run("mount", container)), about["Docker"]["config"])
        finally:
            self.run("umount", container)
            self.run("rm", container)


@contextlib.contextmanager
def built(variant: str, commit: str) -> Iterator[Image]:
    """The image, for the time of the block."""
    kept = os.environ.get(REUSE)
    folder = Path(kept) if kept else Path(tempfile.mkdtemp(prefix="fs-images-"))
    builder = Builder(folder)
    try:
        with builder.opened(builder.build(variant, commit)) as image:
            yield image
    finally:
        if not kept:
            builder.run("rm", "--all")
            builder.run("rmi", "--all", "--force")
            shutil.rmtree(folder)


def _settings(folder: Path) -> dict[str, Path]:
    """What pip, uv and TLS need to reach packages from here, as files for the build's secrets."""
    found = {"ca.crt": CERTIFICATES} if CERTIFICATES.exists() else {}
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    given = dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)
    # folders of this machine are not there during the build, and a variable wins over a file
    index = given.get(":env:.index-url") or given.get("global.index-url")
    pip = configparser.ConfigParser(interpolation=None)
    pip["global"] = {"cert": str(CERTIFICATES), "timeout": "180"}
    if index:
        pip["global"]["index-url"] = index.strip("'")
        (folder / "uv.toml").write_text(f"[[index]]\nurl = {json.dumps(index.strip(chr(39)))}\ndefault = true\n")
        found["uv.toml"] = folder / "uv.toml"
    with (folder / "pip.conf").open("w") as file:
        pip.write(file)
    found["pip.conf"] = folder / "pip.conf"
    return found
