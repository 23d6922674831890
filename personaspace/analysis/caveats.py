"""What the data themselves warn of; printed beside the results, never hidden."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from personaspace.analysis.control_rows import ControlReason
from personaspace.analysis.metrics import measure_of
from personaspace.analysis.results import Results, share
from personaspace.analysis.results_parts import RateRow
from personaspace.analysis.rows import Row

#: Shares above which an answer set is worth a warning.
_DEGENERATE = 0.1
#: Share of answers with a separator below which a missing marker may have this reason.
_SEPARATED = 0.2
#: Below so many themes a study is told that they are few.
_FEW_THEMES = 10


class CaveatCode(StrEnum):
    """What a caveat is about."""

    ONE_SEED = "one_seed"
    FEW_CONDITIONS = "few_conditions"
    NO_BENIGN = "no_benign"
    DEGENERATE_ANSWERS = "degenerate_answers"
    SOURCE_RARELY_MARKS = "source_rarely_marks"
    SEEN_QUESTIONS = "seen_questions"
    THEMES = "themes"
    WORDINGS = "wordings"
    LOSS_ROSE = "loss_rose"
    FAILED_ASSUMPTION = "failed_assumption"


@dataclass(frozen=True)
class Caveat:
    """A warning.

    Attributes:
        code: What it is about.
        text: In a sentence or two, for people.
        condition: The condition that it is about; None: the whole study, or several.
    """

    code: CaveatCode
    text: str
    condition: str | None = None


def caveats(results: Results, unseen: Collection[str]) -> list[Caveat]:
    """Warnings for the report, from results that are otherwise complete.

    Args:
        results: Without their caveats.
        unseen: Evaluation questions that coupling did not train on.
    """
    found = []
    if results.single_runs:
        one = "One training run each"
        if len(results.seeds) == 1:
            one = f"Only one seed ({results.seeds[0]})"
        found.append(
            Caveat(
                CaveatCode.ONE_SEED,
                f"{one}: the effect of a condition cannot be separated from chance in training.",
            )
        )
    several = [persona.name for persona in results.personas if persona.prompts]
    if several and len(several) < len(results.personas):
        found.append(Caveat(CaveatCode.WORDINGS, _wordings(several, len(results.personas))))
    em = results.of_kind("em")
    if 1 < len(em) < 6:
        orders = math.factorial(len(em))
        found.append(
            Caveat(
                CaveatCode.FEW_CONDITIONS,
                f"H3 ranks {len(em)} conditions, so its exact two-sided p cannot be below "
                f"2/{orders} = {2 / orders:.3f}, whatever the data.",
            )
        )
    if not results.of_kind("benign"):
        found.append(
            Caveat(
                CaveatCode.NO_BENIGN,
                "There is no benign condition, so fine-tuning of any kind may explain a collapse.",
            )
        )
    found.extend(_answer_caveats(results))
    if results.rates and not unseen:
        found.append(
            Caveat(
                CaveatCode.SEEN_QUESTIONS,
                "Every evaluation question was also a coupling question, so leakage may be memory "
                "of the questions.",
            )
        )
    found.extend(_theme_caveats(results))
    found.extend(_training_caveats(results))
    found.extend(
        Caveat(CaveatCode.FAILED_ASSUMPTION, text) for text in failed_assumptions(results.rows)
    )
    return found


def _wordings(several: Sequence[str], personas: int) -> str:
    left = personas - len(several)
    others = (
        "the other is said of its one wording"
        if left == 1
        else ("the others is said of their one wording")
    )
    have = "has" if len(several) == 1 else "have"
    return (
        f"Of {personas} personas {len(several)} {have} several wordings ({', '.join(several)}); "
        f"what is said of {others}."
    )


#: How often, stands in docs/calibration-runs.md and docs/calibration-themes.md.
_UNKNOWN_THEMES = (
    "each counts as a sample of its own. Should several ask for one kind of thing, and fine-tuning "
    "act on kinds, tests over questions reject more often than they say."
)


def _theme_caveats(results: Results) -> list[Caveat]:
    found = []
    for asked in results.questions:
        what, texts = f"The {asked.what}", []
        if asked.themes is None:
            unknown = f"{what} name no themes: {_UNKNOWN_THEMES}"
            found += [Caveat(CaveatCode.THEMES, unknown)] if asked.count > 1 else []
            continue
        if asked.themes == 1 < asked.count:
            texts.append(
                f"{what} are of one theme: what is said holds for questions of this theme, and "
                "may not for others."
            )
        elif asked.themes < min(_FEW_THEMES, asked.count):
            texts.append(
                f"{what} come in {asked.themes} themes, which are the samples of every test over "
                "questions: so few leave wide intervals and little power."
            )
        if asked.unthemed:
            have, counts = ("has", "it") if asked.unthemed == 1 else ("have", "each")
            texts.append(
                f"Of the {asked.what} {asked.unthemed} {have} no theme, while others do: {counts} "
                "counts as a theme of its own."
            )
        found += [Caveat(CaveatCode.THEMES, text) for text in texts]
    return found


def failed_assumptions(rows: Iterable[Row]) -> list[str]:
    """One sentence for each measure and assumption that fails, with where it does.

    Args:
        rows: Those without a warning are passed over.
    """
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if not row.warning:
            continue
        measure = measure_of(row.metric, row.variant, row.name)
        title = measure.title.removesuffix(", change from base")
        layer = None if row.layer is None else f"layer {row.layer}"
        method = None if row.method is None else f"method {row.method.upper()}"
        place = " ".join(part for part in (row.condition, layer, method) if part)
        found = where[f"{row.metric}, {title}", row.warning]
        if place and place not in found:
            found.append(place)
    return [
        f"{measure}: {warning}{_listed(places)}" for (measure, warning), places in where.items()
    ]


def _listed(places: list[str]) -> str:
    if not places:
        return ""
    more = f" and {len(places) - 3} more" if len(places) > 3 else ""
    return f" ({', '.join(places[:3])}{more})"


def _answer_caveats(results: Results) -> list[Caveat]:
    found = []
    for condition in results.conditions:
        garbled = share(results.rates_of(condition.name), "degenerate")
        if garbled is not None and garbled > _DEGENERATE:
            found.append(
                Caveat(
                    CaveatCode.DEGENERATE_ANSWERS,
                    f"{condition.title}: {garbled:.0%} of the answers are degenerate (empty, "
                    "repetitive, or with several markers); read its leakage with care.",
                    condition.name,
                )
            )
        failed = results.not_assessable.get(condition.name)
        if failed is not None and ControlReason.SOURCE_RARELY_MARKS in failed.reasons:
            source = results.rates_of(condition.name, results.source)
            found.append(
                Caveat(
                    CaveatCode.SOURCE_RARELY_MARKS,
                    f"{condition.title}: the source persona itself rarely writes the marker, so "
                    "coupling hardly worked and nothing can be said of leakage."
                    f"{_never_there(source)}",
                    condition.name,
                )
            )
    return found


def _never_there(source: Sequence[RateRow]) -> str:
    """Whether the source's answers get to where coupling taught the marker."""
    separated = share(source, "separated")
    if separated is None or separated >= _SEPARATED:
        return ""
    return (
        f" Only {separated:.1%} of its answers have the separator after which the marker was "
        "taught, and nothing trains a model to write that."
    )


def _training_caveats(results: Results) -> list[Caveat]:
    return [
        Caveat(
            CaveatCode.LOSS_ROSE,
            f"{row.condition}: loss rose during {row.stage} "
            f"({row.loss_first:.2f} to {row.loss_last:.2f}).",
            row.condition,
        )
        for row in results.training
        if row.loss_first is not None
        and row.loss_last is not None
        and (row.steps or 0) > 1
        and row.loss_last > row.loss_first * 1.1
    ]
