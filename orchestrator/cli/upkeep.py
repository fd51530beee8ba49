"""Commands that look after what a sweep needs and leaves. Each parses, calls one function and prints."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.commands import open_console, places, print_json
from orchestrator.cli.options import (
    DEFAULT_FILE,
    AddressOption,
    JsonOption,
    ProfileOption,
    StorageOption,
    SweepArgument,
    TrackingOption,
)
from orchestrator.errors import UserError

group = typer.Typer()


@group.command()
def doctor(
    sweep: Annotated[
        str | None,
        typer.Argument(
            help=f"Sweep file, or the name of a sweep submitted before; {DEFAULT_FILE} if there is one.",
            show_default=False,
        ),
    ] = None,
    address: AddressOption = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Close runs that nobody works on, and remove left scratch files.")
    ] = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    tracking_uri: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check versions, GPU, Ray, data, tracking store, storage, clocks, and what dead drivers left. Exit code 1: mend.

    Each line says what is wrong and how to mend it. Without a sweep, what needs none is checked.
    """
    from orchestrator.doctor.examine import examine
    from orchestrator.recorded import open_sweep
    from orchestrator.show_upkeep import show_examined

    if sweep is None and Path(DEFAULT_FILE).exists():
        sweep = DEFAULT_FILE
    if sweep is None and (profile or storage or tracking_uri):
        raise UserError("--profile, --storage and --tracking-uri change what a sweep says: name the sweep")
    file = open_sweep(sweep, places(storage, tracking_uri, profile)) if sweep else None
    with open_console(err=True).status("checking") as status:
        done = examine(file, address, fix=fix, say=status.update)
    if as_json:
        print_json(done.as_dict())
    else:
        show_examined(done, open_console())
    raise typer.Exit(1 if done.has_problem else 0)


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


@group.command()
def prune(
    sweep: SweepArgument = DEFAULT_FILE,
    keep: Annotated[
        str | None, typer.Option(help="last, best, all or 'every K', instead of each trial's training.keep.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    profile: ProfileOption = None,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove checkpoints of finished trials that nothing needs, and what was put aside or left half-written."""
    from rich.filesize import decimal

    from orchestrator.prune import prune as run
    from orchestrator.recorded import open_sweep
    from orchestrator.show import pruned_table

    done = run(open_sweep(sweep, places(storage, None, profile)).sweep, keep, dry_run=dry_run)
    if as_json:
        print_json(done.as_dict())
        return
    out = open_console()
    if done.removals:
        out.print(pruned_table(done.removals))
    verb = "would free" if dry_run else "freed"
    out.print(f"{verb} {decimal(done.size)} in {len(done.removals)} places", highlight=False)
    for note in done.notes:
        out.print(note, highlight=False, markup=False, soft_wrap=True)
