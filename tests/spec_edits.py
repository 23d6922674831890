"""Changes of a spec, and the problems that are found in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from personaspace.study import validate
from personaspace.study.problems import Problem


def problems(values: Any) -> list[Problem]:
    spec, found = validate.check(values)
    assert (spec is None) == bool(found)
    return found


Edit = Callable[[dict[str, Any]], Any]


def put(path: str, value: Any) -> Edit:
    """Sets the value at `a.b[3].c`."""

    def edit(values: dict[str, Any]) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]]+", path)]
        at: Any = values
        for part in parents:
            at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
        at[last] = value

    return edit
