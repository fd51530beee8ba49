"""The application: the groups of commands under one name, and what a user's mistake becomes.

Start-up is lazy: whatever is heavy is imported inside the command that needs it.
"""

import sys
from typing import Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import answers, cluster, serving, sweeps, upkeep
from orchestrator.cli.commands import INTERRUPTED
from orchestrator.errors import UserError
from workers.failures import StorageError

app = typer.Typer(
    name="flatsweep",
    help="Grids of adversarial-training trials on Ray; flatness of the robust loss; everything in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point: a user's mistake, or a storage out of reach, is one message on stderr and exit code 2."""
    try:
        app()
    except (UserError, StorageError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


for module in (sweeps, cluster, answers, upkeep, serving):
    app.add_typer(module.group)
