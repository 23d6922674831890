"""Loading a study: questions are read, data sets pinned, and what is wrong is told at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from personaspace.console import counted, verb
from personaspace.errors import SpecErrors, UnavailableError, UserError
from personaspace.study import adapters, datasets, gold, registration, sources, wordings
from personaspace.study.adapters import Published
from personaspace.study.datasets import Chats
from personaspace.study.doses import check_steps
from personaspace.study.gold import Gold
from personaspace.study.loaded import Part, Study
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment
from personaspace.study.steering import SteeringInputs, pairs_of
from personaspace.study.validate import (
    examine,
    fields_alone,
    only_follows,
    read_raw,
)


def resolve(spec: Experiment, folder: Path, known: Sequence[Problem] = ()) -> Study:
    """Read everything the spec points to.

    Args:
        spec: What to read for.
        folder: Where relative paths start.
        known: Problems of the spec itself, told together with those found here.

    Raises:
        SpecErrors: All that is missing or malformed, each with the field that names it.
        UnavailableError: A bucket or hub does not answer, so that nothing can be said of it.
    """
    problems: list[Problem] = []

    def note(field: str, error: UserError) -> None:
        if isinstance(error, UnavailableError) and not known:
            raise type(error)(f"{field}: {error}") from None
        problems.append(Problem(field, Code.INPUT, str(error)))

    themes: dict[str, dict[str, str]] = defaultdict(dict)
    spec, of_wordings = wordings.resolved(spec, folder, note)
    problems += of_wordings

    def questions(field: str, source: list[str] | str, limit: int | None) -> list[str]:
        try:
            found = sources.read_asked(source, folder, limit)
        except UserError as error:
            note(field, error)
            return []
        themes[field.partition(".")[0]].update(found.themes)
        return found.texts

    extraction = questions("extraction.questions", spec.extraction.questions, spec.extraction.limit)
    coupling = questions("coupling.questions", spec.coupling.questions, spec.coupling.limit)
    evaluation = questions("evaluation.questions", spec.evaluation.questions, spec.evaluation.limit)
    if spec.evaluation.unseen_questions is not None:
        unseen, field = spec.evaluation.unseen_questions, "evaluation.unseen_questions"
        more = questions(field, unseen, spec.evaluation.limit)
        problems += _repeated(more, {*coupling, *evaluation})
        evaluation = evaluation + more
    counted = ("positives", "negatives_each", "questions", "limit")
    if not {problem.path for problem in known} & {f"coupling.{field}" for field in counted}:
        problems += _too_few_answers(spec, coupling)
    steered = _steering(spec, folder, questions, note)
    judged, gold_set = _judging(spec, folder, questions, note)
    chats, published = _chats(spec, folder, note), _published(spec, folder, note)
    problems += check_steps(spec, chats)
    new = [problem for problem in problems if not only_follows(problem, known)]
    if known or new:
        raise SpecErrors([*known, *new])
    study = Study(
        spec,
        folder,
        *(extraction, coupling, evaluation),
        chats,
        tuple(judged),
        gold_set,
        adapters=published,
        extraction_themes=themes["extraction"],
        evaluation_themes=themes["evaluation"],
        judge_themes=themes["judge"],
        steering=steered,
    )
    if spec.analysis.registration is None:
        return study
    try:
        return replace(study, registration=registration.read(spec.analysis.registration, study))
    except UserError as error:
        note("analysis.registration", error)
        raise SpecErrors(problems) from None


def _repeated(unseen: Sequence[str], seen: set[str]) -> list[Problem]:
    """That a question which is to be unseen is asked elsewhere."""
    field, repeated = "evaluation.unseen_questions", sorted(seen.intersection(unseen))
    what = "is also a coupling or evaluation question"
    return [Problem(field, Code.SEEN_QUESTION, f"{text!r} {what}") for text in repeated[:1]]


def _chats(
    spec: Experiment, folder: Path, note: Callable[[str, UserError], None]
) -> dict[str, Chats]:
    """The data sets that conditions train on."""
    found = {}
    used = {c.dataset for c in spec.conditions if c.dataset is not None}
    for name in sorted(used & set(spec.datasets)):
        try:
            found[name] = datasets.load(spec.datasets[name], folder)
        except UserError as error:
            note(f"datasets.{name}", error)
    return found


def _published(
    spec: Experiment, folder: Path, note: Callable[[str, UserError], None]
) -> dict[str, Published]:
    """The adapters that conditions are."""
    found = {}
    for index, condition in enumerate(spec.conditions):
        if condition.adapter is not None:
            try:
                found[condition.name] = adapters.read(condition.adapter, folder)
                adapters.check_base(found[condition.name], spec.model.name)
            except UserError as error:
                note(f"conditions[{index}].adapter", error)
    return found


def _judging(
    spec: Experiment,
    folder: Path,
    questions: Callable[[str, list[str] | str, int | None], list[str]],
    note: Callable[[str, UserError], None],
) -> tuple[list[str], Gold | None]:
    """Questions and gold set of the judge."""
    judge = spec.judge
    if judge is None:
        return [], None
    asked = questions("judge.questions", judge.questions, judge.limit)
    found = None
    try:
        found = gold.read(
            judge.gold, folder, below=judge.misaligned_below, above=judge.coherent_above
        )
    except UserError as error:
        note("judge.gold", error)
    return asked, found


def _steering(
    spec: Experiment,
    folder: Path,
    questions: Callable[[str, list[str] | str, int | None], list[str]],
    note: Callable[[str, UserError], None],
) -> SteeringInputs | None:
    """Questions and pairs of answers of steering."""
    steering = spec.steering
    if steering is None:
        return None
    asked = questions("steering.questions", steering.questions, steering.limit)
    found: list[Chats] = []
    field = "steering.good"
    try:
        for name, dataset in (("bad", steering.bad), ("good", steering.good)):
            field = f"steering.{name}"
            found.append(datasets.load(dataset, folder))
        pairs = pairs_of(steering, *(chats.conversations for chats in found))
    except UserError as error:
        note(field, error)
        return None
    return SteeringInputs(tuple(asked), pairs)


def _too_few_answers(spec: Experiment, questions: Sequence[str]) -> list[Problem]:
    """That coupling draws fewer answers than it trains on."""
    wanted = spec.coupling
    drawn = wanted.samples * len(questions)
    if not questions or drawn >= max(wanted.positives, wanted.negatives_each):
        return []
    return [
        Problem(
            "coupling.samples",
            Code.TOO_FEW_ANSWERS,
            f"{counted(wanted.samples, 'answer')} to each of "
            f"{counted(len(questions), 'question')} {verb(drawn, 'is', 'are')} fewer than the "
            f"{counted(wanted.positives, 'positive')} and "
            f"{counted(wanted.negatives_each, 'negative')} that are wanted",
        )
    ]


def load_study(path: Path | str, seed: int | None = None) -> Study:
    """Read a spec file and everything it points to.

    Args:
        path: The file; the chart gives each Job one with its part of the study alone (`part`).
        seed: Of the Job, which such a part leaves open.

    Raises:
        SpecErrors: Every mistake in the file and in what it points to.
        UserError: The file is missing or not YAML.
    """
    path = Path(path)
    raw = read_raw(path)
    if isinstance(raw, dict) and "part" in raw and seed is not None:
        of = raw["part"]
        spec = fields_alone({**{k: v for k, v in raw.items() if k != "part"}, "seeds": [seed]})
        found = resolve(spec, path.absolute().parent)
        return replace(found, part=Part(of["condition"], tuple(of["stages"])))
    spec_or_none, problems = examine(raw)
    if spec_or_none is None:
        raise SpecErrors(problems)
    return resolve(spec_or_none, path.absolute().parent, problems)
