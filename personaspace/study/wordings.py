"""A persona in several wordings: files that hold them, and what a study of them must have.

Wordings are a sample of all the ways in which a persona could be asked for. They are known by their
text alone, in alphabetical order, so that the order of a list changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from personaspace.errors import UnavailableError, UserError
from personaspace.study import question_forms, sources
from personaspace.study.inputs import Persona, same_words
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment

#: Sides of a trait's entry: prompts that bring it out, and that hold it back.
_SIDES = ("pos", "neg")
_SIDE = re.compile(r"(?P<file>.+\.[A-Za-z]+)#(?P<side>[A-Za-z0-9_-]*)")
#: What a role file leaves for a program to fill in.
_BLANK = re.compile(r"\{[A-Za-z_]+\}")
_MOST = 100
#: Measures of a primary endpoint that are tested with wordings as a sample.
HELD = ("raw_cosine", "spread", "bystander")


def read_role(source: str, folder: Path) -> list[str]:
    """The wordings of a role's or trait's file.

    Args:
        source: A file as `sources.read_text` takes it, with `#pos` or `#neg` after it where its
            entries have both. It holds a list of texts, a text a line (.txt), or the field's form:
            `{"instruction": [{"pos": text}, …]}` (roles of assistant-axis), with `neg` beside `pos`
            (traits of persona_vectors).
        folder: Where relative paths start.

    Raises:
        UserError: Missing, of no known form, or entries with two sides of which none is named.
    """
    found = _SIDE.fullmatch(source)
    name, side = (found["file"], found["side"]) if found else (source, None)
    if side is not None and side not in _SIDES:
        raise UserError(f"{source}: #{side} is no side of a trait; #pos and #neg are")
    text = sources.read_text(name, folder)
    if name.partition("?")[0].endswith(".txt"):
        entries: Any = question_forms.from_lines(name, text)
    else:
        entries = _entries(name, sources.parse_yaml(text, name))
    texts = [_text(name, number, entry, side) for number, entry in enumerate(entries, 1)]
    if not texts:
        raise UserError(f"{name}: no wordings: a text a line is needed")
    if len(texts) > _MOST:
        raise UserError(f"{name}: {len(texts)} wordings; more than {_MOST} are none of one persona")
    for number, each in enumerate(texts, 1):
        if same_words(each) in map(same_words, texts[: number - 1]):
            raise UserError(f"{name}: {json.dumps(each)} is listed twice")
        if blank := _BLANK.search(each):
            raise UserError(
                f"{name}: wording {number} holds {blank[0]}, which nothing here fills in"
            )
    return texts


def _entries(name: str, value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = value.get("instruction")
    if not isinstance(value, list) or not value:
        raise UserError(
            f"{name}: no wordings: needs a list of texts, or instruction with a list of pos"
        )
    return value


def _text(name: str, number: int, entry: Any, side: str | None) -> str:
    where = f"{name}: wording {number}"
    if isinstance(entry, dict):
        sides = [each for each in _SIDES if each in entry]
        if side is None and len(sides) > 1:
            raise UserError(f"{where}: has pos and neg: say which, as {name}#pos")
        wanted = side or _SIDES[0]
        if side is None and sides == ["neg"]:
            raise UserError(
                f"{where}: has neg alone, the opposite of a trait: say so, as {name}#neg"
            )
        if wanted not in entry:
            fields = ", ".join(map(str, entry)) or "none"
            raise UserError(f"{where}: has no {wanted} (its fields are {fields})")
        entry = entry[wanted]
    elif side is not None:
        raise UserError(f"{where}: has no pos and neg, so #{side} means nothing")
    if not isinstance(entry, str) or not entry.strip():
        raise UserError(f"{where}: is not a text")
    return entry


def resolved(
    spec: Experiment, folder: Path, note: Callable[[str, UserError], None]
) -> tuple[Experiment, list[Problem]]:
    """The study with the wordings of role files in place of their names, and what is wrong then.

    Args:
        spec: The study.
        folder: Where relative paths start.
        note: Takes a file that cannot be read, with its field.
    """
    if not any(isinstance(persona.prompts, str) for persona in spec.personas):
        return spec, []
    personas, whole = [], True
    for index, persona in enumerate(spec.personas):
        if isinstance(persona.prompts, str):
            try:
                texts = read_role(persona.prompts, folder)
                persona = Persona(name=persona.name, prompts=texts)
            except UserError as error:
                # One that passes stays one that passes.
                kind = type(error) if isinstance(error, UnavailableError) else UserError
                note(f"personas[{index}].prompts", kind(f"{persona.name}: {error}"))
                whole = False
        personas.append(persona)
    found = spec.model_copy(update={"personas": personas})
    return found, list(check_wordings(found)) if whole else []


def check_wordings(spec: Experiment) -> Iterator[Problem]:
    """What cannot be: a text of two personas, unequal numbers, what is measured of one wording.

    Nothing is said of a study with role files that were not read yet.
    """
    if any(isinstance(persona.prompts, str) for persona in spec.personas):
        return
    first: dict[str, str] = {}
    for index, persona in enumerate(spec.personas):
        for field, text in persona.texts().items():
            other = first.setdefault(text, persona.name) if text is not None else persona.name
            if other != persona.name:
                yield Problem(
                    f"personas[{index}].{field}",
                    Code.DUPLICATE,
                    f"is the prompt of {other!r} as well: two names for one persona",
                )
    if spec.wordings > 1:
        yield from _check_numbers(spec)
        yield from _check_measured(spec)


def _check_numbers(spec: Experiment) -> Iterator[Problem]:
    count = spec.wordings
    for index, persona in enumerate(spec.personas):
        if len(persona.wordings) not in (1, count):
            yield Problem(
                f"personas[{index}].prompts",
                Code.UNEVEN_WORDINGS,
                f"{persona.name} has {len(persona.wordings)} wordings, others {count}: all "
                "personas with several need the same number",
            )
    if spec.several(spec.evaluated_personas()) and spec.evaluation.samples % count:
        yield Problem(
            "evaluation.samples",
            Code.UNEVEN_WORDINGS,
            f"{spec.evaluation.samples} answers to a question cannot be shared out evenly among "
            f"{count} wordings: make it a multiple of {count}",
        )


def _check_measured(spec: Experiment) -> Iterator[Problem]:
    """What is measured of a persona in one wording alone so far."""
    asked: dict[str, Sequence[str]] = {}
    if spec.judge is not None:
        asked["judge.personas"] = spec.judge.personas
    if spec.log_odds is not None:
        asked["log_odds"] = [*spec.evaluated_personas(), spec.analysis.assistant]
    if spec.steering is not None:
        asked["steering"] = [*spec.extracted_personas(), spec.analysis.assistant]
    if spec.training.doses:
        asked["training.doses"] = [persona.name for persona in spec.personas]
    primary = spec.analysis.primary
    if primary is not None and primary.measure not in HELD:
        asked["analysis.primary.measure"] = [persona.name for persona in spec.personas]
    for field, names in asked.items():
        if several := spec.several(names):
            yield Problem(
                field,
                Code.ONE_WORDING_ALONE,
                f"cannot be measured yet of a persona with several wordings, and {several[0]} has "
                f"{spec.wordings}",
            )
