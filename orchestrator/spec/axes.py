"""Grid axes: a parameter given as a list becomes one variant per value; several grids become a list of them.

The expansion works on plain data before validation and keeps, for every place in its result, the place in the sweep
file that it came from, so that an error in one variant can be shown at its line. Whatever is not of the expected form
is passed on as it is, for validation to complain about.
"""

import itertools
import math
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from orchestrator.spec.base import Spec, Vocabulary
from orchestrator.spec.data import DATA
from orchestrator.spec.merging import Origins, Path, chained, merged
from orchestrator.spec.methods import METHODS
from orchestrator.spec.models import MODELS
from orchestrator.spec.regularizers import REGULARIZERS
from orchestrator.spec.training import Training

MAX_VARIANTS = 100_000

Variant = tuple[Any, Origins]
"""One value of an axis; its origins are relative to the value, () being the value itself."""
Kind = Vocabulary[Any] | type[Spec] | None

SECTIONS: tuple[tuple[str, Kind], ...] = (("data", DATA), ("model", MODELS), ("training", Training))
"""What all methods share; a grid may change it for its own trials."""


class TooManyCells(ValueError):  # noqa: N818  (reads as what it is)
    """The axes of a sweep file span more than `MAX_VARIANTS` cells."""


def expand_sweep(raw: dict[str, Any]) -> tuple[dict[str, Any], Origins]:
    """Expands `data`, `model`, `training` and each grid's methods and regularisers into lists of variants.

    `grid` becomes a list. Where a grid has `data`, `model` or `training` of its own, they are merged into the file's
    before they are expanded: each variant is complete.

    Raises:
        TooManyCells: there are more than `MAX_VARIANTS`.
    """
    result, origins = dict(raw), Origins()
    for section, kind in SECTIONS:
        if isinstance(raw.get(section), str | dict):
            result[section] = _collect(_variants(raw[section], kind, (section,)), (section,), origins)
    one = isinstance(raw.get("grid"), dict)
    if one or isinstance(raw.get("grid"), list):
        grids = [raw["grid"]] if one else raw["grid"]
        places: list[Path] = [("grid",) if one else ("grid", index) for index in range(len(grids))]
        result["grid"] = []
        cells = 0
        for index, (grid, at) in enumerate(zip(grids, places, strict=True)):
            origins["grid", index] = at
            expanded = _expanded_grid(grid, raw, at, ("grid", index), origins)
            result["grid"].append(expanded)
            cells += _cells(expanded, result)
            _limit(cells)
    return result, origins


def _expanded_grid(grid: Any, raw: dict[str, Any], at: Path, target: Path, origins: Origins) -> Any:
    """One grid that stands at `at` in the file and is to stand at `target`."""
    if not isinstance(grid, dict):
        return grid
    result = dict(grid)
    for section, kind in SECTIONS:
        if isinstance(grid.get(section), str | dict):
            # where the file has no such section there is nothing to merge with: None gives way to anything
            value, own = merged(raw.get(section), grid[section], (section,), (*at, section))
            here: Origins = {(): (*at, section)}  # of a variant as a whole; each of its keys has its own
            variants = [(variant, chained(inner, own) | here) for variant, inner in _variants(value, kind, ())]
            result[section] = _collect(variants, (*target, section), origins)
    for key, expand in (("methods", _method_variants), ("regularizers", _regularizer_variants)):
        if isinstance(grid.get(key), list):
            entries: list[Variant] = []
            for index, entry in enumerate(grid[key]):
                entries += expand(entry, (*at, key, index))
                _limit(len(entries))
            result[key] = _collect(entries, (*target, key), origins)
    return result


def _collect(variants: list[Variant], target: Path, origins: Origins) -> list[Any]:
    """The variants' values, to stand as a list at `target`; notes where they come from."""
    for index, (_, own) in enumerate(variants):
        origins.update({(*target, index, *inner): place for inner, place in own.items()})
    return [value for value, _ in variants]


def _cells(grid: Any, sweep: dict[str, Any]) -> int:
    """How many cells an expanded grid spans, as far as its axes are lists."""
    if not isinstance(grid, dict):
        return 0
    axes = [grid.get(section) or sweep.get(section) for section, _ in SECTIONS]
    axes += [grid.get(key) for key in ("methods", "regularizers", "seeds")]
    return math.prod(len(axis) for axis in axes if isinstance(axis, list))


def _limit(count: int) -> None:
    if count > MAX_VARIANTS:
        raise TooManyCells(f"the grid spans {count:,} cells; at most {MAX_VARIANTS:,} fit one sweep")


def _method_variants(entry: Any, at: Path) -> list[Variant]:
    return _variants(entry, METHODS, at)


def _regularizer_variants(entry: Any, at: Path) -> list[Variant]:
    """One entry of `regularizers`: `none`, one regulariser, or a list that applies together."""
    if entry == "none" or entry is None:
        return [([], {(): at})]
    if not isinstance(entry, list):
        return [([value], {(): at} | {(0, *inner): source for inner, source in own.items()})
                for value, own in _variants(entry, REGULARIZERS, at)]  # fmt: skip
    return _product({index: _variants(item, REGULARIZERS, (*at, index)) for index, item in enumerate(entry)}, at, list)


def _variants(value: Any, kind: Kind, at: Path) -> list[Variant]:
    """Every combination of the list-valued parameters inside one component or section."""
    if not isinstance(value, dict):
        return [(value, {(): at})]
    fields = _fields(value, kind)
    return _product({key: _options(item, fields.get(key), (*at, key)) for key, item in value.items()}, at, dict)


def _options(value: Any, field: FieldInfo | None, at: Path) -> list[Variant]:
    """The values of one parameter, each with where it stands."""
    kind = _kind(field)
    is_axis = isinstance(value, list) and value and field is not None
    if is_axis and get_origin(field.annotation if field else None) is tuple:
        is_axis = all(isinstance(item, list) for item in value)
    if not is_axis:
        return _variants(value, kind, at)
    return [variant for index, item in enumerate(value) for variant in _variants(item, kind, (*at, index))]


def _product(parts: dict[Any, list[Variant]], at: Path, make: type[dict[Any, Any]] | type[list[Any]]) -> list[Variant]:
    _limit(math.prod(len(options) for options in parts.values()))
    variants = []
    for combination in itertools.product(*parts.values()):
        origins: Origins = {(): at}
        for key, (_, own) in zip(parts, combination, strict=True):
            origins.update({(key, *inner): source for inner, source in own.items()})
        values = [value for value, _ in combination]
        variants.append((dict(zip(parts, values, strict=True)) if make is dict else values, origins))
    return variants


def _fields(value: dict[str, Any], kind: Kind) -> dict[str, FieldInfo]:
    if isinstance(kind, Vocabulary):
        cls = kind.find(str(value.get("name")))
        return cls.model_fields if cls else {}
    return kind.model_fields if kind else {}


def _kind(field: FieldInfo | None) -> Kind:
    """What a parameter's value is made of, where that has parameters of its own."""
    if field is None:
        return None
    for item in field.metadata:
        if isinstance(item, Vocabulary):
            return item
    return field.annotation if isinstance(field.annotation, type) and issubclass(field.annotation, Spec) else None
