"""A table as a file."""

import sys
from pathlib import Path

import pandas as pd

from orchestrator.errors import UserError
from orchestrator.report.latex import latex_table


def write_table(table: pd.DataFrame, table_format: str, output: Path | None) -> None:
    """Writes csv, parquet or json (one object per row), or latex: a paper's table of the usual columns.

    Raises:
        UserError: the file cannot be written, parquet would go to a terminal, or latex has no finished trial to show.
    """
    if table_format == "parquet" and output is None and sys.stdout.isatty():
        raise UserError("parquet is binary: give a file with --output")
    try:
        match table_format:
            case "csv":
                table.to_csv(output or sys.stdout, index=False)
            case "json":
                text = table.to_json(orient="records", indent=2, double_precision=15)
                _write_bytes((text + "\n").encode(), output)
            case "parquet":
                _write_bytes(table.to_parquet(index=False), output)
            case "latex":
                _write_bytes(latex_table(table).encode(), output)
            case _:
                raise ValueError(f"no table format is called {table_format}")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error


def _write_bytes(content: bytes, output: Path | None) -> None:
    if output is None:
        sys.stdout.buffer.write(content)
    else:
        output.write_bytes(content)
