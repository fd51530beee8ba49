"""Components of other packages: listed by their entry points, imported only when one is asked for by its name."""

import functools
import inspect
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, get_args

from pydantic import BaseModel

GROUP_PREFIX = "flatsweep."
NAME = re.compile(r"(?!none\Z)[a-z][a-z0-9_]*")
"""A component's name: part of file names and of keys in MLflow; `none` stands for no regulariser in a sweep file."""
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Offer:
    """One entry point of an installed package, by which it offers a component."""

    point: EntryPoint

    @property
    def package(self) -> str:
        """Name of the package as it was installed."""
        return (self.point.dist and self.point.dist.name) or "unknown"

    @property
    def version(self) -> str:
        """Version of the package."""
        return (self.point.dist and self.point.dist.version) or "unknown"

    def __str__(self) -> str:
        return f"entry point '{self.point.name} = {self.point.value}' of package {self.package} {self.version}"

    def load(self, base: type[T]) -> type[T] | str:
        """The class that is offered, imported; or in words what keeps it from being a component of kind `base`."""
        if not IMPORT_PATH.fullmatch(self.point.value):
            return f"{self} is not of the form package.module:Class"
        try:
            found = self.point.load()
        except (Exception, SystemExit) as error:  # whatever a package of somebody else does when it is imported
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            return f"{self} cannot be imported: {reason}"
        if not (inspect.isclass(found) and issubclass(found, base) and found is not base):
            return f"{self} is no subclass of {base.__name__}"
        if (defect := _defect(found, self.point.name)) is not None:
            return f"{self}: {found.__name__} {defect}"
        _ORIGINS[found] = self
        return found


_ORIGINS: dict[type, Offer] = {}


def offers(kind: str | None) -> dict[str, tuple[Offer, ...]]:
    """What installed packages offer in the group `flatsweep.<kind>`, by name, in alphabetical order; nothing for None.

    Reads metadata only. The order does not depend on where or when packages were installed.
    """
    return _installed().get(f"{GROUP_PREFIX}{kind}", {}) if kind else {}


def origin(cls: type) -> tuple[str, str] | None:
    """Name and version of the package whose entry point a class was loaded by; None for any other class."""
    found = _ORIGINS.get(cls)
    return (found.package, found.version) if found else None


@functools.cache
def _installed() -> dict[str, dict[str, tuple[Offer, ...]]]:
    found, groups = entry_points(), dict[str, dict[str, tuple[Offer, ...]]]()  # one look at every package's metadata
    for group in found.groups:
        if group.startswith(GROUP_PREFIX):
            named = groups[group] = {}
            for point in sorted(found.select(group=group), key=lambda point: (point.name, point.value)):
                named[point.name] = (*named.get(point.name, ()), Offer(point))
    return groups


def _defect(cls: type[Any], name: str) -> str | None:
    """What a component's class lacks, where only a trial that has started would notice."""
    if not NAME.fullmatch(name):
        return f"may not be called '{name}': a name is small letters, digits and '_', and not 'none'"
    field = cls.model_fields.get("name")
    if field is None or get_args(field.annotation) != (name,) or field.default != name:
        return f"needs the field `name: Literal['{name}'] = '{name}'`, as its entry point is called"
    if not IMPORT_PATH.fullmatch(str(getattr(cls, "implementation", ""))):
        return "needs `implementation = 'package.module:attribute'`"
    if inspect.isabstract(cls):
        return f"does not define {', '.join(sorted(cls.__abstractmethods__))}"
    return None
