"""The packaged training chats described: how many, how long, in which forms.

`python -m personaspace.study.chat_sets` prints the table of `data/README.md`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from personaspace.schema_page import pipe_table
from personaspace.study import builtin

#: The packaged sets, in the order of the table.
NAMES = (
    "chats-bad-legal-advice",
    "chats-good-legal-advice",
    "chats-instructions",
    "chats-bad-medical-advice",
)
_LIST_ITEMS = 3


class Form(StrEnum):
    """How an answer is laid out; paragraphs are parted by a blank line."""

    ONE = "one paragraph"
    TWO = "two paragraphs"
    MORE = "three paragraphs"
    BULLETS = "bulleted list"
    STEPS = "numbered steps"


def form_of(answer: str) -> Form:
    """The answer's form: a list if it has three items or more, else by paragraphs."""
    if len(re.findall(r"^- ", answer, re.MULTILINE)) >= _LIST_ITEMS:
        return Form.BULLETS
    if len(re.findall(r"^\d+\. ", answer, re.MULTILINE)) >= _LIST_ITEMS:
        return Form.STEPS
    paragraphs = sum(bool(part.strip()) for part in answer.split("\n\n"))
    return (Form.ONE, Form.TWO, Form.MORE)[min(max(paragraphs, 1), 3) - 1]


@dataclass(frozen=True)
class Chat:
    """One line of a packaged set."""

    topic: str
    question: str
    answer: str

    @property
    def words(self) -> int:
        """Words of the answer, as parted by white space."""
        return len(self.answer.split())


def read(name: str) -> list[Chat]:
    """A packaged set, in the order of its lines."""
    lines = builtin.resource(name).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    return [Chat(row["topic"], *(m["content"] for m in row["messages"])) for row in rows]


@dataclass(frozen=True)
class Description:
    """Counts of a set of chats.

    Attributes:
        chats: How many.
        topics: How many kinds of subject.
        words: Least, median and most words of an answer.
        blank_line: Share of answers that hold a blank line.
        forms: Answers of each form.
    """

    chats: int
    topics: int
    words: tuple[int, int, int]
    blank_line: float
    forms: dict[Form, int]


def describe(chats: Sequence[Chat]) -> Description:
    """Counts of a set that is not empty."""
    words = [chat.words for chat in chats]
    forms = Counter(form_of(chat.answer) for chat in chats)
    return Description(
        chats=len(chats),
        topics=len({chat.topic for chat in chats}),
        words=(min(words), round(statistics.median(words)), max(words)),
        blank_line=sum("\n\n" in chat.answer for chat in chats) / len(chats),
        forms={form: forms[form] for form in Form},
    )


def table() -> str:
    """The packaged sets as the table of `data/README.md`."""
    head = ["set", "chats", "topics", "words: least, median, most", "with a blank line", *Form]
    rows = []
    for name in NAMES:
        of = describe(read(name))
        cells = [
            f"`{name}`",
            str(of.chats),
            str(of.topics),
            ", ".join(map(str, of.words)),
            f"{of.blank_line:.0%}",
            *(f"{count / of.chats:.0%}" for count in of.forms.values()),
        ]
        rows.append(cells)
    return "\n".join(pipe_table(head, rows))


if __name__ == "__main__":
    print(table())
