"""A table as a file."""

import sys
from pathlib import Path

import pandas as pd

from orchestrator.errors import UserError


def write_table(table: pd.DataFrame, table_format: str, output: Path | None) -> None:
    """Writes csv, parquet or json (one object per row).

    Raises:
        UserError: the file cannot be written, or parquet would go to a terminal.
    """
    if table_format == "parquet" and output is None and sys.stdout.isatty():
        raise UserError("parquet is binary: give a file with --output")
    try:
        match table_format:
            case "csv":
                table.to_csv(output or sys.stdout, index=False)
            case "json":
                text = table.to_json(orient="records", indent=2, double_precision=15)
                write_content((text + "\n").encode(), output)
            case "parquet":
                write_content(table.to_parquet(index=False), output)
            case _:
                raise ValueError(f"no table format is called {table_format}")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error


def write_content(content: bytes, output: Path | None) -> None:
    """Writes to a file, or to standard output.

    Raises:
        UserError: the file cannot be written.
    """
    if output is None:
        sys.stdout.buffer.write(content)
        return
    try:
        output.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error
