"""What stands in for images that cannot be had without an engine. Runs on a host of its own until its input ends.

    python stand_in.py postgres ADDRESS SECRETS   Debian's Postgres on port 5432, user and database mlflow
    python stand_in.py store ADDRESS              moto's S3 server on port 8333, without a bucket
    python stand_in.py ports NAME:PORT ...        this host's own loopback, as ports published on it

Prints one line when it is ready.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
from postgres import private_postgres
from psycopg.sql import SQL
from s3_server import S3Server


def handler(host: str, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Passes a connection on."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    return serve


async def forward(address: str, ways: dict[int, tuple[str, int]]) -> None:
    """Passes connections on until the standard input ends."""
    servers = [await asyncio.start_server(handler(*there), address, port) for port, there in ways.items()]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        server.close()


def postgres(address: str, secrets: Path) -> None:
    with private_postgres() as server:
        with contextlib.closing(psycopg.connect(server.uri(), autocommit=True)) as connection:
            password = (secrets / "postgres_password").read_text().strip()
            # as the image does with POSTGRES_USER, POSTGRES_PASSWORD_FILE and POSTGRES_DB; a role takes no parameters
            connection.execute(SQL("CREATE ROLE mlflow SUPERUSER LOGIN PASSWORD {}").format(password))
            connection.execute("CREATE DATABASE mlflow OWNER mlflow")
        asyncio.run(forward(address, {5432: (server.host, server.port)}))


def store(address: str) -> None:
    with S3Server() as server:
        asyncio.run(forward(address, {8333: ("127.0.0.1", server.port)}))


def ports(*ways: str) -> None:
    parts = [way.split(":") for way in ways]
    asyncio.run(forward("127.0.0.1", {int(port): (host, int(port)) for host, port in parts}))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "postgres":
        postgres(rest[0], Path(rest[1]))
    elif what == "store":
        store(rest[0])
    else:
        ports(*rest)
