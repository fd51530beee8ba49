"""What every part of a sweep file is made of: frozen models, numbers, identity and the tables of named components.

Identity is the hash of a canonical JSON with defaults filled in. A field that says *where* something lies
(`location`) takes no part in it, and a field that was added after the first release (`added_field`) takes part only
when it differs from its default, so that old trials keep their ids. A component of another package is identified by
that package too, so that two packages' components of one name never pass for each other.
"""

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from importlib import import_module
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import ErrorDetails, PydanticCustomError, core_schema

from orchestrator.errors import suggest
from orchestrator.spec import plugins

logger = logging.getLogger(__name__)

OWN_PACKAGE = "orchestrator"
ID_LENGTH = 16
"""Hex digits in an id: 64 bits, so that ten thousand trials collide with a chance below 1e-11."""


def _fraction(value: object) -> object:
    """Reads '8/255' as a number; leaves everything else to pydantic."""
    if isinstance(value, str) and "/" in value:
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise PydanticCustomError(
                "fraction", "'{value}' is not a fraction such as 8/255", {"value": value}
            ) from error
    if isinstance(value, bool):
        raise PydanticCustomError("number", "expected a number, got {value}", {"value": str(value).lower()})
    return value


def _not_bool(value: object) -> object:
    """Refuses true and false, which Python counts among the integers."""
    if isinstance(value, bool):
        raise PydanticCustomError("integer", "expected a whole number, got {value}", {"value": str(value).lower()})
    return value


Number = Annotated[float, BeforeValidator(_fraction, json_schema_input_type=float | str)]
"""A finite float; the sweep file may write it as a fraction, `8/255`."""
Integer = Annotated[int, BeforeValidator(_not_bool, json_schema_input_type=int)]
"""A whole number."""


def problem(message: str, *place: str | int) -> PydanticCustomError:
    """What a model's validator raises about one `place` inside the model, so that it can be shown at its own line."""
    return PydanticCustomError("problem", "{message}", {"message": message, "place": place})


def place_of(error: ErrorDetails) -> tuple[str | int, ...]:
    """Where a mistake is: pydantic's own location, and the place inside that `problem` was told."""
    return (*error["loc"], *error.get("ctx", {}).get("place", ()))


def location(default: Any = ..., **kwargs: Any) -> Any:
    """A field that says where something lies or how it is fetched: no part of any id."""
    return Field(default, json_schema_extra={"identity": False}, **kwargs)


def added_field(default: Any, **kwargs: Any) -> Any:
    """A field added after the first release, with the old behaviour as default: part of an id only when it differs."""
    return Field(default, json_schema_extra={"identity": "if_changed"}, **kwargs)


