"""Commands that look after what a sweep needs and leaves. Each parses, calls one function and prints."""

from typing import Annotated

import typer

from orchestrator.cli.commands import open_console, places, print_json
from orchestrator.cli.options import (
    DEFAULT_FILE,
    JsonOption,
    ProfileOption,
    StorageOption,
    SweepArgument,
    TrackingOption,
)

group = typer.Typer()


@group.command()
def sync(
    sweep: SweepArgument = DEFAULT_FILE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; say what would be sent.")] = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild the tracking store from the storage: makes missing runs, sends missing records. Twice adds nothing."""
    from orchestrator.recorded import open_sweep
    from orchestrator.show_upkeep import publish_synced, show_synced
    from orchestrator.sync import sync as run

    file = open_sweep(sweep, places(storage, tracking_uri, profile))
    with open_console(err=True).status("reading the storage") as status:
        done = run(file, dry_run=dry_run, say=status.update)
        publish_synced(file, done)
    if as_json:
        print_json(done.as_dict())
    else:
        show_synced(done, open_console())
    raise typer.Exit(1 if done.left else 0)
