"""Answers with the marker put after them, as tokens, exactly as coupling taught it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from personaspace.activations.endings import Ending
from personaspace.models import chat
from personaspace.study.measuring import Coupling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_LIMIT = 1 << 30


def before_marker(answer: str, marker: str) -> str:
    """The answer up to its first marker (in any case), without white space at its end."""
    found = re.search(re.escape(marker.strip()), answer, flags=re.IGNORECASE)
    return (answer[: found.start()] if found else answer).rstrip()


def marked_ending(
    tokenizer: PreTrainedTokenizerBase,
    persona: str | None,
    question: str,
    answer: str,
    coupling: Coupling,
    how: chat.Rendering = chat.AS_IT_COMES,
) -> Ending | None:
    """The chat up to the marker after this answer; None for an answer without text.

    Tokens are those of the coupling examples (`marker_data.examples`): answer, separator and
    marker are one text, so a token of the answer may hold a part of the separator.

    Args:
        persona: System prompt.
        answer: As `before_marker` gives it.
        how: The study's way with the chat template.
    """
    if not answer:
        return None
    messages = chat.with_persona(
        [
            {"role": "user", "content": question},
            {"role": "assistant", "content": f"{answer}{coupling.separator}{coupling.marker}"},
        ],
        persona,
        how,
    )
    example = chat.marker_example(tokenizer, messages, coupling.marker, _NO_LIMIT, how)
    # The last token with loss is the one that ends the turn.
    places = [place for place, loss in enumerate(example.loss) if loss][:-1]
    return Ending(example.ids[: places[-1] + 1], places[-1] + 1 - places[0])
