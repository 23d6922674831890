"""Packed rows: nothing lost, nothing seen across examples, the same loss as padded batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from personaspace.models.chat import Example
from personaspace.training.packing import PackedRow, block_mask, make_row, pack
from personaspace.training.plain import row_loss


def random_examples(count: int, seed: int = 0, longest: int = 40) -> list[Example]:
    """Examples of random tokens and scattered loss, of different lengths."""
    dice = random.Random(seed)
    made = []
    for _ in range(count):
        length = dice.randint(3, longest)
        loss = [dice.random() < 0.4 for _ in range(length)]
        loss[-1] = True
        made.append(
            Example(tuple(dice.randrange(3, 800) for _ in range(length)), (False, *loss[1:]))
        )
    return made


def logits(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=ids, use_cache=False, **options).logits[0]
    assert isinstance(found, torch.Tensor)
    return found


@pytest.mark.parametrize("row_tokens", [64, 4096])
def test_logits_of_a_packed_row_are_those_of_the_rows_alone(loaded: Any, row_tokens: int) -> None:
    examples = random_examples(12)
    by_ids = {example.ids: example for example in examples}
    rows = pack(examples, row_tokens)
    assert any(int((row.positions_BT == 0).sum()) > 1 for row in rows)
    worst_without_mask = 0.0
    for row in rows:
        starts = (row.positions_BT[0] == 0).nonzero()[:, 0].tolist()
        stops = [*starts[1:], row.ids_BT.shape[1]]
        together = logits(
            loaded.model,
            row.ids_BT,
            position_ids=row.positions_BT,
            attention_mask=row.mask_B1TT,
        )
        assert row.mask_B1TT is not None
        seen = logits(
            loaded.model,
            row.ids_BT,
            position_ids=row.positions_BT,
            attention_mask=torch.ones_like(row.mask_B1TT).tril(),
        )
        for start, stop in zip(starts, stops, strict=True):
            ids = row.ids_BT[:, start:stop]
            assert tuple(ids[0].tolist()) in by_ids
            alone = logits(loaded.model, ids)
            scale = float(alone.abs().max())
            assert float((together[start:stop] - alone).abs().max()) < 1e-5 * scale
            off = float((seen[start:stop] - alone).abs().max()) / scale
            worst_without_mask = max(worst_without_mask, off)
    # With plain causal attention over the row the examples do see each other.
    assert worst_without_mask > 1e-2


@pytest.mark.parametrize("row_tokens", [1, 100, 4096])
def test_loss_is_that_of_a_padded_batch(loaded: Any, row_tokens: int) -> None:
    examples = random_examples(16, seed=1)
    width = max(len(example.ids) for example in examples)
    ids = torch.zeros(16, width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for number, made in enumerate(examples):
        ids[number, : len(made.ids)] = torch.tensor(made.ids)
        attention[number, : len(made.ids)] = 1
        for place, (token, on) in enumerate(zip(made.ids, made.loss, strict=True)):
            if on:
                labels[number, place] = token
    with torch.no_grad():
        plain = loaded.model(input_ids=ids, attention_mask=attention, labels=labels).loss
        rows = pack(examples, row_tokens)
        assert (len(rows) == 16) is (row_tokens == 1)
        total = sum(float(row_loss(loaded.model, row)) for row in rows)
    tokens = sum(example.loss_tokens for example in examples)
    assert tokens == int((labels != -100).sum())
    assert total / tokens == pytest.approx(float(plain), rel=1e-5)
    # A mean over examples, or over rows, is another number.
    each = [float(row_loss(loaded.model, make_row([e]))) / e.loss_tokens for e in examples]
    assert sum(each) / 16 != pytest.approx(float(plain), rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_mask_is_causal_within_blocks(lengths: list[int]) -> None:
    mask = block_mask(lengths)
    owner = [block for block, length in enumerate(lengths) for _ in range(length)]
    assert mask.shape == (1, 1, len(owner), len(owner))
    assert mask.dtype == torch.bool
    wanted = [[a == b and j <= i for j, b in enumerate(owner)] for i, a in enumerate(owner)]
    assert mask[0, 0].tolist() == wanted


def unpacked(row: PackedRow) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tokens and loss places of each example of a row, read from the tensors alone."""
    assert row.mask_B1TT is not None
    ids, places = row.ids_BT[0].tolist(), row.positions_BT[0].tolist()
    starts = [index for index, place in enumerate(places) if place == 0]
    found = []
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        assert places[start:stop] == list(range(stop - start))
        block = row.mask_B1TT[0, 0, start:stop]
        assert block[:, start:stop].equal(torch.ones_like(block[:, start:stop]).tril())
        assert int(block.sum()) == (stop - start) * (stop - start + 1) // 2
        kept = [
            (int(keep), int(target))
            for keep, target in zip(row.keep_K, row.targets_K, strict=True)
            if start <= keep < stop
        ]
        # The logits at a place predict the token after it.
        assert all(ids[keep + 1] == target and keep + 1 < stop for keep, target in kept)
        found.append((tuple(ids[start:stop]), tuple(keep + 1 - start for keep, _ in kept)))
    assert sum(len(loss) for _, loss in found) == len(row.keep_K)
    return found


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    losses=st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=25),
    row_tokens=st.integers(1, 60),
)
def test_every_example_once_in_rows_within_the_budget(
    losses: list[list[bool]], row_tokens: int
) -> None:
    # Every token is another one, so that a mixed-up row cannot look right.
    counter = iter(range(10_000))
    examples = [Example(tuple(next(counter) for _ in loss), tuple(loss)) for loss in losses]
    rows = pack(examples, row_tokens)
    found = [made for row in rows for made in unpacked(row)]
    # The first token of a chat has nothing before it that could predict it.
    wanted = [
        (made.ids, tuple(p for p, on in enumerate(made.loss) if on and p > 0)) for made in examples
    ]
    assert sorted(found) == sorted(wanted)
    sizes = [row.ids_BT.shape[1] for row in rows]
    for row, size in zip(rows, sizes, strict=True):
        assert size <= row_tokens or len(unpacked(row)) == 1
    # First fit: no two rows would have gone into one.
    assert all(a + b > row_tokens for n, a in enumerate(sizes) for b in sizes[:n])


def test_packing_is_the_same_every_time() -> None:
    examples = random_examples(30, seed=2)
    first, again = pack(examples, 90), pack(list(examples), 90)
    assert [row.ids_BT.tolist() for row in first] == [row.ids_BT.tolist() for row in again]


def test_a_copy_on_a_device_keeps_everything() -> None:
    row = make_row(random_examples(3))
    there = row.to("cpu")
    for name in ("ids_BT", "positions_BT", "mask_B1TT", "keep_K", "targets_K"):
        assert getattr(row, name).equal(getattr(there, name))
