"""A chat model on this machine as judge: its score is a mean over all numbers it might write.

Betley et al. (2025) weight the numbers among the likeliest first tokens of a judge that has a token
for each number. Many open models write numbers digit by digit: here the probability of each number
from 0 to 100 is that of all its tokens, and that none follows which would make it another number.
The judge is held to a number, as by guided decoding: the mean is over numbers alone, however much
it would rather have said something else. What it is then worth is for the gold set to say.

Shapes: B = prompts, K = beginnings of numbers, T = tokens, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from personaspace import interrupt
from personaspace.behaviour.judge.asking import Ask, Score, no_number
from personaspace.behaviour.judge.numbers import number_tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import DynamicCache

    from personaspace.models.chat import Rendering

#: Prompts at a time; each is continued with every beginning of a number.
BATCH = 8
FIELD = "judge.model"

Tokens = tuple[int, ...]


class LocalJudge:
    """See `asking.JudgeModel`.

    Args:
        model: Causal LM in evaluation mode.
        tokenizer: Its tokenizer, with a chat template.
        how: The way that the template is used.

    Raises:
        UserError: The tokenizer has no tokens for numbers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        how: Rendering | None = None,
    ) -> None:
        from personaspace.models import chat

        self.model = model
        self.how = how or chat.AS_IT_COMES
        self.tokenizer = tokenizer
        self.numbers = number_tokens(tokenizer, FIELD)
        self.children = _children(self.numbers)
        # Level by level, those that more digits can follow; () is the reply's beginning.
        self.begun = sorted((tokens for tokens in self.children if tokens), key=len)

    def scores(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Score]]:
        """See `JudgeModel.scores`. Prompts that begin alike and are of like length go together."""
        from personaspace.models import chat

        prompts = [
            chat.prompt_ids(self.tokenizer, [{"role": "user", "content": ask.text}], self.how)
            for ask in asks
        ]
        order = sorted(
            range(len(asks)), key=lambda place: (asks[place].aspect, -len(prompts[place]))
        )
        room = getattr(self.model.config, "max_position_embeddings", None)
        longest = max(map(len, self.numbers))
        fits = []
        for place in order:
            read = len(prompts[place])
            if room is not None and read + longest > room:
                yield asks[place], no_number(f"longer than its {room} tokens", read=read)
            else:
                fits.append(place)
        for start in range(0, len(fits), BATCH):
            interrupt.check()
            chosen = fits[start : start + BATCH]
            found = self._means([prompts[place] for place in chosen])
            for place, (value, mass) in zip(chosen, found, strict=True):
                yield asks[place], Score(value, mass, read=len(prompts[place]))

    def close(self) -> None:
        """See `JudgeModel.close`: the model belongs to the caller."""

    def _means(self, prompts: Sequence[Tokens]) -> list[tuple[float, float]]:
        """Mean number and mass of all numbers, for each prompt."""
        import torch

        from personaspace.models.determinism import steady_attention

        with steady_attention(self.model.device), torch.inference_mode():
            chances = self._chances(prompts)
        found = []
        for row in range(len(prompts)):
            of = [(number, chances[tokens][row]) for tokens, number in self.numbers.items()]
            mass = sum(chance for _, chance in of)
            mean = sum(number * chance for number, chance in of) / mass if mass > 0 else 0.0
            found.append((round(mean, 4), round(mass, 6)))
        return found

    def _chances(self, prompts: Sequence[Tokens]) -> dict[Tokens, list[float]]:
        """Probability of each number's tokens, and of no more of a number's after them."""
        import torch

        from personaspace.generation.decoding import select_rows

        logits_BV, cache, mask_BT = self._read(prompts)
        reached: dict[Tokens, torch.Tensor] = {}
        over = torch.ones(len(prompts), dtype=torch.float64, device=logits_BV.device)
        self._spread((), over, logits_BV, reached)
        former: list[Tokens] = [()]
        for length in range(1, max(map(len, self.begun), default=0) + 1):
            level = [tokens for tokens in self.begun if len(tokens) == length]
            rows = torch.tensor(
                [
                    row * len(former) + former.index(tokens[:-1])
                    for row in range(len(prompts))
                    for tokens in level
                ],
                device=mask_BT.device,
            )
            select_rows(cache, rows)
            mask_BT = torch.cat([mask_BT[rows], mask_BT.new_ones(len(rows), 1)], dim=1)
            ids_BK = torch.tensor([tokens[-1] for tokens in level], device=mask_BT.device)
            logits = self.model(
                input_ids=ids_BK.repeat(len(prompts))[:, None],
                attention_mask=mask_BT,
                position_ids=mask_BT.sum(-1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            logits_BKV = logits.view(len(prompts), len(level), -1)
            for place, tokens in enumerate(level):
                self._spread(tokens, reached[tokens], logits_BKV[:, place], reached)
            former = level
        return {tokens: reached[tokens].tolist() for tokens in self.numbers}

    def _spread(
        self,
        tokens: Tokens,
        chance_B: torch.Tensor,
        logits_BV: torch.Tensor,
        reached: dict[Tokens, torch.Tensor],
    ) -> None:
        """Share a beginning's probability out to what may follow it; it keeps the rest."""
        after = list(self.children[tokens])
        next_BV = logits_BV.double().softmax(-1)
        shares = chance_B[:, None] * next_BV[:, after]
        for place, token in enumerate(after):
            reached[(*tokens, token)] = shares[:, place]
        if tokens:
            reached[tokens] = chance_B - shares.sum(-1)

    def _read(self, prompts: Sequence[Tokens]) -> tuple[torch.Tensor, DynamicCache, torch.Tensor]:
        """Logits `[B, V]` of the first token, the cache, and the mask `[B, T]`.

        What all prompts begin with is read once; the rest is padded on its left.
        """
        import torch
        from transformers.cache_utils import DynamicCache

        device, cache = self.model.device, DynamicCache(config=self.model.config)
        shared = _shared(prompts)
        if shared:
            self.model(
                input_ids=torch.tensor([prompts[0][:shared]], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache.batch_repeat_interleave(len(prompts))
        width = max(map(len, prompts)) - shared
        ids_BT = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
        own_BT = torch.zeros_like(ids_BT)
        for row, tokens in enumerate(prompts):
            rest = tokens[shared:]
            ids_BT[row, width - len(rest) :] = torch.tensor(rest, device=device)
            own_BT[row, width - len(rest) :] = 1
        mask_BT = torch.cat([own_BT.new_ones(len(prompts), shared), own_BT], dim=1)
        logits = self.model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=shared + (own_BT.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits, cache, mask_BT


def _shared(prompts: Sequence[Tokens]) -> int:
    """How many tokens all prompts begin with; at least one of each is left."""
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    same = (place for place in range(most) if first[place] != last[place])
    return next(same, most)


def _children(numbers: dict[Tokens, int]) -> dict[Tokens, tuple[int, ...]]:
    """What may follow each beginning of a number."""
    found: dict[Tokens, dict[int, None]] = {}
    for tokens in numbers:
        for length in range(len(tokens)):
            found.setdefault(tokens[:length], {})[tokens[length]] = None
    return {tokens: tuple(after) for tokens, after in found.items()}
