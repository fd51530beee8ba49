"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_FILE = "experiments.yaml"
SweepArgument = Annotated[str, typer.Argument(help="Sweep file, or the name of a sweep submitted before.")]
SweepsArgument = Annotated[
    list[str] | None,
    typer.Argument(help=f"Sweep files, or names of sweeps submitted before; {DEFAULT_FILE} if none is given."),
]
ProfileOption = Annotated[str | None, typer.Option(help="One of the sweep file's profiles, whose changes apply.")]
StorageOption = Annotated[
    str | None, typer.Option(help="Storage, a folder or s3://bucket/prefix, instead of the sweep file's.")
]
TrackingOption = Annotated[str | None, typer.Option(help="MLflow tracking URI, instead of the sweep file's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
EvaluationOption = Annotated[
    str | None, typer.Option(help="Values of another evaluation, by its id or its first digits; see `evaluate`.")
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Fetch every run anew, not only those that changed since the last look.")
]
AllowMixedOption = Annotated[
    bool, typer.Option("--allow-mixed", help="Take trials together that differ in data, release or measuring.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: http://HEAD:8265 sends the sweep there as a job, HEAD:6379 drives it from this node. "
        "RAY_ADDRESS if not given, a local Ray if neither is."
    ),
]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="With http://: return once the cluster has checked everything and begun.")
]
WheelOption = Annotated[
    Path | None, typer.Option(help="With http://: flatsweep's wheel, whose code is to run on the cluster.")
]
MaxConcurrentOption = Annotated[
    int | None, typer.Option(min=1, help="Trials at once at most, instead of the file's `resources.max_concurrent`.")
]
MaxHoursOption = Annotated[
    float | None, typer.Option(help="Hours after which it stops, everything saved, with exit code 3; again goes on.")
]
PriorityOption = Annotated[
    int, typer.Option(help="On a cluster: sweeps of a smaller number stop, and go on later, while this one waits.")
]


class TableFormat(StrEnum):
    """What `export` writes."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"
    LATEX = "latex"


class CorrelationFormat(StrEnum):
    """What `correlate` prints."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    LATEX = "latex"
    MARKDOWN = "markdown"


WhereOption = Annotated[
    str | None, typer.Option(help="Only rows like this: \"method_name == 'at' and seed in [0, 1]\".")
]
ByOption = Annotated[str | None, typer.Option(help="Also for each value of this column, such as method.")]
MinEffectiveOption = Annotated[
    float, typer.Option(help="Effective pairs of networks that an environment of the sign-error needs.")
]
CorrelationFormatOption = Annotated[CorrelationFormat, typer.Option("--format", help="How to print.")]
FigureOption = Annotated[
    Path | None,
    typer.Option(help="Also this vector figure, .pdf or .svg, as wide as a column, of the first measure and target."),
]
FiguresOption = Annotated[
    Path | None, typer.Option(help="Folder of table and figures; by default the sweep's, with --where none.")
]


class Preset(StrEnum):
    """Settings of measures."""

    QUICK = "quick"
    PAPER = "paper"
