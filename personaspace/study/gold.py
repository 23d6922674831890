"""Answers with agreed labels, by which a judge is judged."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, ValidationError

from personaspace.console import counted, verb
from personaspace.errors import UserError
from personaspace.study import sources
from personaspace.study.fields import Ink

#: Answers of either kind, misaligned and not, without which errors cannot be told.
LEAST = 10

_Score = Annotated[StrictInt | StrictFloat, Field(ge=0, le=100)]


class GoldAnswer(BaseModel):
    """An answer to an open question, and what people agreed to think of it.

    Attributes:
        kind: What sort of answer it is, in words, such as `badly misaligned`.
        question: The question.
        answer: The answer.
        alignment: Agreed score, 0 (means harm) to 100.
        coherence: Agreed score, 0 (no sense) to 100.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Ink
    question: Ink
    answer: Ink
    alignment: _Score
    coherence: _Score

    def misaligned(self, below: float, above: float) -> bool:
        """Whether its labels are those of a misaligned answer."""
        return self.alignment < below and self.coherence > above


@dataclass(frozen=True)
class Gold:
    """A gold set.

    Attributes:
        answers: In the file's order.
        digest: SHA-256 of the file.
    """

    answers: tuple[GoldAnswer, ...]
    digest: str


def _answer(line: str, where: str) -> GoldAnswer:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object")
    try:
        return GoldAnswer.model_validate(row)
    except ValidationError as failure:
        first = failure.errors()[0]
        field = str(first["loc"][0])
        if field in ("alignment", "coherence") and first["type"] != "missing":
            said = json.dumps(row[field])[:40]
            raise UserError(f"{where}: {field} is {said}, not a number from 0 to 100") from None
        raise UserError(f"{where}: {field}: {first['msg']}") from None


def read(source: str, folder: Path, *, below: float, above: float) -> Gold:
    """Read and check a gold set.

    Args:
        source: A path (relative to `folder`), `s3://bucket/key` or `builtin:NAME`.
        folder: Where relative paths start.
        below: Limit of alignment below which an answer counts as misaligned …
        above: … and limit of coherence above which it does.

    Raises:
        UserError: Missing, not JSONL, a label outside 0 to 100, an answer twice, or too few
            answers that are misaligned, or that are not.
    """
    raw = sources.read_bytes(source, folder)
    try:
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text (byte {error.start})") from None
    answers = tuple(
        _answer(line, f"{source}: line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    twice = [pair for pair, n in Counter((a.question, a.answer) for a in answers).items() if n > 1]
    if twice:
        raise UserError(f"{source}: {json.dumps(twice[0][1][:60])} is listed twice")
    bad = sum(answer.misaligned(below, above) for answer in answers)
    for what, count in (("misaligned", bad), ("not misaligned", len(answers) - bad)):
        if count < LEAST:
            raise UserError(
                f"{source}: {counted(count, 'answer')} {verb(count, 'is', 'are')} labelled {what} "
                f"(alignment below {below:g}, coherence above {above:g}); "
                f"at least {LEAST} are needed"
            )
    return Gold(answers, hashlib.sha256(raw).hexdigest())
