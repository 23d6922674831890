"""Generation with transformers: batched, reproducible, and the default on CPUs.

Shapes: R = rows of a batch (answers in flight), V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache

from personaspace import adapters, interrupt
from personaspace.attention import steady_attention
from personaspace.generation.base import Advance, Answer, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BUCKET = 16
_MIN_ROWS = 16


class SeededSampling(LogitsProcessor):
    """Draws each row's next token with a random number of that row's own.

    The token is where the row's uniform number falls in the cumulative distribution (inverse
    transform sampling), so an answer depends on its own seed and logits alone, never on which other
    answers share its batch. All other tokens are set to -inf, which makes greedy search take it.

    Args:
        uniforms_RN: A uniform number in [0, 1) for each row and new token.
        temperature: Divides the logits, > 0.
        top_p: Nucleus mass kept (Holtzman et al. 2020), 1 keeps all.
    """

    def __init__(self, uniforms_RN: torch.Tensor, temperature: float, top_p: float) -> None:
        self.uniforms_RN = uniforms_RN
        self.temperature = temperature
        self.top_p = top_p
        self.step = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        """Scores `[R, V]` with all but the drawn token at -inf."""
        # float64: a cumulative sum of 150,000 float32 terms would be off by more than the
        # rounding of another batch size, and could then tip a draw.
        probabilities_RV = torch.softmax(scores.double() / self.temperature, dim=-1)
        uniform_R1 = self.uniforms_RN[:, self.step : self.step + 1]
        self.step += 1
        if self.top_p < 1:
            sorted_RV, order_RV = probabilities_RV.sort(dim=-1, descending=True, stable=True)
            before_RV = sorted_RV.cumsum(-1) - sorted_RV
            sorted_RV = sorted_RV.masked_fill(before_RV >= self.top_p, 0.0)
            chosen_R1 = order_RV.gather(-1, _draw(sorted_RV, uniform_R1))
        else:
            chosen_R1 = _draw(probabilities_RV, uniform_R1)
        drawn = torch.full_like(scores, -torch.inf)
        return drawn.scatter_(-1, chosen_R1, 0.0)


def _draw(weights_RV: torch.Tensor, uniform_R1: torch.Tensor) -> torch.Tensor:
    cumulative_RV = weights_RV.cumsum(-1)
    target_R1 = uniform_R1 * cumulative_RV[:, -1:]
    index_R1 = torch.searchsorted(cumulative_RV, target_R1, right=True)
    return index_R1.clamp_(max=weights_RV.shape[-1] - 1)


def uniforms(seeds: Sequence[int], count: int) -> torch.Tensor:
    """`[row, count]` uniform numbers in [0, 1), float64, each row from its own seed."""
    # Not torch's generator: it keeps 32 bits of its seed, so that two of 50,000 answers would
    # share all their numbers in one study of four.
    rows = [np.random.Generator(np.random.PCG64(seed)).random(count) for seed in seeds]
    return torch.from_numpy(np.stack(rows))


@contextmanager
def _no_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model's own generation settings aside.

    `generate` takes from them whatever a call leaves open: Qwen2.5's repetition penalty of 1.05,
    for one, which is no part of the recipe and which vLLM does not apply either.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


class TransformersEngine:
    """Answers with a loaded transformers model; see `base.Engine`.

    On a CPU in float32 an answer is the same, bit for bit, in every batch size and order: each row
    is padded alike, no batch is smaller than the matrix kernels' smallest tile, and attention does
    not depend on a row's place (`steady_attention`). On a GPU logits differ by rounding from one
    batch shape to another, so that an answer changes where a draw or a greedy choice hangs on the
    last bits.

    Args:
        model: Causal LM in evaluation mode.
        tokenizer: Its tokenizer.
        end_token_ids: Tokens that end an answer.
        batch_size: Answers in flight.
    """

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        end_token_ids: Sequence[int],
        batch_size: int,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end_token_ids = list(end_token_ids)
        self.batch_size = batch_size

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        adapter: Path | None = None,
        advance: Advance | None = None,
    ) -> list[list[Answer]]:
        """See `base.Engine.generate`. Raises Interrupted between batches if asked to stop."""
        answers: list[list[Answer]] = [[] for _ in prompts]
        folders = [] if adapter is None else [adapter]
        with (
            _no_defaults(self.model),
            steady_attention(self.model.device),
            adapters.applied(self.model, *folders),
            torch.inference_mode(),
        ):
            for width, rows in self._batches(prompts, sampling.samples):
                interrupt.check()
                for (index, _), answer in zip(
                    rows, self._batch(prompts, rows, width, sampling), strict=True
                ):
                    answers[index].append(answer)
                if advance is not None:
                    advance(len(rows))
        return answers

    def _batches(
        self, prompts: Sequence[Prompt], samples: int
    ) -> list[tuple[int, list[tuple[int, int]]]]:
        """Padded width and (prompt, sample) pairs of each batch.

        A prompt is always padded to the same width, the next multiple of `_BUCKET`, whoever shares
        its batch: attention over another number of padded keys would round differently. And it is
        always padded: without a padded key in the batch, attention takes a path of its own.
        """
        buckets: dict[int, list[tuple[int, int]]] = {}
        for index, prompt in enumerate(prompts):
            width = (len(prompt.token_ids) // _BUCKET + 1) * _BUCKET
            buckets.setdefault(width, []).extend((index, sample) for sample in range(samples))
        # Whole prompts where they fit: their samples share one pass over the prompt.
        size = max(self.batch_size // samples * samples, 0) or self.batch_size
        return [
            (width, rows[start : start + size])
            for width, rows in sorted(buckets.items(), reverse=True)
            for start in range(0, len(rows), size)
        ]

    def _batch(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[tuple[int, int]],
        width: int,
        sampling: Sampling,
    ) -> list[Answer]:
        # Matrix kernels treat very few rows differently, so small batches are filled up.
        filled = [*rows, *[rows[-1]] * max(0, _MIN_ROWS - len(rows))]
        unique = list(dict.fromkeys(index for index, _ in filled))
        row_of = {index: position for position, index in enumerate(unique)}
        device = self.model.device
        expand_R = torch.tensor([row_of[index] for index, _ in filled], device=device)
        ids = torch.full((len(unique), width), self._pad, device=device)
        mask = torch.zeros((len(unique), width), dtype=torch.long, device=device)
        for position, index in enumerate(unique):
            tokens = torch.tensor(prompts[index].token_ids, device=device)
            ids[position, width - len(tokens) :] = tokens
            mask[position, width - len(tokens) :] = 1
        cache = self._prefill(ids, mask)
        cache.batch_select_indices(expand_R)
        processors = LogitsProcessorList()
        if sampling.temperature > 0:
            seeds = [sampling.seed_for(prompts[index], sample) for index, sample in filled]
            draws = uniforms(seeds, sampling.max_new_tokens).to(device)
            processors.append(SeededSampling(draws, sampling.temperature, sampling.top_p))
        generate: Any = self.model.generate
        output = generate(
            input_ids=ids[expand_R],
            attention_mask=mask[expand_R],
            past_key_values=cache,
            logits_processor=processors,
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=self.end_token_ids,
                pad_token_id=self._pad,
                use_cache=True,
            ),
        )
        return [
            self._answer(row[width:].tolist(), sampling.max_new_tokens)
            for row in output[: len(rows)]
        ]

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.end_token_ids[0] if pad is None else pad)

    def _prefill(self, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
        """Keys and values of all prompt tokens but the last, each prompt computed once."""
        cache = DynamicCache(config=self.model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=positions[:, :-1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache

    def _answer(self, ids: list[int], limit: int) -> Answer:
        ends = [position for position, token in enumerate(ids) if token in self.end_token_ids]
        kept = ids[: ends[0]] if ends else ids[:limit]
        return Answer(
            text=str(self.tokenizer.decode(kept, skip_special_tokens=True)),
            token_ids=tuple(kept),
            finish="stop" if ends else "length",
        )

    def close(self) -> None:
        """Nothing to do: the model belongs to the caller."""
