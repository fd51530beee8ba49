"""The command line: `flatsweep COMMAND`."""

from orchestrator.cli.app import app, main

__all__ = ["app", "main"]
