"""Profiles: named sets of changes to a sweep file, `profiles: {small: {...}}`, one of which may be asked for."""

from dataclasses import replace
from typing import Any

from orchestrator.errors import suggest
from orchestrator.spec.document import Document, Problem
from orchestrator.spec.explain import show
from orchestrator.spec.merging import merged_keys
from orchestrator.spec.sweep import NAME_PATTERN, Sweep

KEY = "profiles"


def without_profiles(document: Document) -> Document:
    """The document as it is meant when no profile is asked for."""
    return replace(document, data={key: value for key, value in document.data.items() if key != KEY})


def with_profile(document: Document, name: str) -> Document:
    """The document with the changes of one of its profiles.

    Its sweep is called `<name>-<profile>` unless the profile says otherwise, so that runs never mix.

    Args:
        document: whose profiles have the right form (see `profile_problems`).
        name: of a profile in it (see `unknown_profile`).
    """
    plain = without_profiles(document).data
    override = document.data[KEY][name]
    data, origins = merged_keys(plain, override, (), (KEY, name))
    if "name" not in override and isinstance(plain.get("name"), str):
        data["name"] = f"{plain['name']}-{name}"
    return replace(document, data=data, origins=origins)


def unknown_profile(document: Document, name: str) -> Problem | None:
    """Why there is no such profile in the document; None where there is."""
    known = document.data.get(KEY, {})
    if name in known:
        return None
    if not known:
        return document.problem((), f"there is no profile '{name}': the file has no profiles")
    return document.problem((KEY,), f"there is no profile '{name}'; {suggest(name, known)}")


def profile_problems(document: Document) -> list[Problem]:
    """What is wrong with the form of the profiles, used or not. What they change is checked when one is used."""
    profiles = document.data.get(KEY, {})
    if not isinstance(profiles, dict):
        return [document.problem((KEY,), f"expected a mapping of names to changes, got {show(profiles)}")]
    return [problem for name, changes in profiles.items() for problem in _problems(document, name, changes)]


def _problems(document: Document, name: str, changes: Any) -> list[Problem]:
    place = (KEY, name)
    problems = []
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        text = f"'{name}' is not a plain name: use letters, digits, '.', '_' and '-' only"
        problems.append(document.problem(place, text))
    if place in document.lost:
        return problems
    if not isinstance(changes, dict):
        return [*problems, document.problem(place, f"expected a mapping of what it changes, got {show(changes)}")]
    for key in changes:
        if key not in Sweep.model_fields:
            text = f"unknown key '{key}'; {suggest(key, Sweep.model_fields)}"
            problems.append(document.problem((*place, key), text))
    if "name" in changes and changes["name"] == document.data.get("name"):
        text = "a profile needs another name than the sweep: their runs would mix"
        problems.append(document.problem((*place, "name"), text))
    return problems
