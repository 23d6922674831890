"""A study with its personas and questions in one order, whichever its file has them in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from personaspace.study.loaded import Study
from personaspace.study.section import Section
from personaspace.study.spec import Experiment


def in_one_order(study: Study) -> Study:
    """The study as it would be, were its lists of personas and questions written in order.

    Studies that differ in the order of these lists alone become equal. What a limit takes of a
    list of questions is taken before. Only what is the same in every order is asked of the result:
    nothing is computed from it.
    """
    return replace(
        study,
        spec=_spec(study.spec),
        extraction_questions=sorted(study.extraction_questions),
        coupling_questions=sorted(study.coupling_questions),
        evaluation_questions=sorted(study.evaluation_questions),
        judge_questions=tuple(sorted(study.judge_questions)),
    )


def _spec(spec: Experiment) -> Experiment:
    changed: dict[str, Any] = {
        "personas": sorted(spec.personas, key=lambda persona: persona.name),
        "extraction": _sorted(spec.extraction, "personas", "questions"),
        "coupling": _sorted(spec.coupling, "negatives", "questions"),
        "evaluation": _sorted(spec.evaluation, "personas", "questions", "unseen_questions"),
    }
    if spec.judge is not None:
        changed["judge"] = _sorted(spec.judge, "personas", "questions")
    return spec.model_copy(update=changed)


def _sorted(section: Section, *fields: str) -> Any:
    """The section with these of its fields sorted, where they are lists."""
    found = {name: getattr(section, name) for name in fields}
    return section.model_copy(
        update={name: sorted(value) for name, value in found.items() if isinstance(value, list)}
    )
