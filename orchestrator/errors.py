"""The one exception for a user's mistake or unusable surroundings: shown as a message, never as a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend. The command line prints the message and exits with code 2."""


class StoreError(UserError):
    """The tracking store cannot be asked; what the storage knows is there all the same."""


def suggest(name: str, allowed: Iterable[str]) -> str:
    """A sentence that offers the nearest of the allowed names, or lists them all where none is near."""
    names = sorted(allowed)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"allowed: {', '.join(names)}" if names else "nothing is allowed here"
