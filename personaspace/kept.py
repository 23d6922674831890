"""What is asked for again and again of the same objects is worked out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")

_known: dict[str, tuple[tuple[Any, ...], Any]] = {}


def once(what: str, of: tuple[Any, ...], make: Callable[[], Value]) -> Value:
    """What `make` returns: the former value where it was made of the very same objects.

    For objects that are never changed but cannot be hashed, as a study's parts are.

    Args:
        what: Name of the value.
        of: All that it depends on; kept, together with the value, until there are others.
        make: Works it out.
    """
    known = _known.get(what)
    if known is None or any(ours is not theirs for ours, theirs in zip(of, known[0], strict=True)):
        known = of, make()
        _known[what] = known
    value: Value = known[1]
    return value
