"""What pydantic says of a faulty value, in plain words: what it must be, and what was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from personaspace.study.fields import PATTERNS

_KINDS = {
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
}


def _number(limit: float) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _items(count: int) -> str:
    return "needs at least one entry" if count == 1 else f"needs at least {count} entries"


def _letters(count: int) -> str:
    return "must not be empty" if count == 1 else f"must have at least {count} characters"


#: By pydantic's kinds of errors, from their contexts.
_LIMITS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda c: f"must be more than {_number(c['gt'])}",
    "greater_than_equal": lambda c: f"must be at least {_number(c['ge'])}",
    "less_than": lambda c: f"must be less than {_number(c['lt'])}",
    "less_than_equal": lambda c: f"must be at most {_number(c['le'])}",
    "literal_error": lambda c: f"must be {c['expected']}",
    "too_short": lambda c: _items(c["min_length"]),
    "too_long": lambda c: f"takes at most {c['max_length']} entries",
    "string_too_short": lambda c: _letters(c["min_length"]),
    "string_too_long": lambda c: f"must have at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c: f"must be {_form(c['pattern'])}",
}


def _form(pattern: str) -> str:
    return PATTERNS.get(pattern, f"of the form {pattern}")


def wording(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors (of `ValidationError.errors()`) in words, without the value."""
    kind = str(error["type"])
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in _LIMITS:
        return _LIMITS[kind](error["ctx"])
    message = str(error["msg"])
    return message[0].lower() + message[1:]


def remedy(error: Mapping[str, Any]) -> str:
    """What a person most likely meant, where YAML or a habit made something else of it."""
    kind, given = str(error["type"]), error.get("input")
    if kind == "list_type" and isinstance(given, str | int | float):
        return f": write [{given}]"
    if kind == "string_type" and isinstance(given, list | dict | int | float):
        return ": put it in quotes"
    return ""
