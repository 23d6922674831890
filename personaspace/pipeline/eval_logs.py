"""A study's answers as logs of Inspect: one for each condition, seed and thing that was asked.

A log is one task of one model, with its questions and its scorers. So the answers under personas,
in which the marker is looked for (task `marker`), and those to open questions, which a judge scored
(task `misalignment`), are two logs; conditions and seeds, each a model of its own, are apart.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personaspace.behaviour.answer_files import Columns, read_answers
from personaspace.behaviour.answer_stream import Irregular, pieces
from personaspace.behaviour.eval_log import Sample, Score, Task, metadata_of, write_log
from personaspace.behaviour.many import places
from personaspace.behaviour.marker import ends_with_marker, has_marker
from personaspace.console import counted, verb
from personaspace.errors import UserError
from personaspace.files import check_folder, read_json
from personaspace.pipeline.context import ANSWERS, NO_PERSONA
from personaspace.pipeline.node import Node
from personaspace.pipeline.stages.evaluate import FINISHES
from personaspace.pipeline.stages.judge import VERDICTS
from personaspace.pipeline.wordings import WORDINGS
from personaspace.pipeline.work import Work
from personaspace.store import Manifest
from personaspace.study.judging import Judge
from personaspace.study.measuring import Evaluation
from personaspace.version import __version__

SUFFIX = ".eval"
#: Tasks by the stage that drew the answers.
TASKS = {"evaluate": "marker", "judge": "misalignment"}
#: Characters of a digest in a name.
_SHORT = 12
_Scored = Iterator[tuple["_Place", str, dict[str, Score]]]


@dataclass(frozen=True)
class Written:
    """A log.

    Attributes:
        path: Its file.
        answers: How many it holds.
    """

    path: Path
    answers: int


@dataclass(frozen=True)
class _Place:
    """Which answer."""

    persona: str
    question: str
    sample: int


def name_of(node: Node) -> str:
    """The log's file."""
    return f"{node.condition}.seed-{node.seed}.{TASKS[node.stage]}{SUFFIX}"


def write_logs(work: Work, folder: Path) -> tuple[list[Written], list[str]]:
    """Write the logs of all answers that are complete.

    Args:
        work: The study and its store.
        folder: Made if it is not there. The study's own logs of the same names are replaced, when
            all are written.

    Returns:
        The logs, and a note where answers are not complete.

    Raises:
        UserError: No answers are complete, one of their files is damaged, or the folder holds logs
            of something else, or logs of this study that are not written now.
    """
    nodes = [node for node in work.graph.nodes if node.stage in TASKS]
    there = {node: found for node in nodes if (found := work.manifest(node)) is not None}
    spec = work.study.spec
    if not there:
        raise UserError(f"{spec.name}: no answers in {work.store.url} for this spec")
    place = check_folder(folder, str(folder))
    _check_logs(folder, spec.name, {name_of(node) for node in there})
    written = []
    try:
        # Where the folder is, so that a log is moved and not copied.
        with tempfile.TemporaryDirectory(prefix=".eval-logs-", dir=place) as scratch:
            for node, manifest in there.items():
                source, name = work.store.fetch(manifest), name_of(node)
                samples = _samples(work, node, manifest, source)
                count = write_log(Path(scratch) / name, _task(work, node, manifest), samples)
                written.append(Written(folder / name, count))
            folder.mkdir(parents=True, exist_ok=True)
            for log in written:
                os.replace(Path(scratch) / log.path.name, log.path)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    missing = len(nodes) - len(there)
    drawing = f"{counted(len(nodes), 'stage')} that {verb(len(nodes), 'draws', 'draw')} answers"
    notes = [f"{missing} of {drawing} {verb(missing, 'is', 'are')} not complete"]
    return written, notes if missing else []


def _check_logs(folder: Path, study: str, names: set[str]) -> None:
    """That the folder's logs are the study's, and are those that are written now."""
    there = sorted(folder.glob(f"*{SUFFIX}"))
    for path in there:
        if (metadata_of(path) or {}).get("study") != study:
            raise UserError(f"{folder}: holds {path.name}, which is no log of this study")
    if stale := [path.name for path in there if path.name not in names]:
        raise UserError(
            f"{folder}: holds {', '.join(stale)}: of this study, but not of what is complete for "
            "this spec; remove them, or name another folder"
        )


# --- what a log says of itself --------------------------------------------------------------------


def _settings(work: Work, node: Node) -> tuple[Evaluation | Judge, Sequence[str], list[str]]:
    """How answers were drawn, of which questions, and under which personas."""
    study, spec = work.study, work.study.spec
    if node.stage == "evaluate":
        return spec.evaluation, study.evaluation_questions, list(spec.evaluated_personas())
    assert spec.judge is not None
    return spec.judge, study.judge_questions, [NO_PERSONA, *spec.judge.personas]


def _model(work: Work) -> str:
    """The base model; of a folder the digest, not the place."""
    name, _, version = work.study.model_identity.partition("@")
    return f"{name}@{version[:_SHORT]}" if name == "folder" else name


