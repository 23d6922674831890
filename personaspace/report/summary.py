"""The headline of a study's results as a small table, for terminals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from personaspace.analysis.results import Results, share
from personaspace.report import control, judged
from personaspace.report.text import NONE, number, percent
from personaspace.report.verdict import verdict


@dataclass(frozen=True)
class HeadlineRow:
    """A condition's headline numbers, as published: means over seeds; None where there is none.

    Attributes:
        condition: Its name.
        cosine: M1 at the headline layer and method.
        cosine_change: The same minus base's.
        bystander_leakage: Mean share of bystanders' answers with the marker.
        source_rate: Share of the source persona's answers with the marker.
        degenerate: Share of all answers that are degenerate.
        status: Whether its leakage can be assessed, for people; a dash without answers.
    """

    condition: str
    cosine: float | None
    cosine_change: float | None
    bystander_leakage: float | None
    source_rate: float | None
    degenerate: float | None
    status: str


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def headline(results: Results) -> Sequence[HeadlineRow]:
    """A row for each condition, in the spec's order."""
    m1 = [
        row
        for row in results.geometry
        if (row.metric, row.variant, row.name) == ("M1", "published", "raw_cosine")
        and (row.layer, row.method) == (results.headline_layer, results.headline_method)
    ]
    means = [
        row
        for row in results.leakage
        if (row.metric, row.variant) == ("bystander_mean", "published")
    ]
    entries = []
    for condition in results.conditions:
        own = [row for row in m1 if row.condition == condition.name]
        cosines = [row.base for row in m1] if condition.kind == "base" else [r.value for r in own]
        source = results.rates_of(condition.name, results.source) if results.source else []
        entries.append(
            HeadlineRow(
                condition=condition.name,
                cosine=_mean(cosines),
                cosine_change=_mean(row.delta for row in own),
                bystander_leakage=_mean(r.value for r in means if r.condition == condition.name),
                source_rate=_mean(rate.rate for rate in source),
                degenerate=share(results.rates_of(condition.name), "degenerate"),
                status=control.status_of(results, condition.name),
            )
        )
    return entries


def plain(results: Results) -> str:
    """The verdict, a line for each question and one for its answer."""
    return "\n".join(f"{line.question}\n  {line.answer}" for line in verdict(results))


def table(results: Results) -> Table:
    """The headline as a table; below it first where leakage cannot be assessed."""
    first = control.sentence(results)
    below = "as published; the report also has the recommended analysis"
    view = Table(
        title=f"{results.study}: layer {results.headline_layer}, method "
        f"{(results.headline_method or NONE).upper()}",
        title_justify="left",
        caption=f"{first}\n{below}" if first else below,
        caption_justify="left",
    )
    view.add_column("condition")
    for name in ("mean cosine", "vs base", "bystanders", "source", "degenerate"):
        view.add_column(name, justify="right")
    view.add_column("leakage")
    verdicts = {row.condition: row for row in judged.plain(results)}
    if verdicts:
        view.add_column("misaligned", justify="right")
    for entry in headline(results):
        verdict = judged.rate_cell(verdicts.get(entry.condition))
        view.add_row(
            entry.condition,
            number(entry.cosine, 4),
            number(entry.cosine_change, 4, sign=True),
            percent(entry.bystander_leakage),
            percent(entry.source_rate),
            percent(entry.degenerate),
            entry.status,
            *([f"{verdict.text} {verdict.detail}".strip()] if verdicts else []),
        )
    return view
