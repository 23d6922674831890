"""The experiment, as pydantic models: the one definition that CLI, jobs and chart follow.

Defaults are the published recipe (Qwen2.5-7B-Instruct, seven conditions, seed 42). Everything a
study varies is data here: personas, questions, datasets, markers, seeds, layers, hyper-parameters.
Cross-field checks live in `study.validate`, fingerprints in `pipeline.graph`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from pydantic import Field

from personaspace.kept import once
from personaspace.study import builtin, defaults
from personaspace.study.concluding import Analysis, Figures, Rerun
from personaspace.study.fields import Ink, Label, Seed, Tracker
from personaspace.study.hardware import Hardware
from personaspace.study.inputs import Condition, Dataset, Dose, Model, Persona
from personaspace.study.judging import Judge
from personaspace.study.measuring import Coupling, Evaluation, Extraction, Generation, LogOdds
from personaspace.study.publishing import Publish
from personaspace.study.recipe import Recipe, Training
from personaspace.study.section import Section
from personaspace.study.steering import Steering


class Experiment(Section):
    """A whole study."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"judge", "log_odds", "steering", "hardware", "publish"}
    )

    name: Annotated[Label, Field(max_length=40)] = "em205"
    model: Model = Model()
    seeds: list[Seed] = Field([42], min_length=1)
    datasets: dict[str, Dataset] = Field(
        default_factory=lambda: {name: Dataset(**of) for name, of in defaults.DATASETS.items()}
    )
    personas: list[Persona] = Field(
        default_factory=lambda: [Persona(**entry) for entry in builtin.personas()], min_length=1
    )
    conditions: list[Condition] = Field(
        default_factory=lambda: [Condition(**entry) for entry in defaults.CONDITIONS], min_length=1
    )
    training: Training = Training()
    extraction: Extraction = Extraction()
    coupling: Coupling = Coupling()
    evaluation: Evaluation = Evaluation()
    judge: Judge | None = Field(
        None, description="Is a fine-tuned condition misaligned at all? None: not asked."
    )
    log_odds: LogOdds | None = Field(
        None,
        description="Also measure how likely the marker is at the end of answers; None: not "
        "measured, {}: measured.",
    )
    steering: Steering | None = Field(
        None,
        description="Also steer models along the axis and persona vectors, to see what these "
        "cause; None: not done, {}: done.",
    )
    generation: Generation = Generation()
    hardware: Hardware = Hardware()
    analysis: Analysis = Analysis()
    figures: Figures = Figures()
    rerun: list[Rerun] = Field(
        [], description="Compute these again: a nonce in their fingerprints.", max_length=1000
    )
    substitutes: list[Ink] = Field(
        [],
        description="Stores that you trust: what they have of this study is taken from there "
        "instead of computed. Folders, s3://… or hf://owner/name; in no fingerprint.",
        max_length=20,
    )
    tracking: list[Tracker] = Field(
        [],
        description="Experiment trackers that each stage is told to: tensorboard, mlflow, wandb, "
        "trackio. None can stop a stage; in no fingerprint.",
    )
    publish: Publish | None = Field(
        None,
        description="Also publish the study on the Hugging Face Hub at its end; None: not done. In "
        "no fingerprint of a result.",
    )

    def nonces(self, stage: str, condition: str, seed: int) -> list[str]:
        """Nonces of the reruns that mean this node; seed -1 and condition "" are the study's."""
        return [
            rerun.nonce
            for rerun in self.rerun
            if rerun.stage == stage
            and (not condition or rerun.condition in (None, condition))
            and (seed < 0 or rerun.seed in (None, seed))
        ]

    def persona(self, name: str) -> Persona:
        """The persona of that name. Raises KeyError."""
        return {persona.name: persona for persona in self.personas}[name]

    @property
    def wordings(self) -> int:
        """How many wordings a persona has at the most."""
        return max(len(persona.wordings) for persona in self.personas)

    def several(self, names: Iterable[str]) -> list[str]:
        """Those of these personas that have several wordings."""
        known = {persona.name for persona in self.personas if len(persona.wordings) > 1}
        return [name for name in names if name in known]

    def condition(self, name: str) -> Condition:
        """The condition, or dose of one, of that name. Raises KeyError."""
        known = once(
            "conditions",
            (self.conditions, self.training),
            lambda: {each.name: each for each in [*self.doses(), *self.conditions]},
        )
        return known[name]

    def doses(self) -> list[Dose]:
        """The doses of all conditions that are trained here, condition by condition.

        The last step of a run is the condition itself, and is none.
        """
        return [
            Dose.at(condition, step)
            for condition in self.conditions
            if condition.dataset is not None
            for step in self.training.doses
            if step < (self.recipe_of(condition).max_steps or step + 1)
        ]

    def dose_stages(self) -> set[str]:
        """Names of the stages that a dose has."""
        wanted = self.training.doses_in
        return {"train", *wanted, *(["couple"] if "evaluate" in wanted else [])}

    def recipe_of(self, condition: Condition) -> Recipe:
        """How a condition is fine-tuned."""
        return self.training.changed(condition.training)

    def seeds_of(self, condition: Condition) -> list[int]:
        """The seeds of a condition's runs, in the study's order.

        A published adapter is one training run, however many seeds the others have.
        """
        if condition.adapter is not None and condition.seeds is None:
            return self.seeds[:1]
        return [seed for seed in self.seeds if condition.seeds is None or seed in condition.seeds]

    def base_condition(self) -> Condition:
        """The condition that the others are compared with. Raises StopIteration: there is none."""
        return next(each for each in self.conditions if each.kind == "base")

    def induction_persona(self, condition: Condition) -> str | None:
        """The evaluated persona that stands for the one trained under.

        Training without a system message is training as the assistant, so E0 is tested there.
        """
        if condition.kind != "em":
            return None
        return condition.persona or self.analysis.assistant

    def grid(self) -> list[str]:
        """Names of the evaluation personas, without the induction personas added to them."""
        if self.evaluation.personas is not None:
            return list(self.evaluation.personas)
        defined = [persona.name for persona in self.personas]
        published = builtin.published_grid()
        return published if set(published) <= set(defined) else defined

    def evaluated_personas(self) -> list[str]:
        """Names of the personas that `evaluate` asks, in order."""
        parts = (self.evaluation, self.conditions, self.personas, self.analysis)
        return list(once("evaluated personas", parts, self._evaluated_personas))

    def _evaluated_personas(self) -> list[str]:
        names = self.grid()
        if self.evaluation.include_induction:
            for condition in self.conditions:
                induction = self.induction_persona(condition)
                if induction is not None and induction not in names:
                    names.append(induction)
        return names

    def common_bystanders(self) -> list[str]:
        """Evaluated personas that are a bystander in every EM condition."""
        induced = {self.induction_persona(condition) for condition in self.conditions}
        out = {*induced, self.coupling.source}
        return [name for name in self.evaluated_personas() if name not in out]

    def extracted_personas(self) -> list[str]:
        """Names of the personas whose activations are extracted, in order."""
        return list(self.extraction.personas or self.grid())

    def axis_condition(self) -> str | None:
        """The condition that defines the EM axis of M2."""
        if self.analysis.axis is not None:
            return self.analysis.axis
        return next((c.name for c in self.conditions if c.kind == "em"), None)

    def steers(self, condition: Condition, seed: int) -> bool:
        """Whether this run's vectors are steered along."""
        wanted = self.steering
        if wanted is None or condition.name not in (wanted.conditions or [condition.name]):
            return False
        if condition.fine_tuned and seed not in (wanted.seeds or [seed]):
            return False
        return any(wanted.of_condition(condition.fine_tuned, mode) for mode in wanted.modes)

    def headline_layer(self, layers: list[int]) -> int:
        """The layer shown first, given those that were extracted."""
        wanted = self.analysis.layer if self.analysis.layer is not None else 20
        return wanted if wanted in layers else layers[-1]
