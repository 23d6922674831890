"""One result of the statistics: the row that geometry and leakage hand to tables and report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

Variant = Literal["published", "recommended"]


@dataclass(frozen=True)
class Row:
    """One number with its test; what does not apply is None.

    `ci95` is always the interval of `value`. Where a row compares with a base, `p` tests `delta`,
    and a companion row named `…_delta` carries that difference as its value, with its interval.

    Attributes:
        metric: M1, M2, M3, bystander_mean, H1, H2 or H3.
        variant: `published` repeats the study's analysis, faults and all; `recommended` is ours.
        method: Where activations were read: a (last prompt token) or b (mean over the answer).
        layer: Decoder layer, counted from 0.
        condition: The condition; None for tests across conditions.
        seed: Training seed; None when several seeds are pooled.
        value: The estimate. Rates and ranges are fractions, not per cent.
        base: The same in what `value` is compared with.
        delta: value − base.
        p: p-value; the null hypothesis is in `measures`.
        ci95: 95 % interval of `value`.
        n: Units that the test counts as independent (pairs, personas, questions, conditions …).
        family: Tests that are adjusted for multiplicity together; None: not part of a family.
        p_bh: Benjamini–Hochberg within the family.
        p_holm: Holm within the family.
        effect: An effect size; `effect_name` says which.
        name: Tells apart the measures of one metric.
        note: One plain sentence on what the row shows and cannot show (`measures`), and what the
            data add to it.
        effect_name: What `effect` is.
        p_floor: Smallest p that the design allows, whatever the data; None: no floor that matters.
        warning: An assumption of this row that the data do not bear out.
    """

    metric: str
    variant: Variant
    method: str | None = None
    layer: int | None = None
    condition: str | None = None
    seed: int | None = None
    value: float | None = None
    base: float | None = None
    delta: float | None = None
    p: float | None = None
    ci95: tuple[float, float] | None = None
    n: int | None = None
    family: str | None = None
    p_bh: float | None = None
    p_holm: float | None = None
    effect: float | None = None
    name: str | None = None
    note: str | None = None
    effect_name: str | None = None
    p_floor: float | None = None
    warning: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields in order, as JSON takes them: plain numbers, NaN and infinities as None."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        ends = [_plain(end) for end in value]
        return None if None in ends else ends
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def to_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as JSON-ready dicts, in order."""
    return [row.to_dict() for row in rows]
