"""extract: hidden states of every evaluation persona and question, methods A and B."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace.generation.base import Answer, Prompt, Sampling
from personaspace.pipeline import taken_rows
from personaspace.pipeline.context import (
    ANSWERS,
    Context,
    by_persona,
    persona_prompts,
    persona_rows,
    texts,
    write_json,
)
from personaspace.pipeline.node import Node
from personaspace.pipeline.rows import GRID
from personaspace.pipeline.stage import Need, Scope, Stage, model_read, personas_read
from personaspace.pipeline.taken_rows import Taken
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from personaspace.activations.extract import Passage, States
    from personaspace.activations.former import Former

#: Activations of what conditions trained under but the grid lacks; base condition only.
INDUCTION_FILE = "induction.a.safetensors"
#: The list of what these are of, among what the stage reads.
INDUCTION = "induction"


def _reads(study: Study, node: Node) -> dict[str, Any]:
    # No seed: greedy answers and activations draw nothing.
    spec = study.spec
    methods = sorted(set(spec.extraction.methods))
    reads: dict[str, Any] = {
        "personas": personas_read(study, spec.extracted_personas()),
        "questions": study.extraction_questions,
        "layers": spec.extraction.layers,
        "methods": methods,
        "condition": node.condition,
        "model": model_read(study),
    }
    if "b" in methods:
        reads["max_new_tokens"] = spec.extraction.max_new_tokens
        reads["engine"] = spec.generation.engine
    if spec.condition(node.condition).kind == "base":
        reads[INDUCTION] = study.induction_rows()
    return reads


def run(context: Context) -> None:
    """Writes `<condition>.seed-<n>.<a|b>.safetensors` and, with method B, the greedy answers."""
    if context.offers.left.rows:
        _forecast(context)
    taken = taken_rows.taken(context, answers="b" in context.spec.extraction.methods)
    if not _extracted(context, taken):
        # What is there was computed in another way than this machine's: all anew.
        _extracted(context, taken_rows.none(context))


def _extracted(context: Context, taken: Taken) -> bool:
    """Write all files; False: what is taken is of another implementation, and none is whole."""
    from personaspace.activations.extract import Passage
    from personaspace.models.footprint import Use, check_not_spread

    spec, questions = context.spec, context.study.extraction_questions
    wordings = persona_rows(spec, spec.extracted_personas())
    names = [name for name, _ in wordings]
    prompts = persona_prompts(context, wordings, questions)
    places = _places(names, questions, taken, GRID)
    answers: list[list[Answer]] = [[] for _ in prompts]
    if "b" in spec.extraction.methods:
        drawn = _greedy(context, [prompts[place] for place in places])
        for place, answer in zip(places, drawn, strict=True):
            answers[place] = answer
        said = texts(by_persona(names, questions, answers))
        former = {source.folder: _read(source.folder / ANSWERS) for source in taken.sources}
        personas = list(dict.fromkeys(names))
        write_json(
            context.out / ANSWERS, taken_rows.merged(personas, questions, said, former, taken)
        )
    passages = [
        Passage(prompt.token_ids, answer[0].token_ids if answer else ())
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    methods, what = spec.extraction.methods, "hidden states"
    grids = [_Grid(GRID, what, names, passages, places, methods)]
    if context.condition.kind == "base":
        # Base has an adapter where it is coupled before the others are fine-tuned.
        grids += _induction(context, taken)
    devices = context.runtime.spread(Use.READING) if taken.left else []
    if devices:
        check_not_spread(spec.extraction.implementation, "extraction")
    layers = _layers(context, taken, spread=bool(devices))
    empty = []
    for grid in grids:
        states = None
        if grid.places:
            context.progress.start(grid.what, len(grid.places))
            mine = [grid.passages[place] for place in grid.places]
            states = _states(context, mine, layers, devices)
            if taken.sources and states.taken != taken.computed_by("implementation"):
                taken_rows.refuse(context, taken, f"computed by {states.taken} here")
                return False
            context.taken["implementation"] = states.taken
        empty.append(_written(context, grid, states, layers, taken))
    context.metrics.update(prompts=len(passages), empty_answers=empty[0], layers=len(layers))
    return True


STAGE = Stage(
    name="extract",
    version=1,
    scope=Scope.CONDITION,
    needs=(Need("train"), Need("couple", order="before")),
    reads=_reads,
    run=run,
    untrained_once=True,
    draws_answers=lambda study: "b" in study.spec.extraction.methods,
    longest_answer=lambda spec: spec.extraction.max_new_tokens,
    rows=(GRID, INDUCTION),
    spec_paths={
        "questions": "extraction.questions",
        "layers": "extraction.layers",
        "methods": "extraction.methods",
        "max_new_tokens": "extraction.max_new_tokens",
        "engine": "generation.engine",
        INDUCTION: "personas",
    },
)


def _forecast(context: Context) -> None:
    """Refuse what cannot run before answers are drawn, which takes long."""
    from personaspace.models import implementation

    spec = context.spec
    implementation.forecast(
        spec.extraction.implementation,
        spec.model,
        [
            planned
            for stage, recipe in (
                ("train", spec.recipe_of(context.condition)),
                ("couple", spec.coupling.recipe),
            )
            for planned in implementation.planned_below(context.adapter(stage), recipe)
        ],
        implementation.EXTRACTION,
        here=True,
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _greedy(context: Context, prompts: Sequence[Prompt]) -> list[list[Answer]]:
    """The greedy answer to each prompt; for none no engine is started."""
    if not prompts:
        return []
    sampling = Sampling(context.spec.extraction.max_new_tokens)
    context.progress.start("greedy answers", len(prompts))
    engine = context.runtime.engine()
    context.taken["engine"] = engine.name
    with context.one_adapter() as adapter:
        return engine.generate(prompts, sampling, adapter=adapter, advance=context.progress.advance)


def _places(names: Sequence[str], questions: Sequence[str], taken: Taken, group: str) -> list[int]:
    """Which of the prompts of `persona_prompts` are to be computed."""
    asked = ((name, question) for name in names for question in questions)
    return [place for place, pair in enumerate(asked) if not taken.has(*pair, group)]


@dataclass(frozen=True)
class _Grid:
    """Rows of one file for each method.

    Attributes:
        group: The list of personas that they are of.
        what: Names the phase.
        names: The persona of each wording.
        passages: Of every wording and question, personas outermost.
        places: Which of these are computed; the others are taken.
        methods: Whose files are written.
        file: The only file's name; None: the method's own.
    """

    group: str
    what: str
    names: Sequence[str]
    passages: Sequence[Passage]
    places: Sequence[int]
    methods: Sequence[str]
    file: str | None = None

    def file_name(self, context: Context, method: str) -> str:
        """Of the file of a method."""
        node = context.node
        return self.file or f"{node.condition}.seed-{node.seed}.{method}.safetensors"


def _layers(context: Context, taken: Taken, *, spread: bool) -> list[int]:
    """The layers to be read; of a model that is not loaded whole, its configuration says how many.

    Where nothing is computed, no model is loaded: they are those of what is taken.

    Args:
        spread: The model is spread over several GPUs.
    """
    from personaspace.activations.files import find_activations, open_activations
    from personaspace.models import preflight
    from personaspace.models.architecture import decoder_of

    if not taken.left:
        first = find_activations(taken.sources[0].folder)[0][0]
        return context.study.layers(max(open_activations(first).layers) + 1)
    if spread:
        return context.study.layers(preflight.described(context.spec.model).layers)
    return context.study.layers(len(decoder_of(context.runtime.model)[1]))


def _states(
    context: Context,
    passages: Sequence[Passage],
    layers: Sequence[int],
    devices: Sequence[str],
) -> States:
    """Hidden states of the condition's model.

    Args:
        devices: Over which it is spread; none: it is not.
    """
    from personaspace.activations import spread
    from personaspace.activations.extract import hidden_states
    from personaspace.models import lora

    adapters, advance = context.adapters(), context.progress.advance
    if devices:
        reading = spread.Reading(context.spec.model, adapters, passages, layers)
        return spread.hidden_states(reading, devices, advance)
    with lora.applied(context.runtime.model, *adapters):
        return hidden_states(
            context.runtime.model,
            passages,
            layers,
            wanted=context.spec.extraction.implementation,
            advance=advance,
        )


def _written(
    context: Context, grid: _Grid, states: States | None, layers: Sequence[int], taken: Taken
) -> int:
    """Write a grid's files: what was computed, and what is taken.

    Returns:
        How many of its passages have no answer.
    """
    empty = len(grid.passages)
    for method in grid.methods:
        valid = _write(context, grid, method, states, layers, taken)
        empty = empty if method == "a" else int((~valid).sum())
    return empty


def _write(
    context: Context,
    grid: _Grid,
    method: str,
    states: States | None,
    layers: Sequence[int],
    taken: Taken,
) -> NDArray[np.bool_]:
    """Files of a method: each persona's mean over its wordings, and the wordings, if any.

    Returns:
        Whether each wording and question has states.
    """
    from personaspace.activations import wordings
    from personaspace.activations.files import wordings_file, write_activations
    from personaspace.activations.former import Former, lay_over

    names, questions = grid.names, context.study.extraction_questions
    path = context.out / grid.file_name(context, method)
    former = [
        Former(source.folder / path.name, partial(source.has, group=grid.group))
        for source in taken.sources
    ]
    values, valid = _rows(grid, method, states, former, len(layers))
    values = values.reshape(len(names), len(questions), *values.shape[1:])
    valid = valid.reshape(len(names), len(questions))
    personas, means, known = wordings.means(names, values, valid)
    axes: dict[str, Any] = {"questions": questions, "layers": layers}
    lay_over(means, known, former, rows=personas, personas=personas, **axes)
    about = {**axes, "condition": context.node.condition, "seed": context.node.seed}
    write_activations(path, means, known, personas=personas, method=method, **about)
    times = Counter(names)
    for place, name in enumerate(names):
        if times[name] == 1:
            valid[place] = known[personas.index(name)]
    several = [place for place, name in enumerate(names) if times[name] > 1]
    if several and grid.file is None:
        owners = [names[place] for place in several]
        rows_ = wordings.row_names(owners)
        mine, there = values[several], valid[several]
        apart = [replace(each, path=wordings_file(each.path)) for each in former]
        lay_over(mine, there, apart, rows=rows_, personas=owners, **axes)
        write_activations(wordings_file(path), mine, there, personas=rows_, method=method, **about)
        valid[several] = there
    return valid


def _rows(
    grid: _Grid, method: str, states: States | None, former: Sequence[Former], layers: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """States `[N, L, H]` of all passages, zeros where none are computed, and which have some."""
    import numpy as np

    from personaspace.activations.files import open_activations

    count = len(grid.passages)
    if states is None:
        shape = (count, layers, open_activations(former[0].path).hidden)
        return np.zeros(shape, np.float32), np.zeros(count, bool)
    mine = states.last_NLH if method == "a" else states.mean_NLH
    there = np.ones(len(mine), bool) if method == "a" else states.answered_N
    if len(mine) == count:
        return mine, there
    values, valid = np.zeros((count, *mine.shape[1:]), np.float32), np.zeros(count, bool)
    values[grid.places], valid[grid.places] = mine, there
    return values, valid


def _induction(context: Context, taken: Taken) -> list[_Grid]:
    """Method A for the texts that conditions trained under, where the grid has them not."""
    from personaspace.activations.extract import Passage

    rows_, questions = context.study.induction_rows(), context.study.extraction_questions
    if not rows_:
        return []
    prompts = persona_prompts(context, rows_, questions)
    names = [name for name, _ in rows_]
    places = _places(names, questions, taken, INDUCTION)
    passages = [Passage(prompt.token_ids) for prompt in prompts]
    what = "induction prompts"
    return [_Grid(INDUCTION, what, names, passages, places, ["a"], INDUCTION_FILE)]
