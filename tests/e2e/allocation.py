"""A Slurm allocation played by hosts of our own: stand-ins for `srun` and `scontrol`, and what sbatch sets."""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from hosts import Hosts
from sweeping import processes

BIN = Path(sys.executable).parent

SRUN = """\
#!{python}
'''srun: one task on one node, which is a network namespace; SIGTERM goes to the whole task, as slurmstepd sends it.'''
import json, os, signal, subprocess, sys

words = sys.argv[1:]
options = []
while words and words[0].startswith("--"):
    options.append(words.pop(0))
given = dict(option[2:].split("=", 1) for option in options)
assert set(given) == {{"nodes", "ntasks", "cpus-per-task", "nodelist"}}, options
assert (given["nodes"], given["ntasks"]) == ("1", "1"), options
node = given["nodelist"]
inside = json.loads({commands!r})[node]
task = subprocess.Popen([*inside, "unshare", "--uts", "sh", "-c", f'hostname {{node}} && exec "$@"', "sh", *words],
                        start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: os.killpg(task.pid, signal.SIGTERM))
sys.exit(task.wait())
"""
SCONTROL = """\
#!{python}
'''scontrol: names the nodes, and notes who is to be queued again.'''
import sys
import time
from pathlib import Path

if sys.argv[1:3] == ["show", "hostnames"]:
    print("\\n".join(sys.argv[3].split(",")))
elif sys.argv[1] == "requeue":
    Path({requeued!r}).write_text(sys.argv[2])
else:
    sys.exit(f"unknown: {{sys.argv}}")
"""


class Allocation:
    """Hosts by the names of nodes; a job script runs on the first.

    Args:
        folder: for the stand-ins, the home and the output.
        hosts: the nodes among them.
        nodes: names, the head's first.
    """

    def __init__(self, folder: Path, hosts: Hosts, nodes: list[str]) -> None:
        self.folder, self.nodes, self._hosts = folder, nodes, hosts
        self.job = 100_000 + secrets.randbelow(900_000)
        self.home, self.requeued = folder / "home", folder / "requeued"
        self.home.mkdir()
        tools = folder / "tools"
        tools.mkdir()
        commands = json.dumps({node: hosts.command(node) for node in nodes})
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            content = text.format(python=sys.executable, commands=commands, requeued=str(self.requeued))
            (tools / name).write_text(content)
            (tools / name).chmod(0o755)
        self._path = f"{tools}:{BIN}:{os.environ['PATH']}"

    def start(self, script: Path, *words: str, env: dict[str, str]) -> "subprocess.Popen[bytes]":
        """The script as sbatch starts it; its output is added to `output`."""
        slurm = {
            "SLURM_JOB_ID": str(self.job),
            "SLURM_JOB_NODELIST": ",".join(self.nodes),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_CPUS_ON_NODE": "1",
            "HOME": str(self.home),
            "PATH": self._path,
        }
        with self.output_file.open("ab") as out:
            return subprocess.Popen(
                self._hosts.command(self.nodes[0], "bash", str(script), *words),
                stdout=out, stderr=out, env=env | slurm, cwd=self.folder, start_new_session=True,
            )  # fmt: skip

    def end(self, job: "subprocess.Popen[bytes]") -> None:
        """Ends a job that a test has given up, with all that it started."""
        if job.poll() is None:
            job.kill()
            job.wait(30)
            for number, pids in (
                (signal.SIGTERM, processes(str(self.folder / "tools"))),
                (signal.SIGKILL, self.left()),
            ):
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                time.sleep(5)

    def left(self) -> list[int]:
        """Processes of the job's Ray."""
        return processes(f"/tmp/ray-{self.job}")

    @property
    def output_file(self) -> Path:
        return self.folder / "flatsweep.log"

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    @property
    def token(self) -> Path:
        """Where the script keeps Ray's token."""
        return self.home / ".flatsweep" / f"slurm-{self.job}" / "token"
