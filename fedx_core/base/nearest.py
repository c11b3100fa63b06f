"""The nearest name to one that is not there, said in the same words everywhere."""

import difflib
from collections.abc import Iterable


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most like a name, if one is."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def hint(name: str, choices: Iterable[str]) -> str:
    """Return ``did you mean 'x'? `` for the nearest choice; empty if none is near."""
    found = nearest(name, choices)
    return f"did you mean {found!r}? " if found is not None else ""
