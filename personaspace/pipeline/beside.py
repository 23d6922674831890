"""What aggregate measures beside containment: answers' form, and who wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personaspace.analysis.rows import Row
from personaspace.pipeline.context import ANSWERS, Context
from personaspace.pipeline.design import infos
from personaspace.pipeline.tables import Answers, folders_of, read

if TYPE_CHECKING:
    from personaspace.analysis.form import Forms


def forms_of_answers(context: Context, answers: Answers) -> Forms:
    """Length and places of every answer."""
    from personaspace.behaviour.form import forms_of

    coupling = context.spec.coupling
    return {key: forms_of(a, coupling.marker, coupling.separator) for key, a in answers.items()}


def form(context: Context, forms: Forms) -> list[Row]:
    """Length of answers, and rates per opportunity and at equal length."""
    from personaspace.analysis.form import analyse_form

    analysis = context.spec.analysis
    return analyse_form(
        forms,
        infos(context.spec),
        source=context.spec.coupling.source,
        permutations=analysis.permutations,
        bootstrap=analysis.bootstrap,
        seed=analysis.seed,
    )


def persona_text(context: Context, answers: Answers) -> list[Row]:
    """Who wrote an answer: of the coupled model's answers, and of method B's greedy ones."""
    from personaspace.analysis.persona_text import analyse_persona_text
    from personaspace.behaviour.form import without_marker

    spec = context.spec
    greedy: Answers = {
        (node.condition, node.seed): read(folder / ANSWERS)
        for node, folder in folders_of(context, "extract").items()
        if (folder / ANSWERS).is_file()
    }
    context.progress.start("persona from text", len(answers) + len(greedy))
    rows = []
    for method, of_runs in ((None, answers), ("b", greedy)):
        clean = {
            key: {
                persona: {
                    question: [without_marker(text, spec.coupling.marker) for text in texts]
                    for question, texts in questions.items()
                }
                for persona, questions in run.items()
            }
            for key, run in of_runs.items()
        }
        rows += analyse_persona_text(
            clean,
            base=spec.base_condition().name,
            method=method,
            permutations=spec.analysis.permutations,
            seed=spec.analysis.seed,
            advance=context.progress.advance,
        )
    return rows