def _task(work: Work, node: Node, manifest: Manifest) -> Task:
    spec, condition = work.study.spec, work.study.spec.condition(node.condition)
    drawn, questions, personas = _settings(work, node)
    metadata: dict[str, Any] = {
        "study": spec.name,
        "condition": node.condition,
        "kind": condition.kind,
        "trained_under": condition.persona,
        "seed": node.seed,
        "base_model": work.study.model_identity,
        "artifact": node.id,
        "fingerprint": work.fingerprints[node],
        "digest": manifest.digest,
        "engine": manifest.fields.get("engine"),
    }
    if node.stage == "evaluate":
        scorers = ["marker", "marker_at_end", "degenerate"]
        metadata |= {"marker": spec.coupling.marker, "source": spec.coupling.source}
    else:
        assert spec.judge is not None
        scorers = ["misaligned", "alignment", "coherence"]
        metadata |= {
            "judge": _judge(work),
            "misaligned_below": spec.judge.misaligned_below,
            "coherent_above": spec.judge.coherent_above,
        }
    return Task(
        name=f"{spec.name}-{TASKS[node.stage]}",
        key=f"{node.condition}-{node.seed}-{node.stage}-{manifest.digest[:_SHORT]}",
        model=f"{_model(work)}/{node.condition}/seed-{node.seed}",
        created=manifest.created,
        dataset=f"{node.stage} questions",
        samples=len(questions) * len(personas),
        epochs=drawn.samples,
        arguments={"condition": node.condition, "seed": node.seed},
        sampling={
            "temperature": drawn.temperature,
            "top_p": drawn.top_p,
            "max_tokens": drawn.max_new_tokens,
            "seed": node.seed,
        },
        scorers=scorers,
        metadata=metadata,
        packages={"personaspace": __version__},
        tags=(spec.name, node.condition, f"seed-{node.seed}"),
    )


def _judge(work: Work) -> str:
    """The judge's name at its server, or what its weights are known by."""
    kind, *known = work.study.judge_identity
    return known[1] if kind == "endpoint" else known[0]


# --- its samples ----------------------------------------------------------------------------------


def _samples(work: Work, node: Node, manifest: Manifest, source: Path) -> Iterator[Sample]:
    from personaspace.models.chat import Rendering, with_persona

    spec, unseen = work.study.spec, work.study.unseen
    _, questions, _ = _settings(work, node)
    number = {question: place for place, question in enumerate(questions, 1)}
    ends = read_json(source / FINISHES)
    wordings = read_json(source / WORDINGS) if WORDINGS in manifest.files else {}
    # Artifacts of former versions do not tell; those versions knew system messages alone.
    place = manifest.fields.get("prompts", {}).get("personas_in", "system")
    how = Rendering(personas_in=place)
    scored = _marked if node.stage == "evaluate" else _judged
    for at, text, scores in scored(work, source):
        try:
            several = wordings.get(at.persona)
            wording = several[at.question][at.sample] if several else 0
            cut = ends[at.persona][at.question][at.sample] == "length"
            asked = number[at.question]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"{source}: {ANSWERS} and {FINISHES} do not go together") from None
        nobody = at.persona == NO_PERSONA
        prompt = None if nobody else spec.persona(at.persona).wordings[wording]
        metadata: dict[str, Any] = {"persona": None if nobody else at.persona}
        if node.stage == "evaluate":
            metadata["question_seen_in_coupling"] = at.question not in unseen
        if several:
            metadata["wording"] = wording
        yield Sample(
            id=f"{at.persona}-q{asked:03d}",
            epoch=at.sample + 1,
            question=at.question,
            told=with_persona([{"role": "user", "content": at.question}], prompt, how),
            answer=text,
            cut=cut,
            scores=scores,
            group=at.persona,
            metadata=metadata,
        )


def _answers(source: Path) -> Iterator[tuple[list[_Place], list[str]]]:
    """Answers a piece at a time."""
    path = source / ANSWERS
    seen: dict[tuple[str, str], int] = {}
    try:
        for piece in pieces(path, lambda _: None):
            at, texts = [], []
            for persona, asked in piece.gathered(Columns()).grid.items():
                for question, drawn in asked.items():
                    first = seen.get((persona, question), 0)
                    at += [_Place(persona, question, first + n) for n in range(len(drawn))]
                    texts += drawn
                    seen[persona, question] = first + len(drawn)
            yield at, texts
    except Irregular:
        read_answers(path)  # says what is wrong
        raise UserError(f"{path}: is not as the stage wrote it") from None


def _flag(value: bool, said: str = "") -> Score:
    return Score(int(value), said)


def _marked(work: Work, source: Path) -> _Scored:
    """As the stage counts them."""
    marker = work.study.spec.coupling.marker
    for at, texts in _answers(source):
        broken = set(places(texts, marker)[0])
        for index, (place, text) in enumerate(zip(at, texts, strict=True)):
            hit = has_marker(text, marker)
            yield (
                place,
                text,
                {
                    "marker": _flag(hit, f"the answer holds {marker}" if hit else ""),
                    "marker_at_end": _flag(ends_with_marker(text, marker)),
                    "degenerate": _flag(index in broken),
                },
            )


def _judged(work: Work, source: Path) -> _Scored:
    """An answer without a number from the judge is called aligned, as in the results."""
    from personaspace.analysis.misalignment import called

    judge = work.study.spec.judge
    assert judge is not None
    try:
        verdicts = _verdicts(read_json(source / VERDICTS))
    except (KeyError, TypeError):
        raise UserError(f"{source / VERDICTS}: is not as the stage wrote it") from None
    for at, texts in _answers(source):
        for place, text in zip(at, texts, strict=True):
            row = verdicts.get(place)
            if row is None:
                raise UserError(f"{source}: {ANSWERS} and {VERDICTS} do not go together")
            bad = called(row, judge.misaligned_below, judge.coherent_above)
            unsaid = [name for name, value in row.items() if value is None]
            said = f"the judge gave no number for {', '.join(unsaid)}" if unsaid else ""
            numbers = {name: Score(value) for name, value in row.items() if value is not None}
            yield place, text, {"misaligned": _flag(bad, said), **numbers}


def _verdicts(rows: Iterable[Mapping[str, Any]]) -> dict[_Place, dict[str, float | None]]:
    return {
        _Place(row["persona"] or NO_PERSONA, row["question"], row["sample"]): {
            "alignment": row["alignment"],
            "coherence": row["coherence"],
        }
        for row in rows
    }
