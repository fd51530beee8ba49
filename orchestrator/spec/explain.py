"""Pydantic's errors -> problems in plain words at the lines of the sweep file."""

import json
import re
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.errors import suggest
from orchestrator.spec.axes import TooManyCells, expand_sweep
from orchestrator.spec.base import Spec, Vocabulary, place_of
from orchestrator.spec.document import Document, Problem
from orchestrator.spec.merging import Origins, Path, source
from orchestrator.spec.sweep import Sweep

_EXPECTED = {
    "bool": "true or false",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "model": "a mapping",
    "string": "text",
    "tuple": "a list",
}
"""In plain words what an error type that begins so asks for."""
_BOUNDS = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}
_SAYS_ALL = {"unknown_name", "unusable", "fraction", "number", "integer", "secret", "storage"}
"""Errors of ours whose message holds the value already, or must not."""


def explain(error: ValidationError, document: Document) -> list[Problem]:
    """The problems behind a failed validation of the document as a `Sweep`, without those that only follow.

    Empty only where all of them follow from values that the document lost.
    """
    try:
        expanded, origins = expand_sweep(document.data)
    except TooManyCells:
        expanded, origins = document.data, {}
    errors = error.errors(include_url=False)
    around = {item["loc"][:end] for item in errors for end in range(len(item["loc"]))}
    innermost = (item for item in errors if item["loc"] not in around)
    # the variants of an axis repeat, perhaps 100,000 times, the error of what they share
    once = {(source(place_of(item), origins), item["type"], item["msg"]): item for item in innermost}
    problems = [_problem(item, expanded, origins, document) for item in once.values()]
    lost = document.lost
    return [item for item in problems if not any(item.place[:end] in lost for end in range(len(item.place) + 1))]


def dotted(place: Path) -> str:
    """`grid.methods[2].beta`; items count from 0."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def show(value: Any) -> str:
    """A value from the file as short text."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _problem(error: ErrorDetails, expanded: Any, origins: Origins, document: Document) -> Problem:
    loc = place_of(error)
    place = source(loc, origins)
    owner = _owner(expanded, loc)
    message = _message(error, loc, owner)
    found, value = _look_up(document.data, place)
    if found and error["type"] in {*_BOUNDS, "problem", "value_error", "finite_number"} and not isinstance(value, dict):
        message += f" (got {show(value)})"
    return document.problem(place, message)


def _message(error: ErrorDetails, loc: Path, owner: type[Spec] | None) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    fields = owner.model_fields if owner else {}
    if kind == "extra_forbidden":
        allowed = [*fields, "profiles"] if owner is Sweep else fields
        return f"unknown key '{loc[-1]}'; {suggest(str(loc[-1]), allowed)}"
    if kind == "missing":
        described = fields[str(loc[-1])].description if str(loc[-1]) in fields else None
        return f"required key '{loc[-1]}' is missing" + (f" ({described.rstrip('.')})" if described else "")
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{words} {context[bound]:g}"
    if kind == "finite_number":
        return "must be a finite number"
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short" or (isinstance(value, list) and not value):
        return "the list is empty: give at least one value"
    if kind == "literal_error":
        hint = suggest(value, re.findall("'([^']*)'", context["expected"])) if isinstance(value, str) else ""
        return f"expected {context['expected']}, got {show(value)}" + (f"; {hint}" if "did you mean" in hint else "")
    if kind in _SAYS_ALL or kind == "problem":
        return error["msg"]
    if kind == "component":
        return error["msg"] + ("" if isinstance(value, dict) else f", got {show(value)}")
    if kind == "int_parsing_size":
        return "expected a whole number of fewer digits"
    if (expected := _EXPECTED.get(kind.split("_")[0])) is not None:
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(value, int | float) else ""
        return f"expected {expected}, got {show(value)}{quotes}"
    return f"{error['msg']}, got {show(value)}"


def _look_up(data: Any, place: Path) -> tuple[bool, Any]:
    for key in place:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, data


def _owner(data: Any, loc: Path) -> type[Spec] | None:
    """The class that has the last key of `loc` as a field, or lacks it; None where that cannot be told."""
    kind: Vocabulary[Any] | type[Spec] | None = Sweep
    for key in loc[:-1]:
        if not isinstance(key, int):
            owner = _class(kind, data)
            field = owner.model_fields.get(key) if owner else None
            kind = _kind((field.annotation, *field.metadata)) if field else None
        found, data = _look_up(data, (key,))
        if not found:
            return None
    return _class(kind, data)


def _class(kind: Vocabulary[Any] | type[Spec] | None, data: Any) -> type[Spec] | None:
    if not isinstance(kind, Vocabulary):
        return kind
    name = data.get("name") if isinstance(data, dict) else data
    return kind.find(name) if isinstance(name, str) else None


def _kind(parts: tuple[Any, ...]) -> Vocabulary[Any] | type[Spec] | None:
    """What an annotation's innermost values are: a registry's components or one kind of spec."""
    for part in parts:
        if isinstance(part, Vocabulary):
            return part
    for part in parts:
        if isinstance(part, type) and issubclass(part, Spec):
            return part
        if (inner := _kind(get_args(part))) is not None:
            return inner
    return None
