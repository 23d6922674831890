"""What aggregate measures beside containment: answers' form, and who wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from personaspace.analysis.rows import Row
from personaspace.analysis.wordings import unheld
from personaspace.pipeline.context import Context
from personaspace.pipeline.design import infos
from personaspace.pipeline.stages.logodds import LOG_ODDS
from personaspace.pipeline.stages.steer import STEERING
from personaspace.pipeline.tables import Answers, folders_of, read, read_answers

if TYPE_CHECKING:
    from personaspace.analysis.form import Forms
    from personaspace.analysis.leakage.scores import Key
    from personaspace.analysis.log_odds import LogProbabilities
    from personaspace.analysis.steering_rows import SteeringRow


def forms_of_answers(context: Context, answers: Answers) -> Forms:
    """Length and places of every answer."""
    from personaspace.behaviour.form import forms_of

    coupling = context.spec.coupling
    return {key: forms_of(a, coupling.marker, coupling.separator) for key, a in answers.items()}


def form(context: Context, forms: Forms) -> list[Row]:
    """Length of answers, and rates per opportunity and at equal length."""
    from personaspace.analysis.form import analyse_form

    analysis = context.spec.analysis
    rows = analyse_form(
        forms,
        infos(context.spec),
        source=context.spec.coupling.source,
        themes=context.study.evaluation_themes,
        permutations=analysis.permutations,
        bootstrap=analysis.bootstrap,
        seed=analysis.seed,
    )
    return unheld(rows) if context.spec.wordings > 1 else rows


def persona_text(context: Context, answers: Answers) -> list[Row]:
    """Who wrote an answer: of the coupled model's answers, and of method B's greedy ones."""
    from personaspace.analysis.persona_text import analyse_persona_text
    from personaspace.behaviour.form import without_marker

    spec = context.spec
    personas, questions = spec.extracted_personas(), context.study.extraction_questions
    greedy = read_answers(folders_of(context, "extract"), personas, questions)
    context.progress.start("persona from text", len(answers) + len(greedy))
    rows = []
    themes = {None: context.study.evaluation_themes, "b": context.study.extraction_themes}
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
            themes=themes[method],
            permutations=spec.analysis.permutations,
            seed=spec.analysis.seed,
            processes=spec.hardware.cores,
            advance=context.progress.advance,
        )
    return unheld(rows) if spec.wordings > 1 else rows


def log_odds(context: Context) -> list[Row]:
    """The marker's log-odds, where stage logodds measured them."""
    from personaspace.analysis.log_odds import analyse_log_odds

    found = {
        (node.condition, node.seed): read(folder / LOG_ODDS)
        for node, folder in folders_of(context, "logodds").items()
    }
    analysis, rows = context.spec.analysis, []
    for kind, by_run in (("common", _common(found)), ("own", _own(found))):
        rows += analyse_log_odds(
            by_run,
            infos(context.spec),
            kind=kind,
            source=context.spec.coupling.source,
            themes=context.study.evaluation_themes,
            permutations=analysis.permutations,
            bootstrap=analysis.bootstrap,
            seed=analysis.seed,
        )
    return rows


def divergence(context: Context) -> list[Row]:
    """How far apart personas' answers are, where stage logodds measured it."""
    from personaspace.analysis.divergence import Divergences, analyse_divergence

    found = {
        (node.condition, node.seed): read(folder / LOG_ODDS)
        for node, folder in folders_of(context, "logodds").items()
    }
    same = _same_everywhere(found)
    parts = {key: run["divergence"] for key, run in found.items() if "divergence" in run}
    return analyse_divergence(
        {
            key: Divergences(
                tuple(part["personas"]), {q: mine for q, mine in part["pairs"].items() if q in same}
            )
            for key, part in parts.items()
        },
        infos(context.spec),
        themes=context.study.evaluation_themes,
    )


def steering(context: Context) -> list[SteeringRow]:
    """Changes of steered models, where stage steer measured them."""
    from personaspace.analysis.steering import analyse_steering

    return analyse_steering(
        {
            (node.condition, node.seed): read(folder / STEERING)
            for node, folder in folders_of(context, "steer").items()
        }
    )


def _common(found: Mapping[Key, Any]) -> dict[Key, LogProbabilities]:
    """Of the answers that are the same text in every condition and seed."""
    same = _same_everywhere(found)
    return {
        key: {
            persona: {q: [pair[0] if pair else None] for q, pair in asked.items() if q in same}
            for persona, asked in run["common"].items()
        }
        for key, run in found.items()
    }


def _same_everywhere(found: Mapping[Key, Any]) -> set[str]:
    """Questions whose common answer is one text."""
    texts = [run["common_answers"] for run in found.values()]
    return {q for q in texts[0] if len({text.get(q) for text in texts}) == 1} if texts else set()


def _own(found: Mapping[Key, Any]) -> dict[Key, LogProbabilities]:
    return {
        key: {
            persona: {
                q: [pair[0] if pair else None for pair in pairs] for q, pairs in asked.items()
            }
            for persona, asked in run["own"].items()
        }
        for key, run in found.items()
    }
