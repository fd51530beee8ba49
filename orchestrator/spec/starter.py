"""The sweep files that `flatsweep init` writes: the commented `starter.yaml`, and the recipes, one per paper.

They are packaged with the orchestrator, so that an installed flatsweep has them too.
"""

from importlib.resources import files

from orchestrator.errors import UserError, suggest


def starter_text() -> str:
    """The starter sweep file, as text."""
    return files("orchestrator").joinpath("starter.yaml").read_text(encoding="utf-8")


def recipe_names() -> list[str]:
    """Every recipe's name, in alphabetical order."""
    found = files("orchestrator").joinpath("recipes").iterdir()
    return sorted(item.name.removesuffix(".yaml") for item in found if item.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """A recipe, as text.

    Raises:
        UserError: there is no recipe of that name.
    """
    if name not in recipe_names():
        raise UserError(f"there is no recipe '{name}'; {suggest(name, recipe_names())}")
    return files("orchestrator").joinpath("recipes", f"{name}.yaml").read_text(encoding="utf-8")


def __getattr__(name: str) -> str:
    """`STARTER`, read when it is first asked for."""
    if name == "STARTER":
        return starter_text()
    raise AttributeError(name)
