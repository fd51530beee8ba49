"""Commands that look after what sweeps leave. Each parses, calls one function and prints."""

from typing import Annotated

import typer

from orchestrator.cli.commands import open_console, places, print_json
from orchestrator.cli.options import DEFAULT_FILE, JsonOption, ProfileOption, StorageOption, SweepArgument

group = typer.Typer()


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
