"""Commands that serve MLflow's pages and API. Each parses, calls one function and prints."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.commands import places
from orchestrator.cli.options import DEFAULT_FILE, ProfileOption, StorageOption, SweepArgument, TrackingOption

group = typer.Typer()


class Permission(StrEnum):
    """What every user may do with what others made."""

    READ = "READ"
    EDIT = "EDIT"
    MANAGE = "MANAGE"
    NONE = "NO_PERMISSIONS"


@group.command()
def ui(
    sweep: SweepArgument = DEFAULT_FILE,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Open MLflow's own pages on the sweep's store (on this machine only; Ctrl-C ends it)."""
    from orchestrator.recorded import open_sweep
    from orchestrator.serving.ui import serve_pages

    serve_pages(open_sweep(sweep, places(storage, tracking_uri, profile)).sweep, port)


@group.command()
def server(
    folder: Annotated[
        Path, typer.Option(help="What the server keeps: its key, and database and artifacts unless they are elsewhere.")
    ] = Path("mlflow-server"),
    database: Annotated[
        str | None,
        typer.Option(help="postgresql://USER@HOST/NAME, without password. MLFLOW_BACKEND_STORE_URI, else SQLite."),
    ] = None,
    database_password_file: Annotated[Path | None, typer.Option(help="File of the database's password.")] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Folder or s3://BUCKET/PREFIX, which only the server needs.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on that address.")] = 5000,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Name by which clients call the server; may be repeated.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that answer.")] = 2,
    admin: Annotated[str, typer.Option(help="Name of the user who may do everything.")] = "admin",
    password_file: Annotated[
        Path | None, typer.Option(help="File of the admin's password; MLFLOW_AUTH_ADMIN_PASSWORD if not given.")
    ] = None,
    permission: Annotated[
        Permission, typer.Option(help="What every user may do with the experiments of others.")
    ] = Permission.READ,
    check: Annotated[
        str | None, typer.Option(help="Only ask the server at this address whether it works: exit code 0 or 1.")
    ] = None,
) -> None:
    """Run an MLflow tracking server with users and passwords, for several people and machines (Ctrl-C ends it)."""
    from orchestrator.serving.health import health
    from orchestrator.serving.server import Settings, serve

    if check is not None:
        healthy, sentence = health(check, admin, password_file)
        typer.echo(sentence, err=not healthy)
        raise typer.Exit(0 if healthy else 1)
    serve(
        Settings(
            folder, database, database_password_file, artifacts, host, port, workers, tuple(allowed_host or ()), admin,
            password_file, permission.value,
        )
    )  # fmt: skip
