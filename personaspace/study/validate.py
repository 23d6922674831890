"""Loads a spec and finds every mistake in one pass, each with its path in the file."""

from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from personaspace.errors import SpecErrors, UserError
from personaspace.study import base_model, sources
from personaspace.study.spec import Experiment

Problem = tuple[str, str]
Location = tuple[int | str, ...]

#: Stands in for an invalid value while the rest is checked; never shown.
_PLACEHOLDER = "invalid-value-"


def path_of(location: Location) -> str:
    """`("conditions", 3, "persona")` as `conditions[3].persona`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _message(error: dict[str, Any]) -> tuple[str, str]:
    """What is wrong, and the value that is."""
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return "unknown field", ""
    if kind == "missing":
        return "is required", ""
    if kind == "value_error":
        return str(error["ctx"]["error"]), ""
    message = error["msg"][0].lower() + error["msg"][1:]
    if isinstance(given, str | int | float | bool) or given is None:
        return message, f" (got {given!r})"
    return message, ""


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


def _field_problems(failure: ValidationError, raw: Any) -> dict[Location, str]:
    """One message for each faulty location."""
    located = [(*_trim(dict(error), raw), dict(error)) for error in failure.errors()]
    depth: dict[Location, int] = {}
    for location, union, _ in located:
        if union is not None:
            depth[union] = max(len(location), depth.get(union, 0))
    said: dict[Location, list[tuple[str, str]]] = {}
    for location, union, error in located:
        # The member of a union that fits furthest is the one that was meant.
        if union is None or len(location) == depth[union]:
            messages = said.setdefault(location, [])
            if _message(error) not in messages:
                messages.append(_message(error))
    return {
        location: " or ".join(text for text, _ in messages) + messages[-1][1]
        for location, messages in said.items()
    }


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


def _duplicates(names: list[str], what: str) -> Iterator[Problem]:
    counts = Counter(names)
    for index, name in enumerate(names):
        if counts[name] > 1 and name in names[:index]:
            yield f"{what}[{index}].name", f"{name!r} is already the name of another"


def _persona_references(spec: Experiment) -> Iterator[tuple[str, str]]:
    for index, condition in enumerate(spec.conditions):
        if condition.persona is not None:
            yield f"conditions[{index}].persona", condition.persona
    for index, name in enumerate(spec.extraction.personas or []):
        yield f"extraction.personas[{index}]", name
    yield "coupling.source", spec.coupling.source
    for index, name in enumerate(spec.coupling.negatives):
        yield f"coupling.negatives[{index}]", name
    for index, name in enumerate(spec.evaluation.personas or []):
        yield f"evaluation.personas[{index}]", name
    yield "analysis.assistant", spec.analysis.assistant


def _check_conditions(spec: Experiment) -> Iterator[Problem]:
    yield from _duplicates([c.name for c in spec.conditions], "conditions")
    yield from _duplicates([p.name for p in spec.personas], "personas")
    bases = [i for i, c in enumerate(spec.conditions) if c.kind == "base"]
    if not bases and all(c.dataset is not None for c in spec.conditions):
        yield "conditions", "one condition without a dataset is needed as the base"
    for index in bases[1:]:
        if spec.conditions[index].dataset is None:
            yield f"conditions[{index}].kind", "there is already a base condition"
    for index, condition in enumerate(spec.conditions):
        if condition.dataset is not None and condition.dataset not in spec.datasets:
            known = ", ".join(sorted(spec.datasets)) or "none"
            yield (
                f"conditions[{index}].dataset",
                f"unknown dataset {condition.dataset!r} (known: {known})",
            )
        if condition.dataset is None and condition.kind != "base":
            yield f"conditions[{index}].kind", "a condition without a dataset is the base"
        if condition.dataset is not None and condition.kind == "base":
            yield f"conditions[{index}].dataset", "the base condition is not trained"
    for index, seed in enumerate(spec.seeds):
        if seed in spec.seeds[:index]:
            yield f"seeds[{index}]", f"{seed} is listed twice"
    for section in ("training", "coupling.recipe"):
        recipe = spec.training if section == "training" else spec.coupling.recipe
        if recipe.row_tokens is not None and recipe.row_tokens < recipe.max_tokens:
            yield f"{section}.row_tokens", f"is less than max_tokens ({recipe.max_tokens})"


def _check_reruns(spec: Experiment) -> Iterator[Problem]:
    known = {condition.name: condition for condition in spec.conditions}
    for index, rerun in enumerate(spec.rerun):
        where = f"rerun[{index}]"
        if rerun.condition is not None and rerun.condition not in known:
            yield f"{where}.condition", f"unknown condition {rerun.condition!r}"
        elif rerun.stage == "aggregate" and (rerun.condition, rerun.seed) != (None, None):
            yield f"{where}.stage", "aggregate is of the whole study: leave out condition and seed"
        elif rerun.condition and rerun.stage == "train" and known[rerun.condition].dataset is None:
            yield f"{where}.stage", f"{rerun.condition} has no data set and is not trained"
        if rerun.seed is not None and rerun.seed not in spec.seeds:
            yield f"{where}.seed", f"{rerun.seed} is not among the seeds"


def _check_coupling(spec: Experiment) -> Iterator[Problem]:
    coupling = spec.coupling
    for index, name in enumerate(coupling.negatives):
        if name == coupling.source:
            yield f"coupling.negatives[{index}]", f"{name!r} is the source persona"
        if name in coupling.negatives[:index]:
            yield f"coupling.negatives[{index}]", f"{name!r} is listed twice"


def _check_analysis(spec: Experiment) -> Iterator[Problem]:
    known = {persona.name for persona in spec.personas}
    trained = [c.name for c in spec.conditions if c.kind == "em"]
    if spec.analysis.axis is not None and spec.analysis.axis not in trained:
        yield "analysis.axis", f"unknown em condition {spec.analysis.axis!r}"
    if spec.analysis.assistant in known.difference(spec.extracted_personas()):
        yield "analysis.assistant", "is not among the extracted personas"
    for section, names in (
        ("extraction.personas", spec.extraction.personas or []),
        ("evaluation.personas", spec.evaluation.personas or []),
    ):
        for index, name in enumerate(names):
            if name in names[:index]:
                yield f"{section}[{index}]", f"{name!r} is listed twice"
    if spec.analysis.method not in spec.extraction.methods:
        yield "analysis.method", f"{spec.analysis.method!r} is not extracted"
    if spec.coupling.source in known.difference(spec.grid()):
        yield "evaluation.personas", f"must hold the source persona {spec.coupling.source!r}"


def _check_layers(spec: Experiment) -> Iterator[Problem]:
    shape, headline = base_model.shape(spec.model), spec.analysis.layer
    if spec.extraction.layers == "all":
        if headline is not None and shape is not None and headline >= shape.num_layers:
            yield "analysis.layer", f"{headline} is not extracted"
        return
    if not spec.extraction.layers:
        yield "extraction.layers", "name at least one layer"
    for index, layer in enumerate(spec.extraction.layers):
        if shape is not None and layer >= shape.num_layers:
            yield (
                f"extraction.layers[{index}]",
                f"{layer} is outside the model: {spec.model.name} has layers 0 to "
                f"{shape.num_layers - 1}",
            )
        if layer in spec.extraction.layers[:index]:
            yield f"extraction.layers[{index}]", f"{layer} is listed twice"
    if headline is not None and headline not in spec.extraction.layers:
        yield "analysis.layer", f"{headline} is not extracted"


def _cross_checks(spec: Experiment) -> Iterator[Problem]:
    known = {persona.name for persona in spec.personas}
    for path, name in _persona_references(spec):
        if name not in known:
            yield path, f"unknown persona {name!r}"
    yield from _check_conditions(spec)
    yield from _check_coupling(spec)
    yield from _check_reruns(spec)
    yield from _check_analysis(spec)
    try:
        yield from _check_layers(spec)
    except UserError as error:
        path, _, text = str(error).partition(": ")
        yield path, text


#: What cannot be judged where the list that it looks into was itself faulty.
_LOOKS_INTO = {
    "unknown persona": "personas",
    "is not among the extracted personas": "personas",
    "must hold the source persona": "personas",
    "unknown dataset": "datasets",
    "unknown em condition": "conditions",
    "unknown condition": "conditions",
}
_DECIDES_KIND = re.compile(r"conditions\[\d+\](\.dataset|\.kind)?")
_ONE_OF_MANY = re.compile(r"conditions\[|personas\[")


def _follows(path: str, message: str, faulty: set[str]) -> bool:
    """Whether a complaint only follows from fields that fell back to their defaults."""
    if _PLACEHOLDER in message:
        return True
    if any(message.startswith(start) and of in faulty for start, of in _LOOKS_INTO.items()):
        return True
    about_kind = path == "conditions" or _DECIDES_KIND.fullmatch(path)
    if about_kind and any(_DECIDES_KIND.fullmatch(field) for field in faulty):
        return not message.startswith("unknown")
    # One faulty condition or persona says nothing of the others; any other list falls back whole.
    fallen = {field if _ONE_OF_MANY.match(field) else field.partition("[")[0] for field in faulty}
    return any(path == field or path.startswith((f"{field}.", f"{field}[")) for field in fallen)


def examine(raw: Any) -> tuple[Experiment | None, list[Problem]]:
    """Validate a spec's plain values, and save what is sound of a faulty spec.

    Returns:
        The experiment, faulty fields left to their defaults (none if nothing can be made of it),
        and all problems as (path, message) in the file's order of discovery: fields first, then
        what does not fit together.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        return None, [("", "a spec is a mapping of fields")]
    problems: list[Problem] = []
    try:
        spec = Experiment.model_validate(raw)
    except ValidationError as failure:
        faults = _field_problems(failure, raw)
        problems = [(path_of(location), message) for location, message in faults.items()]
        try:
            spec = Experiment.model_validate(_without(raw, faults))
        except ValidationError:
            return None, problems
    faulty = {path for path, _ in problems}
    for path, message in _cross_checks(spec):
        if path not in faulty and not _follows(path, message, faulty):
            problems.append((path, message))
    return spec, problems


