"""Overrides: a mapping of a sweep file merged into another one, with the place where every value of the result stands.

The same rule serves profiles, which change a whole file, and a grid's own `data`, `model` and `training`, which change
the file's: mappings merge key by key, anything else replaces.
"""

from typing import Any

Path = tuple[str | int, ...]
Origins = dict[Path, Path]
"""Place in some data -> place in the data that it was made from. What is not named here goes with what is around it."""


def source(place: Path, origins: Origins) -> Path:
    """Where a place comes from, by the nearest place around it that has an origin."""
    for end in range(len(place), -1, -1):
        if place[:end] in origins:
            return (*origins[place[:end]], *place[end:])
    return place


def chained(outer: Origins, inner: Origins) -> Origins:
    """The origins of data in two steps: `outer` leads to the data whose places `inner` leads on."""
    return {place: source(origin, inner) for place, origin in outer.items()}


def merged(base: Any, override: Any, base_at: Path, override_at: Path) -> tuple[Any, Origins]:
    """`base` with the changes of `override`; neither of the two is changed.

    A component that is given by another `name` replaces the one that is there, since its parameters belong to another
    class. Parameters without a name belong to the component that is there, which may stand as its name alone.

    Args:
        base: plain data.
        override: plain data.
        base_at: place of the first.
        override_at: place of the second.

    Returns:
        The result and the origins of its places, () being the result itself.
    """
    if isinstance(base, str) and isinstance(override, dict) and "name" not in override:
        base = {"name": base}
    if not isinstance(base, dict) or not isinstance(override, dict):
        return override, {(): override_at}
    if "name" in override and override["name"] != base.get("name"):
        return override, {(): override_at}
    return merged_keys(base, override, base_at, override_at)


def merged_keys(
    base: dict[str, Any], override: dict[str, Any], base_at: Path, override_at: Path
) -> tuple[dict[str, Any], Origins]:
    """As `merged`, for two mappings that are no components: a `name` in them is a value like any other."""
    result = dict(base)
    origins: Origins = {(): base_at}
    for key, value in override.items():
        if key in base:
            result[key], own = merged(base[key], value, (*base_at, key), (*override_at, key))
        else:
            result[key], own = value, {(): (*override_at, key)}
        origins |= {(key, *inner): place for inner, place in own.items()}
    return result, origins
