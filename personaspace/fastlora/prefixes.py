"""Which sequences begin alike, so that their common beginning is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise


@dataclass(frozen=True)
class Group:
    """Sequences with a common prefix.

    Attributes:
        length: Tokens of the prefix; may be 0.
        members: Indices of the sequences.
    """

    length: int
    members: tuple[int, ...]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def shared_prefixes(prompts: Sequence[Sequence[int]]) -> list[Group]:
    """Groups that save the most tokens, every sequence in one of them.

    At least the last token of each prompt stays out of its prefix. In sorted order the sequences
    below a node of their trie lie side by side. Each node may open a group with what its sequences
    have in common; a sequence then takes the deepest open group above it.
    """
    heads = [tuple(prompt[:-1]) for prompt in prompts]
    order = sorted(range(len(heads)), key=lambda index: heads[index])
    alike = [_common(heads[before], heads[after]) for before, after in pairwise(order)]

    @cache
    def best(low: int, high: int, offer: int) -> tuple[int, tuple[Group, ...], tuple[int, ...]]:
        """Tokens saved below a node, its groups, and who takes the `offer` of a group above."""
        if high - low == 1:
            return offer, (), (order[low],)
        common = min(alike[low : high - 1])
        cuts = [index + 1 for index in range(low, high - 1) if alike[index] == common]
        parts = list(zip([low, *cuts], [*cuts, high], strict=True))

        def total(offered: int) -> tuple[int, tuple[Group, ...], tuple[int, ...]]:
            found = [best(start, stop, offered) for start, stop in parts]
            groups = tuple(group for _, inner, _ in found for group in inner)
            takers = tuple(taker for _, _, inner in found for taker in inner)
            return sum(saved for saved, _, _ in found), groups, takers

        closed = total(offer)
        saved, groups, takers = total(common)
        # The prefix itself is computed once for all.
        if saved - common > closed[0]:
            return saved - common, (*groups, Group(common, takers)), ()
        return closed

    if not order:
        return []
    _, groups, takers = best(0, len(order), 0)
    return [*groups, Group(0, takers)] if takers else list(groups)
