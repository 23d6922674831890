"""What a stage is given: the study, its node, its inputs' folders, and a folder to write into."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.generation.base import Answer, Prompt, Sampling
from personaspace.pipeline import wordings
from personaspace.pipeline.lent import Models
from personaspace.pipeline.node import Node
from personaspace.pipeline.rows import Offers
from personaspace.store import Manifest, Store
from personaspace.study.inputs import Condition
from personaspace.study.judging import Judge
from personaspace.study.loaded import Study
from personaspace.study.measuring import Coupling, Evaluation
from personaspace.study.spec import Experiment
from personaspace.tracking import Tracking

if TYPE_CHECKING:
    from personaspace.pipeline.progress import StageProgress

ANSWERS = "answers.json"
TRAINING_LOG = "training.json"
#: Stages that train, and so leave an adapter and a log of their steps.
TRAINS = ("train", "couple")
ADAPTER = "adapter"
#: Stands for no persona, where answers are kept by persona; no persona can have this name.
NO_PERSONA = "(none)"


@dataclass(frozen=True)
class Context:
    """Everything that a stage may touch.

    Attributes:
        study: The study.
        node: What to run.
        inputs: Folder of every input's files.
        manifests: Manifest of every input.
        out: Empty folder for the artifact's files.
        runtime: Models.
        progress: Where progress is told.
        store: For checkpoints only.
        key: The artifact's key, below which checkpoints lie.
        metrics: Numbers for the manifest.
        taken: What computed, where the study leaves the choice, for the manifest:
            `implementation` (of training or hidden states), `engine` (of answers) and `prompts`
            (`Prompted.recorded`).
        track: The study's experiment trackers.
        offers: Rows that the artifact is to have, and those that former artifacts have.
        spent: Keys in the store that nobody needs once the artifact is there.
        whole: What the store has of every node of the study, for a stage that sends it elsewhere.
    """

    study: Study
    node: Node
    inputs: Mapping[Node, Path]
    manifests: Mapping[Node, Manifest]
    out: Path
    runtime: Models
    progress: StageProgress
    store: Store
    key: str
    metrics: dict[str, Any] = field(default_factory=dict)
    taken: dict[str, Any] = field(default_factory=dict)
    offers: Offers = field(default_factory=Offers)
    spent: list[str] = field(default_factory=list)
    whole: Callable[[], Mapping[Node, Manifest | None]] = dict
    track: Tracking = field(default_factory=Tracking)

    @property
    def spec(self) -> Experiment:
        """The experiment."""
        return self.study.spec

    @property
    def condition(self) -> Condition:
        """The node's condition."""
        return self.spec.condition(self.node.condition)

    def of(self, kept: Callable[[Condition], bool]) -> Context:
        """With those inputs alone whose condition is kept."""
        wanted = {node for node in self.manifests if kept(self.spec.condition(node.condition))}
        return replace(
            self,
            inputs={node: path for node, path in self.inputs.items() if node in wanted},
            manifests={node: found for node, found in self.manifests.items() if node in wanted},
        )

    def input(self, stage: str) -> Path | None:
        """Folder of the input of that stage, if the node has one."""
        return next((path for node, path in self.inputs.items() if node.stage == stage), None)

    def adapter(self, stage: str) -> Path | None:
        """Adapter folder of the input of that stage."""
        folder = self.input(stage)
        return None if folder is None else folder / ADAPTER

    def adapters(self) -> list[Path]:
        """Adapter folders of all inputs that have one."""
        found = [self.adapter(stage) for stage in TRAINS]
        return [folder for folder in found if folder is not None]

    @contextmanager
    def one_adapter(self) -> Iterator[Path | None]:
        """The inputs' adapters as one, as engines take it; None if there are none.

        Composed from the parts, whichever came first: `composed/` of couple is this one only where
        coupling came after fine-tuning, and artifacts from before it lack it.
        """
        from personaspace.models import lora

        if self.input("couple") is None:
            yield self.adapter("train")
            return
        with tempfile.TemporaryDirectory(prefix="personaspace-adapter-") as scratch:
            lora.compose(self.adapters(), Path(scratch))
            yield Path(scratch)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with sorted keys off, so that the order of writing is kept."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def persona_prompts(
    context: Context, rows: Sequence[tuple[str, str | None]], questions: Sequence[str]
) -> list[Prompt]:
    """Prompts of every persona (name, system prompt) and question, personas outermost.

    A persona with several rows has several wordings, which are part of the prompts' keys then.
    """
    from personaspace.models import chat

    tokenizer, how = context.runtime.tokenizer, context.runtime.prompted.how
    context.taken["prompts"] = context.runtime.prompted.recorded()
    prompts = []
    times = Counter(name for name, _ in rows)
    for name, system in rows:
        wording = f"\x1e{system}" if times[name] > 1 else ""
        for question in questions:
            messages = chat.with_persona([{"role": "user", "content": question}], system, how)
            ids = chat.prompt_ids(tokenizer, messages, how)
            prompts.append(Prompt(f"{name}\x1e{question}{wording}", ids))
    return prompts


