"""What is decided before a packed batch runs: shared prefixes, and how a step fits into memory."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from personaspace.fastlora import memory
from personaspace.fastlora.prefixes import Group, shared_prefixes

GIB = 2**30
#: Qwen2.5-7B, its adapter's parameters, and bytes of its weights.
QWEN = SimpleNamespace(
    config=SimpleNamespace(
        model_type="qwen2",
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
    ),
    dtype=torch.bfloat16,
)
ADAPTER = 80_740_352
WEIGHTS = 2 * 7_615_616_512


# Prefixes


def saved(groups: list[Group]) -> int:
    return sum(group.length * (len(group.members) - 1) for group in groups)


def best_by_trying(prompts: list[tuple[int, ...]]) -> int:
    """Most tokens that any partition of the prompts can save."""
    heads = [prompt[:-1] for prompt in prompts]

    def common(members: tuple[int, ...]) -> int:
        columns = zip(*(heads[m] for m in members), strict=False)
        length = 0
        for column in columns:
            if len(set(column)) > 1:
                break
            length += 1
        return length

    @cache
    def best(left: tuple[int, ...]) -> int:
        if not left:
            return 0
        head, rest = left[0], left[1:]
        found = 0
        for choice in range(2 ** len(rest)):
            others = tuple(m for n, m in enumerate(rest) if choice >> n & 1)
            remaining = tuple(m for n, m in enumerate(rest) if not choice >> n & 1)
            found = max(found, common((head, *others)) * len(others) + best(remaining))
        return found

    return best(tuple(range(len(prompts))))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=6).map(tuple), max_size=6).filter(
        bool
    )
)
def test_prefixes_save_the_most(prompts: list[tuple[int, ...]]) -> None:
    groups = shared_prefixes(prompts)
    assert sorted(m for g in groups for m in g.members) == list(range(len(prompts)))
    for group in groups:
        for member in group.members:
            assert group.length < len(prompts[member]), "the last token stays outside"
            assert prompts[member][: group.length] == prompts[group.members[0]][: group.length]
    assert saved(groups) == best_by_trying(prompts)


def test_each_persona_is_a_group() -> None:
    prompts = [
        (1, 2, 3, *([persona] * 20), 50 + question, 7, 8)
        for persona in (11, 12, 13)
        for question in range(40)
    ]
    groups = shared_prefixes(prompts)
    assert sorted((g.length, len(g.members)) for g in groups) == [(23, 40)] * 3


# Memory


def planned(card: float, limit: int = 16384, longest: int = 500) -> memory.MemoryPlan:
    need = memory.costs(QWEN, ADAPTER)  # type: ignore[arg-type]
    return memory.plan(int(card * GIB) - WEIGHTS, need, limit, longest)


def test_bytes_kept_a_token_are_those_of_the_layer() -> None:
    need = memory.costs(QWEN, ADAPTER)  # type: ignore[arg-type]
    # Two sums and norms of 3,584; q, k, v and attention's output twice; gate and up of 18,944.
    assert need.kept == pytest.approx(2 * (4 * 3584 + (3 * 28 + 8) * 128 + 2 * 18944), rel=0.02)
    assert need.fixed > 12 * ADAPTER


def test_a_layer_that_recomputes_is_whole_again_while_its_gradients_are_made() -> None:
    need = memory.Costs(layers=10, kept=100, edge=7, working=30, fixed=5)
    assert need.step(3, 0) == 5 + 3 * (10 * 100 + 30)
    assert need.step(3, 4) == 5 + 3 * (6 * 100 + 4 * 7 + 100 + 30)


@pytest.mark.parametrize("card, least, most", [(79, 12_000, 16_384), (40, 4_000, 7_000)])
def test_large_cards_recompute_nothing(card: int, least: int, most: int) -> None:
    plan = planned(card)
    assert plan.checkpointed == 0 and least <= plan.row_tokens <= most


def test_a_card_of_24_gib() -> None:
    # Short examples: shorter rows, nothing recomputed.
    assert planned(24).checkpointed == 0 and 1024 <= planned(24).row_tokens < 2500
    # Examples of 2,048 tokens need a row of that length: some layers recompute, not all.
    long = planned(24, longest=2048)
    assert long.row_tokens == 2048 and 0 < long.checkpointed < 28


def test_a_card_that_is_too_small_does_what_it_can() -> None:
    assert planned(16, longest=2048) == memory.MemoryPlan(2048, 28)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.floats(15, 100), st.integers(64, 16384), st.integers(16, 4096), st.integers(1, 10))
@example(card=16.5, limit=511, longest=16, more=1)
def test_plans_fit_and_waste_nothing(card: float, limit: int, longest: int, more: int) -> None:
    need = memory.costs(QWEN, ADAPTER)  # type: ignore[arg-type]
    free = int(card * GIB) - WEIGHTS
    plan = memory.plan(free, need, limit, longest)
    usable = int(free * memory.USABLE)
    peak = need.step(plan.row_tokens, plan.checkpointed)
    assert longest <= plan.row_tokens <= max(limit, longest)
    if peak > usable:  # only where nothing would do
        assert plan == memory.MemoryPlan(longest, need.layers)
        assert need.step(longest, need.layers) > usable
        return
    if plan.checkpointed:
        assert need.step(plan.row_tokens, plan.checkpointed - 1) > usable
    elif plan.row_tokens < limit:
        assert need.step(plan.row_tokens + 1, 0) > usable
    # More memory never makes it worse.
    larger = memory.plan(free + more * GIB, need, limit, longest)
    assert larger.checkpointed <= plan.checkpointed


def test_tighter_plans_come_to_an_end_and_each_takes_less() -> None:
    need = memory.costs(QWEN, ADAPTER)  # type: ignore[arg-type]
    plan: memory.MemoryPlan | None = planned(79)
    sizes = []
    while plan is not None:
        sizes.append(need.step(plan.row_tokens, plan.checkpointed))
        last, plan = plan, memory.tighter(plan, need.layers, longest=1500)
    assert last == memory.MemoryPlan(1500, need.layers)
    # The first layer that recomputes is whole again for a moment, so it alone spares nothing.
    assert sizes == sorted(sizes, reverse=True) and len(sizes) < 30


def test_a_process_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "mem_get_info", lambda _: (60 * GIB, 80 * GIB))
    monkeypatch.setattr(cuda, "memory_allocated", lambda _: 15 * GIB)
    monkeypatch.setattr(cuda, "memory_reserved", lambda _: 17 * GIB)
    monkeypatch.setattr(cuda, "get_per_process_memory_fraction", lambda _: 1.0, raising=False)
    assert memory.free_bytes(torch.device("cuda")) == 62 * GIB
    monkeypatch.setattr(cuda, "get_per_process_memory_fraction", lambda _: 0.3, raising=False)
    assert memory.free_bytes(torch.device("cuda")) == 9 * GIB


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, ""),
    ],
)
def test_segments_grow_unless_the_user_sets_the_allocator(given: dict[str, str], used: str) -> None:
    kept = {n: v for n, v in os.environ.items() if not n.endswith("ALLOC_CONF")}
    code = "import personaspace, os; print(os.environ.get('PYTORCH_ALLOC_CONF', ''))"
    run = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == used


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_allocator_has_read_it() -> None:
    code = (
        "import personaspace, torch; kept = torch.zeros(1 << 20, device='cuda'); "
        "print({segment['is_expandable'] for segment in torch.cuda.memory_snapshot()})"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "{True}"
