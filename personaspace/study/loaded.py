"""A study as everybody but its loading knows it: the spec and what it points to, read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from personaspace.errors import UserError
from personaspace.study import base_model
from personaspace.study.adapters import Published
from personaspace.study.cross_checks import TEMPLATE_DEFAULT
from personaspace.study.datasets import Chats
from personaspace.study.gold import Gold
from personaspace.study.spec import Experiment
from personaspace.study.steering import SteeringInputs


@dataclass(frozen=True)
class Registration:
    """A page that registers the study.

    Attributes:
        source: Where it lies, for people.
        sha256: Of the page.
        digest: Of what it registers.
    """

    source: str
    sha256: str
    digest: str


@dataclass(frozen=True)
class Part:
    """What of a study is known where only a Job's part of it is: its stages and their inputs.

    Attributes:
        condition: Of one condition.
        stages: These of its stages.
    """

    condition: str
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A checked spec and its inputs.

    Attributes:
        spec: The experiment.
        folder: Where the spec's relative paths start.
        extraction_questions: Questions whose hidden states are extracted.
        coupling_questions: Questions answered for the coupling data.
        evaluation_questions: Questions of the evaluation, the unseen ones last.
        chats: The data sets that a condition trains on, by name.
        judge_questions: Open questions whose answers are judged; none without a judge.
        gold: Answers with agreed labels, by which the judge is judged; None without a judge.
        part: What of the study is here; none: all of it.
        registration: The page that registered the study before it ran; None: none is named.
        adapters: Published adapters, by the condition that is one.
        extraction_themes: The theme of each extraction question that has one.
        evaluation_themes: The same of the evaluation's.
        judge_themes: The same of the judge's.
        steering: What steering points to; None: there is none.
    """

    spec: Experiment
    folder: Path
    extraction_questions: list[str]
    coupling_questions: list[str]
    evaluation_questions: list[str]
    chats: dict[str, Chats]
    judge_questions: tuple[str, ...] = ()
    gold: Gold | None = None
    part: Part | None = None
    registration: Registration | None = None
    adapters: dict[str, Published] = field(default_factory=dict)
    extraction_themes: dict[str, str] = field(default_factory=dict)
    evaluation_themes: dict[str, str] = field(default_factory=dict)
    judge_themes: dict[str, str] = field(default_factory=dict)
    steering: SteeringInputs | None = None

    @cached_property
    def model_identity(self) -> str:
        """See `base_model.identity`."""
        return base_model.identity(self.spec.model)

    @cached_property
    def judge_identity(self) -> list[str]:
        """What decides whether two verdicts are of the same judge; empty without a judge."""
        judge = self.spec.judge
        if judge is None:
            return []
        model = judge.local_model()
        if model is None:
            return ["endpoint", judge.url or "", judge.model, judge.revision or ""]
        return ["local", base_model.identity(model), judge.dtype]

    @property
    def unseen(self) -> set[str]:
        """Evaluation questions that coupling did not train on."""
        return set(self.evaluation_questions) - set(self.coupling_questions)

    def layers(self, num_layers: int | None = None) -> list[int]:
        """The layers to extract, ascending.

        Raises:
            UserError: A layer outside the model.
        """
        if self.spec.extraction.layers == "all":
            if num_layers is None:
                shape = base_model.shape(self.spec.model)
                if shape is None:
                    raise UserError("extraction.layers: the model's number of layers is unknown")
                num_layers = shape.num_layers
            return list(range(num_layers))
        layers = sorted(self.spec.extraction.layers)
        if num_layers is not None and layers[-1] >= num_layers:
            raise UserError(
                f"extraction.layers: {layers[-1]} is outside the model, which has layers 0 to "
                f"{num_layers - 1}"
            )
        return layers

    def induction_rows(self) -> list[tuple[str, str | None]]:
        """Name and prompts of what was trained under but is not in the extraction grid.

        The base model's activations there give the measured cosine-to-assistant. A condition
        without persona trained under the chat template's default, which is no grid persona.
        """
        grid = set(self.spec.extracted_personas())
        rows: dict[str, tuple[str | None, ...]] = {}
        for condition in self.spec.conditions:
            if condition.kind != "em":
                continue
            if condition.persona is None:
                rows[TEMPLATE_DEFAULT] = (None,)
            elif condition.persona not in grid:
                rows[condition.persona] = self.spec.persona(condition.persona).wordings
        return [(name, wording) for name, each in rows.items() for wording in each]
