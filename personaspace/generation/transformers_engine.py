"""Generation with transformers: batched, reproducible, and the default on CPUs.

transformers' own continuous batching (`generate_batch`, 5.19) has one seed for all requests and
draws a whole batch at once, so that an answer would depend on its neighbours: hence this loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import DynamicCache

from personaspace import interrupt
from personaspace.generation.base import Advance, Answer, Prompt, Sampling
from personaspace.generation.decoding import (
    MIN_ROWS,
    Flight,
    RowCache,
    can_refill,
    select_rows,
    uniforms,
)
from personaspace.models import lora
from personaspace.models.determinism import steady_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_BUCKET = 16
#: (prompt, sample), by number.
_Row = tuple[int, int]


class TransformersEngine:
    """Answers with a loaded transformers model; see `base.Engine`.

    On a CPU in float32 an answer is the same, bit for bit, in every batch size and order: each row
    is padded alike, no batch is smaller than the matrix kernels' smallest tile, and attention does
    not depend on a row's place (`steady_attention`). There a batch begins together, and answers
    that end leave it, so that the others go on faster. On a GPU logits differ by rounding from one
    batch shape to another anyway, so that an answer changes where a draw or a greedy choice hangs
    on the last bits; there a row that ends makes room for the next prompt at once.

    Args:
        model: Causal LM in evaluation mode.
        tokenizer: Its tokenizer.
        end_token_ids: Tokens that end an answer.
        batch_size: Answers in flight.
        refill: Give ended rows to new prompts; by default on a GPU. Models with sliding windows
            or other caches than full attention's never do.
    """

    name = "transformers"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        end_token_ids: Sequence[int],
        batch_size: int,
        refill: bool | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.end_token_ids = list(end_token_ids)
        self.batch_size = batch_size
        wanted = model.device.type != "cpu" if refill is None else refill
        self.refill = wanted and can_refill(DynamicCache(config=model.config))

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        adapter: Path | None = None,
        advance: Advance | None = None,
    ) -> list[list[Answer]]:
        """See `base.Engine.generate`. Raises Interrupted between steps if asked to stop."""
        answers: dict[_Row, Answer] = {}
        batches = self._batches(prompts, sampling.samples)
        if self.refill:
            batches = [[row for rows in batches for row in rows]] if batches else []
        folders = [] if adapter is None else [adapter]
        with (
            steady_attention(self.model.device),
            lora.applied(self.model, *folders),
            torch.inference_mode(),
        ):
            for rows in batches:
                _Run(self, prompts, sampling, rows, answers, advance).run()
        return [
            [answers[index, sample] for sample in range(sampling.samples)]
            for index in range(len(prompts))
        ]

    def _batches(self, prompts: Sequence[Prompt], samples: int) -> list[list[_Row]]:
        """Rows of each batch, the longest prompts first, all of a batch padded to one width."""
        buckets: dict[int, list[_Row]] = {}
        for index, prompt in enumerate(prompts):
            rows = buckets.setdefault(width_of(prompt), [])
            rows.extend((index, sample) for sample in range(samples))
        # Whole prompts where they fit: their samples share one pass over the prompt.
        size = max(self.batch_size // samples * samples, 0) or self.batch_size
        return [
            rows[start : start + size]
            for _, rows in sorted(buckets.items(), reverse=True)
            for start in range(0, len(rows), size)
        ]

    def close(self) -> None:
        """Nothing to do: the model belongs to the caller."""


def width_of(prompt: Prompt) -> int:
    """Columns that a prompt is padded to, whoever shares its batch.

    Attention over another number of padded keys would round differently. And a prompt is always
    padded: without a padded key in the batch, attention takes a path of its own.
    """
    return (len(prompt.token_ids) // _BUCKET + 1) * _BUCKET


class _Run:
    """Rows on their way, from a queue to their answers."""

    def __init__(
        self,
        engine: TransformersEngine,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        rows: Sequence[_Row],
        answers: dict[_Row, Answer],
        advance: Advance | None,
    ) -> None:
        self.engine = engine
        self.model = engine.model
        self.device = engine.model.device
        self.prompts = prompts
        self.sampling = sampling
        self.queue = deque(rows)
        self.answers = answers
        self.advance = advance
        self.said: dict[_Row, list[int]] = {}

    def run(self) -> None:
        """Answer all rows of the queue."""
        interrupt.check()
        first = [self.queue.popleft() for _ in range(min(self.engine.batch_size, len(self.queue)))]
        # Matrix kernels treat very few rows differently, so small batches are filled up.
        seats: list[_Row | None] = [*first, *[None] * max(0, MIN_ROWS - len(first))]
        flight = self._take_off([row or first[-1] for row in seats])
        while any(seats):
            self._note(seats, flight.step(self.model, *self._how()))
            if self.queue and self.engine.refill:
                self._refill(seats, flight)
            else:
                seats = self._drop(seats, flight)
            if self.engine.refill:
                interrupt.check()

    def _how(self) -> tuple[float, float]:
        return self.sampling.temperature, self.sampling.top_p

    def _note(self, seats: list[_Row | None], drawn: Sequence[int]) -> None:
        """Keep what was said; seats of ended answers become free."""
        ended = 0
        for seat, (row, token) in enumerate(zip(seats, drawn, strict=True)):
            if row is None:
                continue
            said = self.said.setdefault(row, [])
            stops = token in self.engine.end_token_ids
            if not stops:
                said.append(token)
            if stops or len(said) == self.sampling.max_new_tokens:
                self._answer(row, stops)
                seats[seat] = None
                ended += 1
        if ended and self.advance is not None:
            self.advance(ended)

    def _answer(self, row: _Row, stops: bool) -> None:
        said = self.said.pop(row)
        text = self.engine.tokenizer.decode(said, skip_special_tokens=True)
        self.answers[row] = Answer(str(text), tuple(said), "stop" if stops else "length")

    def _drop(self, seats: list[_Row | None], flight: Flight) -> list[_Row | None]:
        """Ended rows leave once a quarter of the rows has ended, but never below the least."""
        live = [seat for seat, row in enumerate(seats) if row is not None]
        kept = max(len(live), MIN_ROWS)
        if not live or kept > 0.75 * len(seats):
            return seats
        free = [seat for seat, row in enumerate(seats) if row is None]
        chosen = sorted([*live, *free[: kept - len(live)]])
        flight.keep(chosen)
        return [seats[seat] for seat in chosen]

    # --- prompts into rows -----------------------------------------------------------------------

    def _prefill(self, indices: Sequence[int]) -> tuple[DynamicCache, torch.Tensor]:
        """Keys and values of all tokens but the last of prompts of one width, and the mask."""
        width = width_of(self.prompts[indices[0]])
        ids = torch.full((len(indices), width), self._pad, device=self.device)
        mask = torch.zeros_like(ids)
        for position, index in enumerate(indices):
            tokens = torch.tensor(self.prompts[index].token_ids, device=self.device)
            ids[position, width - len(tokens) :] = tokens
            mask[position, width - len(tokens) :] = 1
        cache = DynamicCache(config=self.model.config)
        self.model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, :-1],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cache, mask

    @property
    def _pad(self) -> int:
        pad = self.engine.tokenizer.pad_token_id
        return int(self.engine.end_token_ids[0] if pad is None else pad)

    def _groups(self, rows: Sequence[_Row]) -> list[list[int]]:
        """Numbers of the different prompts of rows, those of one width together."""
        groups: dict[int, dict[int, None]] = {}
        for index, _ in rows:
            groups.setdefault(width_of(self.prompts[index]), {})[index] = None
        return [list(group) for group in groups.values()]

    def _take_off(self, rows: Sequence[_Row]) -> Flight:
        """The first rows."""
        count, device = len(rows), self.device
        widest = max(width_of(self.prompts[index]) for index, _ in rows)
        flight = Flight(
            cache=RowCache(self.model.config.get_text_config().num_hidden_layers, count, device),
            mask_RC=torch.zeros(count, widest + 1, dtype=torch.long, device=device),
            columns_R=torch.zeros(count, dtype=torch.long, device=device),
            positions_R=torch.zeros(count, dtype=torch.long, device=device),
            newest_R=torch.zeros(count, dtype=torch.long, device=device),
            uniforms_RN=torch.zeros(
                count,
                self.sampling.max_new_tokens if self.sampling.temperature > 0 else 1,
                dtype=torch.float64,
                device=device,
            ),
            steps_R=torch.zeros(count, dtype=torch.long, device=device),
        )
        self._board(flight, dict(enumerate(rows)), together=not self.engine.refill)
        return flight

    def _refill(self, seats: list[_Row | None], flight: Flight) -> None:
        """New prompts into free seats, some at a time: a pass over few prompts costs like many."""
        free = [seat for seat, row in enumerate(seats) if row is None]
        if len(free) < min(max(len(seats) // 8, 1), len(self.queue)):
            return
        boarding = {seat: self.queue.popleft() for seat in free[: len(self.queue)]}
        self._board(flight, boarding, together=False)
        for seat, row in boarding.items():
            seats[seat] = row

    def _board(self, flight: Flight, boarding: dict[int, _Row], together: bool) -> None:
        """Put prompts into rows of the flight.

        Args:
            together: These are all rows, of one width: the library's own cache serves them.
        """
        seats_of: dict[int, list[int]] = {}
        for seat, (index, _) in boarding.items():
            seats_of.setdefault(index, []).append(seat)
        for indices in self._groups(list(boarding.values())):
            cache, mask = self._prefill(indices)
            width = mask.shape[1]
            places = [(at, seat) for at, index in enumerate(indices) for seat in seats_of[index]]
            if together:
                order = {seat: at for at, seat in places}
                rows = [order[seat] for seat in range(len(boarding))]
                select_rows(cache, torch.tensor(rows, device=self.device))
                flight.cache = cache
            else:
                assert isinstance(flight.cache, RowCache)
                for at, seat in places:
                    flight.cache.put(seat, cache, at)
            for at, seat in places:
                flight.mask_RC[seat] = 0
                flight.mask_RC[seat, :width] = mask[at]
                flight.columns_R[seat] = width - 1
        for seat, (index, sample) in boarding.items():
            tokens = self.prompts[index].token_ids
            flight.positions_R[seat] = len(tokens) - 1
            flight.newest_R[seat] = tokens[-1]
            flight.steps_R[seat] = 0
            if self.sampling.temperature > 0:
                seed = self.sampling.seed_for(self.prompts[index], sample)
                numbers = uniforms([seed], self.sampling.max_new_tokens)[0]
                flight.uniforms_RN[seat] = numbers.to(self.device)
