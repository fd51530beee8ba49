"""The sweep file that `flatsweep init` writes: the commented `starter.yaml` that is packaged with the orchestrator."""

from importlib.resources import files


def starter_text() -> str:
    """The starter sweep file, as text."""
    return files("orchestrator").joinpath("starter.yaml").read_text(encoding="utf-8")


def __getattr__(name: str) -> str:
    """`STARTER`, read when it is first asked for."""
    if name == "STARTER":
        return starter_text()
    raise AttributeError(name)
