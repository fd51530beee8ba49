"""A Ray cluster seen from outside: sweeps handed to it as Ray jobs, followed and found again."""

import asyncio
import contextlib
import logging
import re
import shutil
import socket
import tempfile
import time
import zipfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from orchestrator.cluster.request import Request
from orchestrator.errors import UserError

ENTRYPOINT = "python -m orchestrator.cluster.job"
PREFIX = "flatsweep-"
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}
CONNECT_SECONDS = 5.0
READY_SECONDS = 60.0
RECONNECT_SECONDS = 2.0
CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Loggers that set their own level and tell of every upload."""
ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
"""States of a Ray job after which nothing follows."""


@dataclass(frozen=True)
class Job:
    """One attempt at a sweep, as the cluster knows it."""

    job_id: str
    state: str
    """Ray's: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED."""
    exit_code: int | None
    message: str

    @property
    def ended(self) -> bool:
        """Whether its driver is gone."""
        return self.state in ENDED


def is_cluster(address: str | None) -> bool:
    """Whether an address means Ray's Jobs API, not a cluster that this machine is a node of."""
    return bool(address) and str(address).startswith(("http://", "https://"))


class Cluster:
    """The Jobs API of a Ray head. The token is Ray's own: RAY_AUTH_TOKEN_PATH, RAY_AUTH_TOKEN or ~/.ray/auth_token.

    Args:
        address: http(s)://host:port of the head's dashboard.

    Raises:
        UserError: nobody answers there, it is not Ray, or the token is missing or wrong.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        _knock(self.address)
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(self.address)
        except AuthenticationError as error:
            raise UserError(_token_problem(self.address, str(error))) from error
        except Exception as error:
            raise UserError(f"address: {self.address} does not answer as a Ray head: {_first_line(error)}") from error

    def jobs(self, sweep_name: str) -> list[Job]:
        """Every attempt at a sweep that the cluster remembers, oldest first."""
        own = re.compile(rf"{re.escape(PREFIX + sweep_name)}-(\d+)")
        found = {}
        for details in self._client.list_jobs():
            if details.submission_id and (match := own.fullmatch(details.submission_id)):
                found[int(match[1])] = _job(details.submission_id, details)
        return [found[number] for number in sorted(found)]

    def running(self, sweep_name: str) -> Job | None:
        """The job that drives a sweep at this moment."""
        return next((job for job in self.jobs(sweep_name) if not job.ended), None)

    def start(self, request: Request, wheel: Path | None = None, width: int = 120) -> str:
        """Hands a request over; returns the job's id.

        The id counts the attempts at the sweep, so that of two clients at once only one can have it.

        Args:
            request: what the driver is to do.
            wheel: flatsweep's own, whose code is to run there instead of what is installed.
            width: of the client's terminal.

        Raises:
            UserError: another job drives the sweep, or the wheel is no wheel of this code.
        """
        name = request.sweep.name
        earlier = self.jobs(name)
        if alive := next((job for job in earlier if not job.ended), None):
            raise UserError(_taken(name, alive.job_id))
        number = 1 + max((int(job.job_id.rsplit("-", 1)[-1]) for job in earlier), default=0)
        job_id = f"{PREFIX}{name}-{number}"
        folder = Path(tempfile.mkdtemp(prefix="flatsweep-"))
        try:
            if wheel:
                _unpack(wheel, folder)
            request.write(folder)
            self._submit(
                job_id, request, {"working_dir": str(folder), "env_vars": {"COLUMNS": str(width)} | UNBUFFERED}
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return job_id

    def _submit(self, job_id: str, request: Request, environment: dict[str, Any]) -> None:
        """Hands the job over; a head that has only just started has nobody to run jobs for some seconds."""
        until = time.monotonic() + READY_SECONDS
        while True:
            try:
                self._client.submit_job(
                    entrypoint=ENTRYPOINT,
                    submission_id=job_id,
                    runtime_env=environment,
                    metadata={"sweep": request.sweep.name},
                )
                return
            except RuntimeError as error:
                if "already exists" in str(error):
                    raise UserError(_taken(request.sweep.name, job_id)) from error
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise UserError(f"the cluster at {self.address} refused the job: {_first_line(error)}") from error
            time.sleep(1.0)

    def job(self, job_id: str) -> Job:
        """How a job stands."""
        return _job(job_id, self._client.get_job_info(job_id))

    def log(self, job_id: str) -> list[str]:
        """The lines that a job's driver has printed so far."""
        return str(self._client.get_job_logs(job_id)).splitlines()

    def follow(self, job_id: str) -> Generator[str, None, None]:
        """The same lines as they come, until the job has ended; a lost connection is made again."""
        shown, rest = 0, ""
        loop = asyncio.new_event_loop()
        try:
            while True:
                seen = 0
                with contextlib.closing(_texts(loop, self._client.tail_job_logs(job_id))) as texts:
                    for text in texts:
                        seen += len(text)
                        # a new connection begins with the first line again
                        rest += text[max(0, len(text) - max(0, seen - shown)) :]
                        shown = max(shown, seen)
                        *lines, rest = rest.split("\n")
                        yield from lines
                if self.job(job_id).ended:
                    break
                loop.run_until_complete(asyncio.sleep(RECONNECT_SECONDS))
        finally:
            loop.close()
        if rest:
            yield rest

    def stop(self, job_id: str) -> None:
        """Ends a job's driver, by signal and soon by force; what its trials saved so far is kept."""
        self._client.stop_job(job_id)


def _texts(loop: asyncio.AbstractEventLoop, stream: Any) -> Generator[str, None, None]:
    """What an asynchronous stream of text gives, until it ends or breaks off."""
    try:
        while True:
            try:
                text = loop.run_until_complete(anext(stream))
            except (StopAsyncIteration, RuntimeError, OSError):
                return
            yield text
    finally:
        loop.run_until_complete(stream.aclose())
        loop.run_until_complete(asyncio.sleep(0))  # what the stream opened closes in the loop's next round


def _knock(address: str) -> None:
    """Ray's client would wait for minutes where packets vanish."""
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return
    except (OSError, ValueError) as error:
        raise UserError(f"address: no answer from Ray at {address}: {error}") from error


def _token_problem(address: str, said: str) -> str:
    how = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file that holds the token"
    if said.startswith("Authentication required"):
        return f"the Ray cluster at {address} wants a token and got none: {how}"
    return f"the Ray cluster at {address} refuses this token: {how} of that cluster"


def _taken(name: str, job_id: str) -> str:
    return (
        f"sweep '{name}' is being run by the job {job_id}; `flatsweep status` and `flatsweep logs` show it, "
        "`flatsweep cancel` stops it"
    )


def _unpack(wheel: Path, folder: Path) -> None:
    """Lays a wheel's packages open in the job's folder, which comes first on the path of driver and workers."""
    try:
        with zipfile.ZipFile(wheel) as content:
            names = content.namelist()
            if "orchestrator/cluster/job.py" not in names:
                raise UserError(f"--wheel {wheel}: this is not a wheel of flatsweep")
            content.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"--wheel {wheel}: cannot be read as a wheel: {error}") from error


def _job(job_id: str, details: Any) -> Job:
    state = getattr(details.status, "value", str(details.status))
    return Job(job_id, state, details.driver_exit_code, str(details.message or ""))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
