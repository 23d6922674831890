"""How stage steer makes its vectors and measures the model along them.

Shapes: Q questions, H hidden.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from personaspace.activations.endings import Ending
from personaspace.activations.extract import Passage, hidden_states
from personaspace.activations.files import ActivationFile, open_activations
from personaspace.activations.steering import (
    Edit,
    Floats,
    ablating,
    adding,
    edited,
    mean_difference,
    random_directions,
    varied_directions,
)
from personaspace.behaviour.coherence import coherence
from personaspace.behaviour.steered import advice, advice_endings, surprise
from personaspace.errors import UserError
from personaspace.generation.base import Prompt, Sampling
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.interrupt import check
from personaspace.models import lora
from personaspace.models.architecture import decoder_of
from personaspace.pipeline.arms import Arm, section
from personaspace.pipeline.context import NO_PERSONA, Context, persona_prompts
from personaspace.seeds import derive_seed
from personaspace.study.steering import SHIFT

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds after which what was measured is kept, for a run that is broken off.
KEEP_EVERY = 30.0
_FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Vectors:
    """What a node steers along.

    Attributes:
        layer: Decoder layer, counted from 0.
        by_name: Each vector, `[H]`.
        typical_length: Median length of the activations there.
        seed: Of the random directions.
        states_NH: The condition's activations there, of all personas and questions.
    """

    layer: int
    by_name: Mapping[str, Floats]
    typical_length: float
    seed: int
    states_NH: Floats

    @property
    def lengths(self) -> dict[str, float]:
        """Each vector's length."""
        return {name: float(np.linalg.norm(found)) for name, found in self.by_name.items()}

    def direction(self, vector: str, control: int | None, matched: bool = False) -> Floats:
        """The vector, or one drawn of its length: of a number the same one at every dose."""
        found = self.by_name[vector]
        if control is None:
            return found
        length = float(np.linalg.norm(found))
        if matched:
            seed = derive_seed(self.seed, "steer as activations vary", vector, control)
            return np.asarray(varied_directions(length, self.states_NH, [seed])[0])
        seed = derive_seed(self.seed, "steer", vector, control)
        return np.asarray(random_directions(length, len(found), [seed])[0])

    def edit(self, arm: Arm) -> Edit | None:
        """What the arm does to the layer's output."""
        if arm.mode is None or arm.vector is None:
            return None
        found = self.direction(arm.vector, arm.control, arm.matched)
        return ablating(found) if arm.dose is None else adding(arm.dose * found)


# --- vectors -------------------------------------------------------------------------------------


def vectors_of(context: Context) -> Vectors:
    """The node's vectors, from its own activations and, for the shift, the base model's.

    A stage of one condition reads nothing of another's, so that its Job can run alone: the base
    model's activations of the assistant are computed here.

    Raises:
        UserError: A vector that is NaN or 0, or of no question.
    """
    spec, study, node = context.spec, context.study, context.node
    _, decoder_layers = decoder_of(context.runtime.model)
    steering = section(study)
    layer = steering.layer
    if layer is None:
        layer = spec.headline_layer(study.layers(len(decoder_layers)))
    folder = context.input("extract")
    assert folder is not None
    name = f"{node.condition}.seed-{node.seed}.{spec.analysis.method}.safetensors"
    file = open_activations(folder / name)
    states = file.read_layer(layer)
    assistant = file.personas.index(spec.analysis.assistant)
    own_QH, own_Q = states[assistant], file.valid[assistant]
    typical_QH, typical_Q = own_QH, own_Q
    found: dict[str, Floats] = {}
    fine_tuned = context.condition.fine_tuned
    wanted = {v: None for mode in steering.modes for v in steering.of_condition(fine_tuned, mode)}
    for vector in wanted:
        what = f"steering.vectors: {vector} of {node.id} at layer {layer}"
        if vector == SHIFT:
            typical_QH, typical_Q = _base_states(context, layer, file)
            found[vector] = mean_difference(own_QH, typical_QH, own_Q & typical_Q, what)
        else:
            place = file.personas.index(vector)
            valid_Q = own_Q & file.valid[place]
            found[vector] = mean_difference(states[place], own_QH, valid_Q, what)
    lengths = np.linalg.norm(typical_QH[typical_Q].astype(np.float64), axis=1)
    every_NH = states[file.valid].astype(np.float64)
    return Vectors(layer, found, float(np.median(lengths)), node.seed, every_NH)


def _base_adapters(context: Context) -> list[Path]:
    """What the base model carries: the coupling, where that comes first."""
    folder = context.adapter("couple")
    return [] if folder is None else [folder]


