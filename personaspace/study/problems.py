"""What is wrong with a spec: each mistake with its place, its code and its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from pydantic import ValidationError

from personaspace.errors import did_you_mean, nearest
from personaspace.study.spec import Experiment
from personaspace.study.wording import remedy, wording

Location = tuple[int | str, ...]


class ProblemCode(StrEnum):
    """Kinds of mistakes."""

    NOT_A_MAPPING = "not-a-mapping"
    UNKNOWN_FIELD = "unknown-field"
    MISSING_FIELD = "missing-field"
    INVALID_VALUE = "invalid-value"
    DUPLICATE = "duplicate"
    UNKNOWN_PERSONA = "unknown-persona"
    UNKNOWN_DATASET = "unknown-dataset"
    UNKNOWN_CONDITION = "unknown-condition"
    UNKNOWN_SEED = "unknown-seed"
    IDLE_SEED = "idle-seed"
    BASE_WITHOUT_SEED = "base-without-seed"
    NO_BASE = "no-base"
    SECOND_BASE = "second-base"
    TWO_SOURCES = "two-sources"
    ADAPTER_SEEDS = "adapter-seeds"
    ADAPTER_COUPLED_FIRST = "adapter-coupled-first"
    UNTRAINED_CONDITION = "untrained-condition"
    TRAINED_BASE = "trained-base"
    OUT_OF_ORDER = "out-of-order"
    BEYOND_TRAINING = "beyond-training"
    NAME_TOO_LONG = "name-too-long"
    NOT_TRAINED_HERE = "not-trained-here"
    ROWS_TOO_SHORT = "rows-too-short"
    RERUN_NOT_OF_CONDITION = "rerun-not-of-condition"
    RERUN_UNTRAINED = "rerun-untrained"
    RERUN_COUPLED_ONCE = "rerun-coupled-once"
    SOURCE_IS_NEGATIVE = "source-is-negative"
    SOURCE_NOT_EVALUATED = "source-not-evaluated"
    ASSISTANT_NOT_EXTRACTED = "assistant-not-extracted"
    METHOD_NOT_EXTRACTED = "method-not-extracted"
    NOT_COMPUTED = "not-computed"
    LAYER_NOT_EXTRACTED = "layer-not-extracted"
    LAYER_OUTSIDE_MODEL = "layer-outside-model"
    NO_LAYERS = "no-layers"
    MODEL = "model"
    MODEL_UNPINNED = "model-unpinned"
    INPUT = "input"
    SEEN_QUESTION = "seen-question"
    TOO_FEW_ANSWERS = "too-few-answers"
    RESERVED_NAME = "reserved-name"
    UNKNOWN_MODULE = "unknown-module"
    TOO_MANY_TOKENS = "too-many-tokens"
    RANK_TOO_HIGH = "rank-too-high"
    UNEVEN_WORDINGS = "uneven-wordings"
    ONE_WORDING_ALONE = "one-wording-alone"
    HUB_NAME = "hub-name"


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec, or in what it points to.

    Attributes:
        path: Where, such as `conditions[3].persona`; empty for the whole.
        code: What kind of mistake.
        message: What is wrong, for people.
        suggestion: The known name that an unknown one was probably meant to be.
    """

    path: str
    code: ProblemCode
    message: str
    suggestion: str = ""

    def __str__(self) -> str:
        text = self.message + did_you_mean(self.suggestion)
        return f"{self.path}: {text}" if self.path else text


def path_of(location: Location) -> str:
    """`("conditions", 3, "persona")` as `conditions[3].persona`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def field_problems(failure: ValidationError, raw: Any) -> dict[Location, Problem]:
    """One problem for each faulty location.

    Args:
        failure: What pydantic says.
        raw: The plain values that it says this of.
    """
    located = [(*_trim(dict(error), raw), dict(error)) for error in failure.errors()]
    depth: dict[Location, int] = {}
    for location, union, _ in located:
        if union is not None:
            depth[union] = max(len(location), depth.get(union, 0))
    said: dict[Location, list[tuple[ProblemCode, str, str]]] = {}
    for location, union, error in located:
        # The member of a union that fits furthest is the one that was meant.
        if union is None or len(location) == depth[union]:
            messages = said.setdefault(location, [])
            if _message(error) not in messages:
                messages.append(_message(error))
    return {
        location: Problem(
            path_of(location),
            messages[0][0],
            " or ".join(text for _, text, _ in messages) + max((m[2] for m in messages), key=len),
            _near_field(location) if messages[0][0] is ProblemCode.UNKNOWN_FIELD else "",
        )
        for location, messages in said.items()
    }


def _message(error: dict[str, Any]) -> tuple[ProblemCode, str, str]:
    """Kind, what is wrong, and the value that is."""
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return ProblemCode.UNKNOWN_FIELD, "unknown field", ""
    if kind == "missing":
        return ProblemCode.MISSING_FIELD, "is required", ""
    if kind == "value_error":
        return ProblemCode.INVALID_VALUE, str(error["ctx"]["error"]), ""
    plain = isinstance(given, str | int | float | bool) or given is None
    value = f" (got {given!r})" if plain else ""
    return ProblemCode.INVALID_VALUE, wording(error), value + remedy(error)


def _trim(error: dict[str, Any], raw: Any) -> tuple[Location, Location | None]:
    """The parts of an error's location that are in the file.

    pydantic puts the name of a union's member into the location of what is wrong with that member.

    Returns:
        The location without such names, and the location of the innermost union, if there is one.
    """
    kept: list[int | str] = []
    union: Location | None = None
    value, last = raw, len(error["loc"]) - 1
    for number, part in enumerate(error["loc"]):
        missing = error["type"] == "missing" and number == last
        if isinstance(value, dict) and isinstance(part, str) and (part in value or missing):
            kept.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            kept.append(part)
            value = value[part]
        else:
            union = tuple(kept)
    return tuple(kept), union


@cache
def _schema() -> dict[str, Any]:
    return Experiment.model_json_schema()


def _members(place: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schemas that a part of the schema stands for."""
    if "$ref" in place:
        place = _schema()["$defs"][place["$ref"].rsplit("/", 1)[-1]]
    yield place
    for member in place.get("anyOf", ()):
        yield from _members(member)


def _near_field(location: Location) -> str:
    """The field nearest to an unknown one."""
    *parents, last = location
    places: list[dict[str, Any]] = [_schema()]
    for part in parents:
        found = [_inside(place, part) for place in places]
        places = [member for place in found if place for member in _members(place)]
    return nearest(str(last), [name for place in places for name in place.get("properties", {})])


def _inside(place: dict[str, Any], part: int | str) -> dict[str, Any] | None:
    """The schema of a list's item, or of a field."""
    of = place.get("items")
    if isinstance(part, str):
        of = place.get("properties", {}).get(part, place.get("additionalProperties"))
    return of if isinstance(of, dict) else None
