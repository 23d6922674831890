"""What a study's power depends on: the counts of its spec."""

from __future__ import annotations

from pathlib import Path

from personaspace.analysis.power import Design
from personaspace.study.sources import read_questions
from personaspace.study.spec import Experiment


def design_of(spec: Experiment, folder: Path) -> Design:
    """The counts of a spec; its questions are read, its data sets need not exist yet.

    Raises:
        UserError: Questions that are missing or malformed.
    """
    evaluation = spec.evaluation
    asked = read_questions(evaluation.questions, folder, evaluation.limit)
    if evaluation.unseen_questions is not None:
        asked = asked + read_questions(evaluation.unseen_questions, folder, evaluation.limit)
    coupled = set(read_questions(spec.coupling.questions, folder, spec.coupling.limit))
    extraction = spec.extraction
    em = [c for c in spec.conditions if c.kind == "em"]
    personas = spec.evaluated_personas()
    induced = {spec.induction_persona(c) for c in em}
    return Design(
        em=len(em),
        benign=any(c.kind == "benign" for c in spec.conditions),
        personas=len(personas),
        bystanders=len(set(personas) - induced - {spec.coupling.source}),
        questions=len(asked),
        unseen=len(set(asked) - coupled),
        samples=evaluation.samples,
        extraction_personas=len(spec.extracted_personas()),
        extraction_questions=len(read_questions(extraction.questions, folder, extraction.limit)),
        seeds=len(spec.seeds),
        cosines=tuple(c.cosine_anchor for c in em if c.cosine_anchor is not None),
        alpha=spec.analysis.alpha,
    )