def check(raw: Any) -> tuple[Experiment | None, list[Problem]]:
    """As `examine`, but the experiment only if it is sound."""
    spec, problems = examine(raw)
    return (None if problems else spec), problems


def only_follows(path: str, message: str, problems: Sequence[Problem]) -> bool:
    """Whether a complaint about a saved spec may only follow from problems found before."""
    return _follows(path, message, {faulty for faulty, _ in problems})


def lines(problems: Iterable[Problem]) -> list[str]:
    """Problems for people: `path: message`."""
    return [f"{where}: {what}" if where else what for where, what in problems]


def read_raw(path: Path | str) -> Any:
    """A spec file's plain values.

    A file that holds a whole Helm values file is fine too: its `experiment` part is used.

    Raises:
        UserError: The file is missing or not YAML.
    """
    path = Path(path)
    raw = sources.parse_yaml(sources.read_text(str(path.absolute()), path.parent), str(path))
    if isinstance(raw, dict) and isinstance(raw.get("experiment"), dict):
        raw = raw["experiment"]
    return raw


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
        faults = _field_problems(failure, raw)
        raise SpecErrors(lines((path_of(where), what) for where, what in faults.items())) from None


def load_spec(path: Path | str) -> Experiment:
    """Read a spec, but nothing that it points to.

    Raises:
        SpecErrors: Every mistake, each as `path: message`.
        UserError: The file is missing or not YAML.
    """
    spec, problems = read_spec(path)
    if spec is None or problems:
        raise SpecErrors(lines(problems))
    return spec
