"""The JSON schema of the sweep file as it is written, for editors and `flatsweep schema`.

Pydantic knows the file with its axes expanded; here each parameter on an axis also takes a list, one grid stands for a
list of one, and what changes something else (a profile, a grid's own training) has its shape with nothing required.
What a schema cannot say (no trial twice, eps within the norm's range) is left to loading.
"""

from typing import Any

from orchestrator.spec.profiles import KEY as PROFILES
from orchestrator.spec.sweep import NAME_PATTERN, SHARED, Sweep

Schema = dict[str, Any]

NUMBER_AS_TEXT = r"^\s*[-+]?([0-9]+\s*/\s*[0-9]+|([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?)\s*$"
"""A fraction such as 8/255, or a number that YAML 1.1 takes for text, such as 1e-3."""

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def sweep_schema() -> Schema:
    """JSON schema, draft 2020-12, of a sweep file."""
    schema = _tidy(Sweep.model_json_schema())
    definitions = schema.pop("$defs")
    properties = schema["properties"]
    for section in SHARED:
        described = {"description": properties[section]["description"]}
        properties[section] = _with_axes(properties[section]["items"], definitions) | described
    grid = definitions["Grid"]["properties"]
    for section in SHARED:
        described = {"description": grid[section]["description"]}
        grid[section] = {"$ref": f"#/$defs/{_change(section)}"} | described
    grid["methods"]["items"] = _with_axes(grid["methods"]["items"], definitions)
    component = _with_axes(grid["regularizers"]["items"]["items"], definitions)
    none = {"const": "none", "title": "no regularizer"}
    together = {"type": "array", "items": component, "title": "regularizers that apply together"}
    grid["regularizers"]["items"] = {"anyOf": [none, component, together]}
    grid["regularizers"]["default"] = ["none"]
    properties["grid"] = _one_or_several(properties["grid"])
    for key in ("methods", "regularizers"):
        definitions[key.capitalize()] = grid[key]
        grid[key] = {"$ref": f"#/$defs/{key.capitalize()}", "description": grid[key]["description"]}
    used = {name: item for name, item in definitions.items() if name not in {"Training", "Attack"}}
    used |= {_change(section): _changing(properties[section], definitions) for section in SHARED}
    changes = dict(properties) | {section: {"$ref": f"#/$defs/{_change(section)}"} for section in SHARED}
    profile = _changing({"type": "object", "properties": changes}, used)
    used["Profile"] = profile | {"additionalProperties": False, "title": "changes to this file"}
    properties[PROFILES] = {
        "type": "object",
        "description": "Named changes to this file, one of which `--profile NAME` applies.",
        "propertyNames": {"pattern": f"^(?:{NAME_PATTERN.pattern})$"},
        "additionalProperties": {"$ref": "#/$defs/Profile"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flatsweep sweep file",
        "description": "A grid of adversarial-training trials. A parameter given as a list is an axis of the grid.",
        **{key: item for key, item in schema.items() if key not in {"title", "description"}},
        "$defs": used,
    }


def _change(section: str) -> str:
    return f"{section.capitalize()}Change"


def _one_or_several(grids: Schema) -> Schema:
    """One grid, or a list of them."""
    several = {"type": "array", "items": grids["items"], "minItems": 1, "title": "several grids: their union"}
    return {"description": grids["description"], "anyOf": [grids["items"], several]}


def _changing(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema of what is merged into a value: nothing is required. Lists replace, so they stay as they are."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name.endswith("Change") or definitions[name].get("type") == "array":
            return node
        return _changing(definitions[name], definitions) | {key: item for key, item in node.items() if key != "$ref"}
    if "anyOf" in node:
        return node | {"anyOf": [_changing(item, definitions) for item in node["anyOf"]]}
    if "properties" not in node:
        return node
    properties = {key: _changing(item, definitions) for key, item in node["properties"].items()}
    return {key: item for key, item in node.items() if key != "required"} | {"properties": properties}


def _tidy(node: Any) -> Any:
    """Bounds and patterns in JSON schema's own words, and `name` required in every component."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _tidy(item) for key, item in node.items() if key != "default" or _is_plain(item)}
    if [item.get("type") for item in node.get("anyOf", ())] == ["number", "string"]:
        bounds = {_BOUNDS[key]: node.pop(key) for key in list(node) if key in _BOUNDS}
        node["anyOf"] = [{"type": "number", **bounds}, {"type": "string", "pattern": NUMBER_AS_TEXT}]
    for key in [key for key in node if key in _BOUNDS]:
        node[_BOUNDS[key]] = node.pop(key)
    if "const" in _name_of(node):
        node["required"] = ["name", *(key for key in node.get("required", ()) if key != "name")]
    return node


def _is_plain(default: Any) -> bool:
    """Whether a default reads the same in the file; one with components inside stands there expanded."""
    items = default if isinstance(default, list) else [default]
    return not any(isinstance(item, dict | list) for item in items)


def _name_of(node: Schema) -> Schema:
    properties = node.get("properties")
    name = properties.get("name") if isinstance(properties, dict) else None
    return name if isinstance(name, dict) else {}


def _with_axes(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """The schema of one component or section in which each parameter may be a list of its values."""
    if "$ref" in node:
        found = definitions[node["$ref"].rpartition("/")[2]]
        return _with_axes(found, definitions) | {key: item for key, item in node.items() if key != "$ref"}
    if "anyOf" in node:
        return node | {"anyOf": [_with_axes(item, definitions) for item in node["anyOf"]]}
    if "properties" not in node:
        return node
    properties = {
        key: item if "const" in item else _axis(_with_axes(item, definitions))
        for key, item in node["properties"].items()
    }
    return node | {"properties": properties}


def _axis(value: Schema) -> Schema:
    outer: Schema = {key: value[key] for key in ("title", "description", "default") if key in value}
    inner = {key: item for key, item in value.items() if key not in outer}
    axis = {"type": "array", "items": inner, "minItems": 1, "title": "an axis: one variant per value"}
    return {**outer, "anyOf": [inner, axis]}
