"""One result of the statistics: the row that geometry and leakage hand to tables and report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    WithJsonSchema,
    WrapValidator,
)

Variant = Literal["published", "recommended"]
#: Whom a claim is about: the personas of the study, or those that it stands for.
Target = Literal["these_personas", "new_personas"]
#: Family of the one test that was decided on before the study ran.
PRIMARY = "primary"
#: What the positive control says of a row.
Status = Literal["assessable", "not_assessable"]

#: Of every model of results: nothing unknown, nothing changed, each field documented beneath it.
STRICT = ConfigDict(
    extra="forbid",
    frozen=True,
    use_attribute_docstrings=True,
    revalidate_instances="always",
    json_schema_serialization_defaults_required=True,
)


def _plain(value: Any) -> Any:
    """As JSON takes it: numpy's scalars as Python's; NaN, infinities and half intervals as None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        ends = [_plain(end) for end in value]
        return None if None in ends else ends
    number = value.item() if hasattr(value, "item") else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def _number(value: Any, check: Callable[[Any], Any]) -> Any:
    value = _plain(value)
    return value if type(value) is int else check(value)


#: A number that stays an integer where it is one, such as a layer.
Number = Annotated[
    float | None,
    WrapValidator(_number),
    PlainSerializer(lambda value: value),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "null"}]}),
]
Real = Annotated[float | None, BeforeValidator(_plain)]
Integer = Annotated[int | None, BeforeValidator(_plain)]
#: Low and high end.
Interval95 = Annotated[tuple[float, float] | None, BeforeValidator(_plain)]


@dataclass(frozen=True)
class Row:
    """One number with its test; what does not apply is None.

    `ci95` is always the interval of `value`. Where a row compares with a base, `p` tests `delta`,
    and a companion row named `…_delta` carries that difference as its value, with its interval.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    metric: str
    """M1, M2, M3, shape, bystander_mean, bystander_contrast, length, persona_text, log_odds,
    divergence, H1, H2 or H3."""
    variant: Variant
    """`published` repeats the study's analysis, faults and all; `recommended` is ours."""
    method: str | None = None
    """Where activations were read: a (last prompt token) or b (mean over the answer)."""
    layer: Integer = None
    """Decoder layer, counted from 0."""
    condition: str | None = None
    """The condition; None for tests across conditions."""
    seed: Integer = None
    """Training seed; None when several seeds are pooled."""
    value: Number = None
    """The estimate. Rates and ranges are fractions, not per cent."""
    base: Real = None
    """The same in what `value` is compared with."""
    delta: Real = None
    """value − base."""
    p: Real = None
    """p-value; the null hypothesis is in `measures`."""
    ci95: Interval95 = None
    """95 % interval of `value`."""
    n: Integer = None
    """Units that the test counts as independent (pairs, personas, questions, conditions …)."""
    family: str | None = None
    """Tests that are adjusted for multiplicity together; None: not part of a family."""
    p_bh: Real = None
    """p adjusted by Benjamini and Hochberg within the family."""
    p_holm: Real = None
    """p adjusted by Holm within the family."""
    effect: Real = None
    """An effect size; `effect_name` says which."""
    name: str | None = None
    """Tells apart the measures of one metric."""
    note: str | None = None
    """What the row shows and cannot show (as in `measures`), and what the data add to it."""
    effect_name: str | None = None
    """What `effect` is."""
    p_floor: Real = None
    """Smallest p that the design allows, whatever the data; None: no floor that matters."""
    warning: str | None = None
    """An assumption of this row that the data do not bear out."""
    status: Status | None = None
    """Of leakage and its tests: `not_assessable` where the positive control failed, so that the
    row has an estimate but no claim (no p, no interval, no effect size); None: not judged."""
    target: Target | None = None
    """Of an estimate over training runs, whom it is about: `these_personas` (runs and questions
    are samples) or `new_personas` (personas too); None: as the measure says."""
    against: str | None = None
    """Condition that is subtracted, where the measure compares two of them by name."""
    run_variation: bool | None = None
    """Of an estimate over training runs, whether p and interval hold run-to-run variation; they
    cannot where every condition has one run."""
    equivalence: Real = None
    """Smallest margin at which two one-sided tests at 5 % call the difference none: it is shown to
    be smaller than this."""

    def to_dict(self) -> dict[str, Any]:
        """All fields in order, as JSON takes them: plain numbers, NaN and infinities as None."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def to_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as JSON-ready dicts, in order."""
    return [row.to_dict() for row in rows]
