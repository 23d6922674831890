"""What a model is measured by while it is steered: two answers' probabilities, and its own answers.

Nothing here knows what was done to the model: the same measures are taken of it untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personaspace.activations.endings import Ending, ending_probabilities
from personaspace.models import chat
from personaspace.study.steering import Pair

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from personaspace.generation.base import Answer, Prompt

#: Tokens of a batch, padding included: the output layer is applied to most of them.
_TOKEN_BUDGET = 2048
_NO_LIMIT = 1 << 30


@dataclass(frozen=True)
class Advice:
    """Mean log-probabilities of answers, nats per token, one for each question.

    Attributes:
        bad: Of the bad answers.
        good: Of the good ones.
    """

    bad: list[float]
    good: list[float]


def _answer(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    answer: str,
    tokens: int,
    how: chat.Rendering,
) -> Ending:
    """A chat up to some tokens of its answer (its end token counts), as training would read it."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    example = chat.answer_example(tokenizer, messages, _NO_LIMIT, how)
    first = len(example.ids) - example.loss_tokens
    ids = example.ids[: first + tokens]
    return Ending(ids, len(ids) - first)


def advice_endings(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    tokens: int,
    how: chat.Rendering = chat.AS_IT_COMES,
) -> list[Ending]:
    """Both answers of every pair, bad ones first, without a system message.

    Args:
        tokens: The most tokens of an answer that count.
    """
    texts = [(pair.question, pair.bad) for pair in pairs]
    texts += [(pair.question, pair.good) for pair in pairs]
    return [_answer(tokenizer, question, answer, tokens, how) for question, answer in texts]


def advice(model: PreTrainedModel, endings: Sequence[Ending], end_tokens: Sequence[int]) -> Advice:
    """How likely the model is to give each of these answers (`advice_endings`).

    The mean over an answer's tokens, not their sum: answers differ in length, and whatever makes
    every token less likely would count most against the longer one.
    """
    per_token = _per_token(model, endings, end_tokens)
    half = len(endings) // 2
    return Advice(per_token[:half], per_token[half:])


def surprise(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    end_tokens: Sequence[int],
) -> list[float | None]:
    """−log p of each answer under the model, nats per token: the logarithm of its perplexity.

    Returns:
        None for an answer without tokens.
    """
    said = [
        Ending(prompt.token_ids + answer.token_ids, len(answer.token_ids))
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.token_ids
    ]
    found = iter(_per_token(model, said, end_tokens))
    return [-next(found) if answer.token_ids else None for answer in answers]


def _per_token(
    model: PreTrainedModel, endings: Sequence[Ending], end_tokens: Sequence[int]
) -> list[float]:
    found = ending_probabilities(model, endings, end_tokens, token_budget=_TOKEN_BUDGET)
    return [one.ending / ending.length for one, ending in zip(found, endings, strict=True)]