def persona_rows(spec: Experiment, names: Iterable[str]) -> list[tuple[str, str | None]]:
    """Name and prompt of every wording of these personas, as `persona_prompts` takes them."""
    return [(name, wording) for name in names for wording in spec.persona(name).wordings]


def by_persona(
    names: Sequence[str], questions: Sequence[str], answers: Sequence[list[Answer]]
) -> dict[str, dict[str, list[Answer]]]:
    """Answers in the order of `persona_prompts`, as `{persona: {question: answers}}`.

    Those of a persona's wordings stand one after the other, wording by wording.

    Args:
        names: Of the rows' personas.
    """
    rows, seen = iter(answers), Counter[str]()
    found: dict[str, dict[str, list[Answer]]] = {}
    for name in names:
        mine = found.setdefault(name, {question: [] for question in questions})
        for question in questions:
            mine[question] += [replace(each, wording=seen[name]) for each in next(rows)]
        seen[name] += 1
    return found


def sampled_answers(
    context: Context,
    settings: Coupling | Evaluation | Judge,
    names: Sequence[str],
    questions: Sequence[str],
    *,
    adapter: Path | None,
    what: str,
    without_persona: bool = False,
    skip: Callable[[str, str], bool] = lambda persona, question: False,
) -> dict[str, dict[str, list[Answer]]]:
    """Draws answers of every persona to every question, with progress.

    Args:
        settings: The spec's section with samples, temperature, top_p and length.
        adapter: What is applied to the base model.
        what: Names the phase.
        skip: Of a persona and a question: whether its answers are there, and not drawn.
        without_persona: Also ask without a system message, first, under the name `NO_PERSONA`.

    Returns:
        `{persona: {question: answers}}`; those of a persona with several wordings are shared out
        to these (`wordings.shares`).
    """
    grid: list[tuple[str, str | None]] = [(NO_PERSONA, None)] if without_persona else []
    grid += persona_rows(context.spec, names)
    prompts = persona_prompts(context, grid, questions)
    seed = context.node.seed
    shares = wordings.shares_of(grid, questions, settings.samples, seed)
    counts = [
        0 if skip(name, question) else number
        for (name, _), row in zip(grid, shares, strict=True)
        for question, number in zip(questions, row, strict=True)
    ]
    sampling = Sampling(
        settings.max_new_tokens,
        samples=settings.samples,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=context.node.seed,
        scope=f"{context.node.stage}:{context.node.condition}",
    )
    answers: list[list[Answer]] = [[] for _ in prompts]
    if any(counts):
        engine = context.runtime.engine()
        context.taken["engine"] = engine.name
        context.progress.start(what, sum(counts))
    for count in sorted(set(counts) - {0}):
        places = [place for place, mine in enumerate(counts) if mine == count]
        drawn = engine.generate(
            [prompts[place] for place in places],
            replace(sampling, samples=count),
            adapter=adapter,
            advance=context.progress.advance,
        )
        for place, each in zip(places, drawn, strict=True):
            answers[place] = each
    return by_persona([name for name, _ in grid], questions, answers)


def texts(answers: Mapping[str, Mapping[str, Sequence[Answer]]]) -> dict[str, dict[str, list[str]]]:
    """The answers' texts alone: the form that `personaspace score` reads."""
    return {
        name: {question: [answer.text for answer in drawn] for question, drawn in each.items()}
        for name, each in answers.items()
    }


def finishes(
    answers: Mapping[str, Mapping[str, Sequence[Answer]]],
) -> dict[str, dict[str, list[str]]]:
    """How each answer ended, in the same form as `texts`."""
    return {
        name: {question: [answer.finish for answer in drawn] for question, drawn in each.items()}
        for name, each in answers.items()
    }
