"""What the statistics, which know no study, need of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from personaspace.analysis.power import Assumptions, Design, Endpoint, Plan
from personaspace.analysis.primary import METRICS, row_name
from personaspace.analysis.results_parts import PrimaryInfo
from personaspace.analysis.rows import Row
from personaspace.study import base_model
from personaspace.study.inputs import PUBLISHED_MODEL
from personaspace.study.sources import read_asked, read_questions
from personaspace.study.spec import Experiment

if TYPE_CHECKING:
    from personaspace.analysis.leakage import ConditionInfo
    from personaspace.analysis.leakage.scores import Key, Scores

WORDINGS = (
    "Personas have several wordings, which are a sample too: nobody knows how they vary, so no "
    "figure here holds that, and effects must be larger than these."
)


def design_of(spec: Experiment, folder: Path) -> Design:
    """The counts of a spec; its questions are read, its data sets need not exist yet.

    Raises:
        UserError: Questions that are missing or malformed.
    """
    evaluation = spec.evaluation
    evaluated = [read_asked(evaluation.questions, folder, evaluation.limit)]
    if evaluation.unseen_questions is not None:
        evaluated.append(read_asked(evaluation.unseen_questions, folder, evaluation.limit))
    asked = [text for each in evaluated for text in each.texts]
    coupled = set(read_questions(spec.coupling.questions, folder, spec.coupling.limit))
    extraction = spec.extraction
    extracted = read_asked(extraction.questions, folder, extraction.limit)
    em = [c for c in spec.conditions if c.kind == "em"]
    personas = spec.evaluated_personas()
    return Design(
        em=len(em),
        benign=any(c.kind == "benign" for c in spec.conditions),
        personas=len(personas),
        bystanders=len(spec.common_bystanders()),
        questions=len(asked),
        unseen=len(set(asked) - coupled),
        samples=evaluation.samples,
        extraction_personas=len(spec.extracted_personas()),
        extraction_questions=len(extracted.texts),
        seeds=min(len(spec.seeds_of(c)) for c in (em or spec.conditions)),
        cosines=tuple(c.cosine_anchor for c in em if c.cosine_anchor is not None),
        alpha=spec.analysis.alpha,
        em_seeds=tuple(tuple(spec.seeds_of(c)) for c in em),
        benign_seeds=next(
            (tuple(spec.seeds_of(c)) for c in spec.conditions if c.kind == "benign"), ()
        ),
        with_cosines=tuple(p for p, c in enumerate(em) if c.cosine_anchor is not None),
        places=_layers(spec) * len(set(spec.extraction.methods)),
        permutations=spec.analysis.permutations,
        primary=_endpoint(spec),
        themes=_sizes(asked, {t: name for each in evaluated for t, name in each.themes.items()}),
        extraction_themes=len(_sizes(extracted.texts, extracted.themes)),
    )


def planned(spec: Experiment, folder: Path, assumptions: Assumptions) -> Plan:
    """Which effects a study could detect.

    Raises:
        UserError: Questions that are missing or malformed.
    """
    from personaspace.analysis.power.plan import plan

    made = plan(design_of(spec, folder), assumptions)
    several = any(persona.prompts for persona in spec.personas)
    return replace(made, warnings=[*made.warnings, WORDINGS]) if several else made


def _sizes(questions: Sequence[str], themes: Mapping[str, str]) -> tuple[int, ...]:
    """How many questions each theme has; none where questions are the samples."""
    from personaspace.analysis.themes import places_of

    places_Q = places_of(questions, themes)
    return () if places_Q is None else tuple(Counter(places_Q.tolist()).values())


def _endpoint(spec: Experiment) -> Endpoint | None:
    """The primary endpoint, its conditions called as in `Design.layout`."""
    primary = spec.analysis.primary
    if primary is None:
        return None
    em = [c.name for c in spec.conditions if c.kind == "em"]
    called = {name: f"em-{place + 1}" for place, name in enumerate(em)}
    called |= {c.name: c.kind or "em" for c in spec.conditions if c.kind in ("benign", "base")}
    mine = [primary.condition] if primary.condition is not None else em
    weights = {called[name]: 1 / len(mine) for name in mine} | {called[primary.against]: -1.0}
    against_base = weights.pop("base", None) is not None
    what = f"{primary.measure}: {primary.condition or 'mean of the EM conditions'}"
    return Endpoint(
        f"{what} less {primary.against}", primary.measure == "bystander", weights, against_base
    )


def _layers(spec: Experiment) -> int:
    """How many layers are analysed; 1 where the model's number of layers is not known."""
    if spec.extraction.layers != "all":
        return max(1, len(spec.extraction.layers))
    shape = base_model.shape(spec.model)
    return shape.num_layers if shape else 1


def primary_of(spec: Experiment, layer: int) -> PrimaryInfo | None:
    """The primary endpoint as the results describe it.

    Args:
        layer: The headline layer.
    """
    primary = spec.analysis.primary
    if primary is None:
        return None
    kinds = {c.name: c.kind or "em" for c in spec.conditions}
    in_answers = primary.measure == "bystander"
    return PrimaryInfo(
        metric=METRICS[primary.measure],
        name=row_name(primary.measure, primary.condition, primary.against, kinds),
        measure=primary.measure,
        condition=primary.condition,
        against=primary.against,
        method=None if in_answers else primary.method or spec.analysis.method,
        layer=None if in_answers else layer if primary.layer is None else primary.layer,
        target=primary.target,
    )


def infos(spec: Experiment) -> list[ConditionInfo]:
    """The conditions as the analysis of leakage knows them.

    Published cosines are those of the published model, and say nothing of another one.
    """
    from personaspace.analysis.leakage import ConditionInfo

    theirs = spec.model.name == PUBLISHED_MODEL
    return [
        ConditionInfo(
            c.name, c.kind or "em", spec.induction_persona(c), c.cosine_anchor if theirs else None
        )
        for c in spec.conditions
    ]


def leakage_of(
    spec: Experiment,
    scores: Mapping[Key, Scores],
    unseen: set[str] | None,
    draws: Mapping[str, int] | None = None,
    measured: Mapping[str, float] | None = None,
    themes: Mapping[str, str] | None = None,
) -> list[Row]:
    """H1–H3 of scores, with the study's conditions and personas in their parts.

    Args:
        spec: The study.
        scores: By condition and training seed.
        unseen: Questions that coupling did not use; None: not known.
        draws: `permutations`, `bootstrap` and `seed`, where not the study's.
        measured: Measured cosine to the assistant by EM condition; None: anchors alone.
        themes: Of the evaluation's questions.

    Raises:
        UserError: Scores of a condition that the study lacks, or malformed ones.
    """
    from personaspace.analysis.leakage import analyse_leakage

    own = {name: getattr(spec.analysis, name) for name in ("permutations", "bootstrap", "seed")}
    return analyse_leakage(
        scores,
        infos(spec),
        source=spec.coupling.source,
        negatives=spec.coupling.negatives,
        unseen=unseen,
        measured=measured,
        themes=themes,
        **(own | dict(draws or {})),
    )
