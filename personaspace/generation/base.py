"""What a generation engine is: prompts in, answers out, one adapter at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from personaspace.seeds import derive_seed


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt.

    Attributes:
        key: Names the prompt for seeding (persona and question); two prompts of one call differ.
        token_ids: The rendered chat template with its generation prompt.
    """

    key: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_new_tokens: Answers longer than this are cut and marked `length`.
        samples: Answers per prompt.
        temperature: 0 is greedy.
        top_p: Nucleus mass, 1 is all of it.
        seed: Study seed that every sample's own seed is derived from.
        scope: Mixed into every seed (condition and stage), so that no two stages share answers.
    """

    max_new_tokens: int
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    scope: str = ""

    def seed_for(self, prompt: Prompt, sample: int) -> int:
        """One answer's seed, 0 ≤ seed < 2⁶³: hashed from seed, scope, prompt and sample."""
        return derive_seed(self.seed, self.scope, prompt.key, sample)


@dataclass(frozen=True)
class Answer:
    """One generated answer.

    Attributes:
        text: Decoded without special tokens.
        token_ids: As generated, without the end-of-turn token.
        finish: `stop` if the model ended its turn, `length` if it was cut.
        wording: Which of its persona's wordings it was asked in; no engine knows.
    """

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    wording: int = 0


Advance = Callable[[int], None]


class Engine(Protocol):
    """A loaded base model that answers prompts, with or without a LoRA adapter.

    Engines differ in what they promise: see `docs/decisions/` on reproducibility.
    """

    name: str

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        adapter: Path | None = None,
        advance: Advance | None = None,
    ) -> list[list[Answer]]:
        """Answers, `[prompt][sample]`, in the order of `prompts`.

        Args:
            adapter: A PEFT LoRA folder (plain scaling) applied to the base weights, or none.
            advance: Called with the number of answers finished since the last call.
        """
        ...

    def close(self) -> None:
        """Free the model's memory. The engine is not used again."""
        ...
