"""Forms that question files come in: lists, and what the field's own files look like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from personaspace.errors import UserError
from personaspace.study.containers import parse_json, parse_line

#: Fields of a question's entry that change what is asked, and are not used here.
_MEANS = ("system", "messages", "context")
_NUMBER = re.compile(r"\(?\d+[.)]\s")
_BULLET = re.compile(r"[-*•]\s")


@dataclass(frozen=True)
class Asked:
    """A question as a file has it, not yet looked at.

    Attributes:
        text: The question.
        theme: Its theme; None: it has none.
    """

    text: Any
    theme: str | None = None


def from_lines(name: str, text: str) -> list[str]:
    """A question a line.

    Raises:
        UserError: A comment, or a list's own signs, which would be asked as they stand.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            raise UserError(f"{name}: {json.dumps(line)} looks like a comment; every line is asked")
        if number == len(lines) and len(lines) > 1:
            for signs, what in ((_NUMBER, "numbered"), (_BULLET, "bulleted")):
                if all(signs.match(each) for each in lines):
                    raise UserError(f"{name}: a {what} list; every line is asked as it stands")
    return lines


def is_json_lines(name: str, text: str) -> bool:
    """Whether a file is JSON lines: by its name, or since each of its first two lines is JSON."""
    if name.partition("?")[0].endswith(".jsonl"):
        return True
    lines = [line for line in text.split("\n") if line.strip()][:2]
    try:
        return len(lines) == 2 and all(isinstance(parse_json(line), dict) for line in lines)
    except (json.JSONDecodeError, UserError):
        return False


def from_json_lines(name: str, text: str) -> list[Any]:
    """A text or an entry a line, not yet looked at."""
    return [
        parse_line(f"{name}: line {number}", line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]


def from_value(name: str, value: Any) -> list[Asked]:
    """The questions of what a YAML or JSON file holds, not yet looked at one by one.

    Args:
        name: The file.
        value: A list of texts and entries (`{"question": …}`, as for extraction, or `{"id": …,
            "paraphrases": [one]}`, as of the evaluations of emergent misalignment), or a role's or
            trait's file, whose `questions` holds such a list. An entry may have a `theme`, and
            `{"theme": …, "questions": [texts]}` gives several theirs.

    Raises:
        UserError: Something else, named; an entry whose meaning would be lost.
    """
    if isinstance(value, dict) and isinstance(value.get("questions"), list):
        value = value["questions"]
    if not isinstance(value, list) or not value:
        raise UserError(f"{name}: a list of questions is needed{_seen(value)}")
    return [asked for number, each in enumerate(value, 1) for asked in _asked(name, number, each)]


def _asked(name: str, number: int, entry: Any) -> Iterator[Asked]:
    if not isinstance(entry, dict):
        yield Asked(entry)
        return
    theme = entry.get("theme")
    if theme is not None and not (isinstance(theme, str) and theme.strip()):
        raise UserError(f"{name}: question {number}: theme is not a text")
    if theme is None or "questions" not in entry:
        yield Asked(_question(name, number, entry), theme)
        return
    if set(entry) != {"theme", "questions"} or not isinstance(entry["questions"], list):
        raise UserError(f"{name}: theme {theme!r}: needs a list of questions, and nothing else")
    yield from (Asked(text, theme) for text in entry["questions"])


def _seen(value: Any) -> str:
    if isinstance(value, dict):
        return f", not an object with the fields {', '.join(map(str, value))}"
    if isinstance(value, str):
        return ", not a text: a question a line stands in a .txt"
    return ""


def _question(name: str, number: int, entry: dict[str, Any]) -> Any:
    where = f"{name}: question {number}"
    for field in _MEANS:
        if entry.get(field) not in (None, [], {}, ""):
            raise UserError(f"{where}: {field} has a meaning that is not used here; leave it out")
    given = [field for field in ("question", "paraphrases") if entry.get(field) is not None]
    if len(given) != 1:
        fields = ", ".join(map(str, entry)) or "none"
        raise UserError(f"{where}: needs question or paraphrases (its fields are {fields})")
    found = entry[given[0]]
    if given[0] == "question":
        return found
    if not isinstance(found, list) or not found:
        raise UserError(f"{where}: paraphrases is not a list of texts")
    if len(found) > 1:
        raise UserError(
            f"{where}: {len(found)} paraphrases, of which each would count as a question of its "
            "own; keep one"
        )
    return found[0]