class Spec(BaseModel):
    """A frozen part of a sweep file that refuses unknown keys, NaN and infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


def canonical(value: Any, complete: bool = False) -> Any:
    """Plain JSON data of everything in `value` that identifies it (see the module's first lines).

    Args:
        value: a spec or plain data.
        complete: with the fields that were added after the first release, whatever their values.
    """
    if isinstance(value, Spec):
        try:
            return _remembered(value, complete)
        except TypeError:  # a component of another package with a field that cannot be hashed
            return _fields(value, complete)
    if isinstance(value, tuple | list):
        return [canonical(item, complete) for item in value]
    if isinstance(value, dict):
        return {str(key): canonical(item, complete) for key, item in value.items()}
    if isinstance(value, float):
        return value + 0.0  # -0.0 and 0.0 are one value
    return value


def _fields(spec: Spec, complete: bool) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if isinstance(spec, Component) and (package := _import_package(type(spec))) != OWN_PACKAGE:
        kept["_package"] = package  # no field's name begins with "_"
    for name, field in type(spec).model_fields.items():
        rule = field.json_schema_extra.get("identity", True) if isinstance(field.json_schema_extra, dict) else True
        item = getattr(spec, name)
        if rule == "if_changed":
            rule = complete or item != field.get_default(call_default_factory=True)
        if rule:
            kept[name] = canonical(item, complete)
    return kept


# the cells of a grid share their parts
_remembered = lru_cache(maxsize=4096)(_fields)


def digest(value: Any) -> str:
    """Hash of the canonical JSON of a spec or of plain data: `ID_LENGTH` hex digits."""
    plain = _fields(value, complete=False) if isinstance(value, Spec) else canonical(value)
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def flatten(value: Any, prefix: str = "") -> dict[str, str | int | float | bool | None]:
    """Nested plain data as one level of dotted keys: `{"training": {"lr": 1}}` becomes `{"training.lr": 1}`."""
    if isinstance(value, dict):
        items: Iterator[tuple[Any, Any]] = iter(value.items())
    elif isinstance(value, list | tuple) and any(isinstance(item, dict | list) for item in value):
        items = iter(enumerate(value))
    else:
        return {prefix: json.dumps(value) if isinstance(value, list | tuple) else value}
    flat: dict[str, str | int | float | bool | None] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


class Component(Spec):
    """A named part with an implementation that only a worker imports."""

    implementation: ClassVar[str]
    """Import path of what the worker builds, `package.module:attribute`."""

    name: str
    """Name in the sweep file."""

    def label(self) -> str:
        """Short text for tables: the name, with the parameters that differ from their defaults."""
        shown = []
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key != "name" and (field.is_required() or value != field.get_default(call_default_factory=True)):
                shown.append(value.label() if isinstance(value, Component) else f"{key}={_short(value)}")
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    def load(self) -> Any:
        """Imports the implementation. For workers: it may import torch."""
        module, _, attribute = self.implementation.partition(":")
        return getattr(import_module(module), attribute)


def components(value: Any) -> Iterator[Component]:
    """Every component in a spec, those inside others too."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, Spec):
        value = tuple(getattr(value, name) for name in type(value).model_fields)
    if isinstance(value, tuple | list):
        for item in value:
            yield from components(item)


def packages(*specs: Spec) -> dict[str, str]:
    """Name -> version of every other package that a component of the specs comes from."""
    origins = [plugins.origin(type(component)) for component in components(specs)]
    return dict(sorted(origin for origin in origins if origin))


def _import_package(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


C = TypeVar("C", bound=Component)


class Vocabulary(Generic[C]):
    """Named components of one kind. A sweep file gives one as `name` or as `{name: ..., parameter: ...}`.

    Those of other packages are listed by their names alone; one is imported when it is asked for, never at import.
    """

    def __init__(self, kind: str, base: type[C]) -> None:
        self.kind = kind
        self.base = base
        self._warned: set[str] = set()

    @abstractmethod
    def names(self) -> list[str]:
        """Every name: flatsweep's own in the order of registration, then the others in alphabetical order."""

    @abstractmethod
    def look_up(self, name: str) -> type[C] | str | None:
        """The class called `name`, or in words what keeps it from being used; None where there is none."""

    def find(self, name: str) -> type[C] | None:
        """The class called `name`; None where there is none that can be used."""
        found = self.look_up(name)
        return None if isinstance(found, str) else found

    def classes(self) -> dict[str, type[C]]:
        """Every class that can be used, by name, in the order of `names`. Warns, once, of each that cannot."""
        usable: dict[str, type[C]] = {}
        for name in self.names():
            found = self.look_up(name)
            if not isinstance(found, str):
                usable |= {name: found} if found else {}
            elif name not in self._warned:
                self._warned.add(name)
                logger.warning("%s '%s' is left out: %s", self.kind, name, found)
        return usable

    def get(self, name: str) -> type[C]:
        """The class called `name`.

        Raises:
            PydanticCustomError: there is none, and the message offers the nearest name; or it cannot be used.
        """
        found = self.look_up(name)
        context = {"kind": self.kind, "name": name}
        if isinstance(found, str):
            raise PydanticCustomError(
                "unusable", "{kind} '{name}' cannot be used: {reason}", context | {"reason": found}
            )
        if found is None:
            allowed = [known if self.find(known) else f"{known} (broken)" for known in self.names()]
            raise PydanticCustomError(
                "unknown_name", "unknown {kind} '{name}'; {hint}", context | {"hint": suggest(name, allowed)}
            )
        return found

    def parse(self, value: object) -> C:
        """An instance from a name, a mapping with a `name`, or an instance."""
        if isinstance(value, self.base):
            if type(value) is not self.get(value.name):  # a worker, which reads it by its name, would build another
                raise PydanticCustomError(
                    "component", "{kind} '{name}' is of another class", {"kind": self.kind, "name": value.name}
                )
            return value
        if isinstance(value, str):
            return self.get(value)(name=value)
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "component", "expected a {kind}'s name or a mapping with 'name'", {"kind": self.kind}
            )
        if not isinstance(value.get("name"), str):
            raise PydanticCustomError(
                "component",
                "a {kind} needs a 'name'; allowed: {names}",
                {"kind": self.kind, "names": ", ".join(self.names())},
            )
        return self.get(value["name"]).model_validate(value)

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump(mode="json")),
        )

    def __get_pydantic_json_schema__(
        self, _schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        classes = self.classes()
        alone = [name for name, cls in classes.items() if not _needs_parameters(cls)]
        variants = [handler(cls.__pydantic_core_schema__) for cls in classes.values()]
        return {"anyOf": [{"type": "string", "enum": alone, "title": f"{self.kind} with its defaults"}, *variants]}


class Registry(Vocabulary[C]):
    """Every component of one kind: those registered here, and those that other packages offer.

    Args:
        kind: in words, for messages.
        base: class of the components.
        group: name of the entry points' group, after `flatsweep.`; None where other packages can add nothing.
    """

    def __init__(self, kind: str, base: type[C], group: str | None = None) -> None:
        super().__init__(kind, base)
        self.group = group
        self._registered: dict[str, type[C]] = {}
        self._offered: dict[str, type[C] | str] = {}

    def register(self, cls: type[C]) -> type[C]:
        """Class decorator: makes the component known under the default of its `name`."""
        name = cls.model_fields["name"].default
        if name in self._registered:
            raise ValueError(f"two {self.kind}s are called '{name}'")
        self._registered[name] = cls
        return cls

    def registered(self) -> dict[str, type[C]]:
        """The registered classes by name, in the order of registration, without those of other packages."""
        return dict(self._registered)

    def names(self) -> list[str]:
        """Every name; nothing is imported for it."""
        offered = plugins.offers(self.group)
        return [*(name for name in self._registered if name not in offered), *offered]

    def look_up(self, name: str) -> type[C] | str | None:
        """The class called `name`, imported if another package offers it. A name that is taken twice is refused."""
        if name in self._offered:
            return self._offered[name]
        offers, registered = plugins.offers(self.group).get(name, ()), self._registered.get(name)
        if not offers:
            return registered
        taken = [str(offer) for offer in offers]
        if registered and _import_package(registered) == OWN_PACKAGE:
            taken.insert(0, "flatsweep itself")
        if len(taken) > 1:
            # to choose one would change what a sweep file means with what happens to be installed beside it
            self._offered[name] = f"several have this name, uninstall all but one: {'; '.join(taken)}"
        else:
            self._offered[name] = offers[0].load(self.base)
        return self._offered[name]


class Selection(Vocabulary[C]):
    """Those components of a vocabulary that `accepts` takes."""

    def __init__(self, kind: str, of: Vocabulary[C], accepts: Callable[[type[C]], bool]) -> None:
        super().__init__(kind, of.base)
        self._of, self._accepts = of, accepts

    def names(self) -> list[str]:
        """The names; everything that other packages offer is imported for it."""
        return [name for name in self._of.names() if self.find(name)]

    def look_up(self, name: str) -> type[C] | str | None:
        """As in the vocabulary that it selects from."""
        found = self._of.look_up(name)
        return found if isinstance(found, str) or (found and self._accepts(found)) else None


def _needs_parameters(cls: type[Component]) -> bool:
    return any(field.is_required() for field in cls.model_fields.values())