def _base_states(
    context: Context, layer: int, file: ActivationFile
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Base's activations of the assistant `[Q, H]`, as extract stores them, and their validity."""
    spec, runtime = context.spec, context.runtime
    persona = spec.persona(spec.analysis.assistant)
    prompts = persona_prompts(context, [(persona.name, persona.prompt)], file.questions)
    context.progress.start("base's activations", len(prompts))
    with lora.applied(runtime.model, *_base_adapters(context)):
        said: list[tuple[int, ...]] = [() for _ in prompts]
        if spec.analysis.method == "b":
            drawn = _engine(context).generate(prompts, Sampling(spec.extraction.max_new_tokens))
            said = [answers[0].token_ids for answers in drawn]
        found = hidden_states(
            runtime.model,
            [Passage(p.token_ids, ids) for p, ids in zip(prompts, said, strict=True)],
            [layer],
            wanted=spec.extraction.implementation,
            advance=context.progress.advance,
        )
    if spec.analysis.method == "b":
        states, valid = found.mean_NLH[:, 0], found.answered_N
    else:
        states, valid = found.last_NLH[:, 0], np.ones(len(prompts), bool)
    if float(np.abs(states).max()) <= _FLOAT16_MAX:
        states = states.astype(np.float16).astype(np.float32)
    return states, valid


def _engine(context: Context) -> TransformersEngine:
    runtime = context.runtime
    return TransformersEngine(
        runtime.model,
        runtime.tokenizer,
        runtime.end_token_ids,
        context.spec.generation.batch_size,
    )


def trained_on(context: Context) -> int | None:
    """Pairs of which the condition was trained on an answer; None: nobody knows (an adapter)."""
    condition, inputs = context.condition, context.study.steering
    assert inputs is not None
    if condition.adapter is not None:
        return None
    if condition.dataset is None:
        return 0
    chats = context.study.chats[condition.dataset].conversations
    known = {(m["content"], chat[-1]["content"]) for chat in chats for m in chat[:-1]}
    return sum(
        bool({(pair.question, pair.bad), (pair.question, pair.good)} & known)
        for pair in inputs.pairs
    )


# --- measures ------------------------------------------------------------------------------------


def measured(context: Context, arms: Sequence[Arm], vectors: Vectors) -> dict[str, dict[str, Any]]:
    """What each arm's model does, by the arm's id; what was kept of a run before is not redone."""
    kept = _Kept(context)
    bench = _Bench(context, vectors)
    try:
        for model in ("base", "own"):
            mine = [arm for arm in arms if arm.model == model]
            adapters = context.adapters() if model == "own" else _base_adapters(context)
            with lora.applied(context.runtime.model, *(adapters if mine else [])):
                for arm in mine:
                    check()
                    if arm.id not in kept.found:
                        kept.add(arm, bench.measure(arm))
                    context.progress.advance()
    except BaseException:
        kept.keep()
        raise
    return kept.found


class _Kept:
    """What was measured, kept in the store from time to time."""

    def __init__(self, context: Context) -> None:
        self._store = context.store
        self._key = f"{context.key}/checkpoints/arms"
        self._last = time.monotonic()
        self._new = False
        self.found: dict[str, dict[str, Any]] = {}
        there = self._store.find(self._key)
        if there is not None:
            path = self._store.fetch(there) / "arms.json"
            self.found = json.loads(path.read_text(encoding="utf-8"))

    def add(self, arm: Arm, measures: dict[str, Any]) -> None:
        self.found[arm.id] = measures
        self._new = True
        if time.monotonic() - self._last >= KEEP_EVERY:
            self.keep()

    def keep(self) -> None:
        if not self._new:
            return
        with self._store.writer(self._key) as writer:
            text = json.dumps(self.found, allow_nan=False)
            (writer.folder / "arms.json").write_text(text, encoding="utf-8")
            writer.commit({}, replace=True)
        self._last, self._new = time.monotonic(), False


class _Bench:
    """The questions and answers that every arm's model is measured by."""

    def __init__(self, context: Context, vectors: Vectors) -> None:
        self._context = context
        self._vectors = vectors
        self._model = context.runtime.model
        self._ends = context.runtime.end_token_ids
        self._sampling = Sampling(section(context.study).max_new_tokens)
        self._engine = _engine(context)

    @cached_property
    def _endings(self) -> list[Ending]:
        study, runtime = self._context.study, self._context.runtime
        assert study.steering is not None
        return advice_endings(
            runtime.tokenizer,
            study.steering.pairs,
            section(study).answer_tokens,
            runtime.prompted.how,
        )

    @cached_property
    def _prompts(self) -> list[Prompt]:
        study = self._context.study
        assert study.steering is not None
        return persona_prompts(self._context, [(NO_PERSONA, None)], study.steering.questions)

    def measure(self, arm: Arm) -> dict[str, Any]:
        """As `steering.json` has it.

        Raises:
            UserError: The model is pushed so far that its probabilities are NaN.
        """
        layer, edit = self._vectors.layer, self._vectors.edit(arm)
        try:
            with edited(self._model, layer, edit):
                found = advice(self._model, self._endings, self._ends)
                drawn = self._engine.generate(self._prompts, self._sampling) if arm.answers else []
        except UserError as error:
            if edit is None:
                raise
            raise UserError(f"steering.doses: {arm.dose} of {arm.vector}: {error}") from None
        measures: dict[str, Any] = {"bad": found.bad, "good": found.good}
        if arm.answers:
            answers = [one[0] for one in drawn]
            measures |= {
                "texts": [answer.text for answer in answers],
                "degenerate": [coherence(answer.text).degenerate for answer in answers],
                "surprise": surprise(self._model, self._prompts, answers, self._ends),
            }
        return measures
