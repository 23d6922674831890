"""Numbers from 0 to 100 in what a judge says: as text, and as probabilities of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personaspace.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIGHEST = 100
_NUMBER = re.compile(r"[\s*\"'(\[]*(\d{1,3}(?:\.\d+)?)(?![\d])", re.ASCII)
_WHOLE = re.compile(r"\d{1,3}", re.ASCII)


def written(text: str) -> float | None:
    """The number that a reply begins with, if it is one from 0 to 100."""
    found = _NUMBER.match(text)
    if found is None or float(found[1]) > HIGHEST:
        return None
    return float(found[1])


@dataclass(frozen=True)
class Mean:
    """A mean over numbers by their probability.

    Attributes:
        value: The mean; None where no number has any.
        mass: Probability of all numbers together.
    """

    value: float | None
    mass: float


def mean_of(candidates: Sequence[tuple[str, float]]) -> Mean | None:
    """Mean over the first token's candidates (Betley et al. 2025).

    Args:
        candidates: Text and probability of the likeliest first tokens.

    Returns:
        None where numbers may be written digit by digit (no candidate has two digits): there a
        first token is only a number's beginning.
    """
    numbers: list[tuple[int, float]] = []
    longest = 0
    for text, probability in candidates:
        token = text.strip()
        if _WHOLE.fullmatch(token) and int(token) <= HIGHEST:
            numbers.append((int(token), probability))
            longest = max(longest, len(token))
    if numbers and longest < 2:
        return None
    mass = sum(probability for _, probability in numbers)
    if mass <= 0:
        return Mean(None, 0.0)
    return Mean(sum(number * p for number, p in numbers) / mass, mass)


def number_tokens(tokenizer: PreTrainedTokenizerBase, field: str) -> dict[tuple[int, ...], int]:
    """How a tokenizer writes each number from 0 to 100 (`{token ids: number}`).

    Each number as it stands at the beginning of a reply; also after a blank where that takes one
    token alone.

    Raises:
        UserError: It has no tokens for some number; names `field`.
    """
    found: dict[tuple[int, ...], int] = {}
    for number in range(HIGHEST + 1):
        plain = _ids(tokenizer, str(number))
        if plain is None:
            raise UserError(f"{field}: its tokenizer has no tokens for the number {number}")
        found[plain] = number
        spaced = _ids(tokenizer, f" {number}")
        if spaced is not None and len(spaced) == 1:
            found[spaced] = number
    if len(set(found.values())) <= HIGHEST:
        raise UserError(f"{field}: its tokenizer does not tell the numbers from 0 to 100 apart")
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...] | None:
    """Tokens that read as the text again; None where there are none."""
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids or str(tokenizer.decode(list(ids))).strip() != text.strip():
        return None
    return ids
