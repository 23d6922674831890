"""Loads a spec and finds every mistake in one pass, each with its path in the file."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from personaspace.errors import SpecErrors, UserError
from personaspace.study import sources
from personaspace.study.cross_checks import cross_checks
from personaspace.study.problems import Location, Problem, field_problems
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment

#: Stands in for an invalid value while the rest is checked; never shown.
_PLACEHOLDER = "invalid-value-"


def _without(raw: Any, locations: Iterable[Location]) -> Any:
    """A copy in which faulty fields are left to their defaults, so that the rest can be checked."""
    clean = copy.deepcopy(raw)
    for location in sorted(locations, key=len, reverse=True):
        head = location[0] if location else None
        if head in ("conditions", "personas") and len(location) > 1:
            items, index = clean[head], location[1]
            if not isinstance(items[index], dict):
                items[index] = {}
            if len(location) > 2:
                items[index].pop(location[2], None)
            items[index].setdefault("name", f"{_PLACEHOLDER}{index}")
        elif head == "datasets" and len(location) > 1:
            clean[head][location[1]] = {"path": _PLACEHOLDER}
        else:
            parent = clean
            # Fields up to the first list index: a list with a faulty item falls back as a whole.
            fields = list(itertools.takewhile(lambda part: isinstance(part, str), location))
            for part in fields[:-1]:
                parent = parent[part]
            if fields:
                parent.pop(fields[-1], None)
    return clean


#: What cannot be judged where the list that it looks into was itself faulty.
_LOOKS_INTO = {
    Code.UNKNOWN_PERSONA: "personas",
    Code.ASSISTANT_NOT_EXTRACTED: "personas",
    Code.SOURCE_NOT_EVALUATED: "personas",
    Code.UNKNOWN_DATASET: "datasets",
    Code.UNKNOWN_CONDITION: "conditions",
}
#: What depends on which condition is trained.
_OF_KINDS = {
    Code.NO_BASE,
    Code.SECOND_BASE,
    Code.UNTRAINED_CONDITION,
    Code.TRAINED_BASE,
    Code.NOT_COMPUTED,
}
_DECIDES_KIND = re.compile(r"conditions\[\d+\](\.dataset|\.adapter|\.kind)?")
_ONE_OF_MANY = re.compile(r"conditions\[|personas\[")


def _follows(problem: Problem, faulty: set[str]) -> bool:
    """Whether a complaint only follows from fields that fell back to their defaults.

    Args:
        problem: The complaint.
        faulty: Paths of these fields.
    """
    path = problem.path
    if _LOOKS_INTO.get(problem.code) in faulty:
        return True
    if problem.code in _OF_KINDS and any(_DECIDES_KIND.fullmatch(field) for field in faulty):
        return True
    # A data set with a faulty field was not read: a placeholder stands in for it. And an endpoint
    # with one is another.
    parts = problem.code in (Code.INPUT, Code.NOT_COMPUTED)
    if parts and any(f.startswith(f"{path}.") for f in faulty):
        return True
    if problem.code is Code.NOT_COMPUTED and any(f.partition("[")[0] == "seeds" for f in faulty):
        return True
    # One faulty condition or persona says nothing of the others; any other list falls back whole.
    fallen = {field if _ONE_OF_MANY.match(field) else field.partition("[")[0] for field in faulty}
    return any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fallen)


def examine(raw: Any) -> tuple[Experiment | None, list[Problem]]:
    """Validate a spec's plain values, and save what is sound of a faulty spec.

    Returns:
        The experiment, faulty fields left to their defaults (none if nothing can be made of it),
        and all problems in the file's order of discovery: fields first, then what does not fit
        together.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        return None, [Problem("", Code.NOT_A_MAPPING, "a spec is a mapping of fields")]
    problems: list[Problem] = []
    try:
        spec = Experiment.model_validate(raw)
    except ValidationError as failure:
        faults = field_problems(failure, raw)
        problems = list(faults.values())
        try:
            spec = Experiment.model_validate(_without(raw, faults))
        except ValidationError:
            return None, problems
    problems += _empty_sections(raw)
    faulty = {problem.path for problem in problems}
    for problem in cross_checks(spec):
        if problem.path not in faulty and not _follows(problem, faulty):
            problems.append(problem)
    return spec, problems


#: What is off unless its section is there: a key with nothing under it would say the one, and mean
#: the other.
_SWITCHES = {"judge": "name its model below it", "log_odds": "write {}", "steering": "write {}"}


def _empty_sections(raw: dict[str, Any]) -> list[Problem]:
    """Sections that are named, and of which nothing is said."""
    empty = {name: on for name, on in _SWITCHES.items() if name in raw and raw[name] is None}
    personas = raw.get("personas")
    for index, persona in enumerate(personas if isinstance(personas, list) else []):
        if isinstance(persona, dict) and "prompts" in persona and persona["prompts"] is None:
            empty[f"personas[{index}].prompts"] = "list wordings"
    return [
        Problem(
            name,
            Code.INVALID_VALUE,
            f"has nothing under it: {on} to have it, or take the line out to go without",
        )
        for name, on in empty.items()
    ]


def check(raw: Any) -> tuple[Experiment | None, list[Problem]]:
    """As `examine`, but the experiment only if it is sound."""
    spec, problems = examine(raw)
    return (None if problems else spec), problems


def only_follows(problem: Problem, known: Sequence[Problem]) -> bool:
    """Whether a complaint about a saved spec may only follow from problems found before."""
    return _follows(problem, {other.path for other in known})


def read_raw(path: Path | str) -> Any:
    """A spec file's plain values.

    A file is a study, or a chart's values, whose `experiment` holds the study. Of the latter only
    that part is used, so a study's own fields beside it would be lost, and are refused.

    Raises:
        UserError: The file is missing, not YAML, no mapping, or both a study and a chart's values.
    """
    path = Path(path)
    raw = sources.parse_yaml(sources.read_text(str(path.absolute()), path.parent), str(path))
    if raw is None:
        # Fields that are not given have the published study's values: here, all of them.
        raise UserError(f"{path}: is empty: a study has at least a name")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: a study is a mapping of fields")
    if "experiment" not in raw:
        return raw
    beside = [name for name in raw if name in Experiment.model_fields]
    if beside:
        raise UserError(
            f"{path}: experiment: stands beside {', '.join(beside)}: a file is a study or a "
            "chart's values, not both"
        )
    if not isinstance(raw["experiment"], dict):
        raise UserError(f"{path}: experiment: a study is a mapping of fields")
    return raw["experiment"]


def read_spec(path: Path | str) -> tuple[Experiment | None, list[Problem]]:
    """`examine` for a file. Raises UserError as `read_raw`."""
    return examine(read_raw(path))


def fields_alone(raw: dict[str, Any]) -> Experiment:
    """A part of a study whose whole was checked before: what fits together is not asked again.

    Raises:
        SpecErrors: A field is wrong.
    """
    try:
        return Experiment.model_validate(raw)
    except ValidationError as failure:
        faults = field_problems(failure, raw)
        raise SpecErrors(list(faults.values())) from None


def load_spec(path: Path | str) -> Experiment:
    """Read a spec, but nothing that it points to.

    Raises:
        SpecErrors: Every mistake, each as `path: message`.
        UserError: The file is missing or not YAML.
    """
    spec, problems = read_spec(path)
    if spec is None or problems:
        raise SpecErrors(problems)
    return spec
