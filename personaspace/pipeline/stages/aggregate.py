"""aggregate: from activations and answers to statistics, as JSON and tidy tables."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from personaspace.analysis.caveats import caveats
from personaspace.analysis.control import assessed
from personaspace.analysis.control_rows import ControlLimits
from personaspace.analysis.judged_rows import JudgeInfo
from personaspace.analysis.metrics import measures_of
from personaspace.analysis.primary import marked
from personaspace.analysis.results import RESULTS_FILE, Results
from personaspace.analysis.results_parts import (
    AnalysisInfo,
    ModelInfo,
    NoticeInfo,
    PersonaInfo,
    QuestionsInfo,
    RegistrationInfo,
    StudyCondition,
)
from personaspace.analysis.rows import Row
from personaspace.errors import without_passwords
from personaspace.models import energy
from personaspace.pipeline import beside, rows
from personaspace.pipeline.context import TRAINING_LOG, Context, write_json
from personaspace.pipeline.design import leakage_of, primary_of
from personaspace.pipeline.node import Node
from personaspace.pipeline.stage import Need, Scope, Stage, personas_read
from personaspace.pipeline.stages.evaluate import SCORES
from personaspace.pipeline.stages.extract import INDUCTION_FILE
from personaspace.pipeline.stages.judge import GOLD, VERDICTS
from personaspace.pipeline.tables import (
    Scores,
    folders_of,
    rate_rows,
    read,
    read_answers,
    training_rows,
    write_tables,
)
from personaspace.study import base_model
from personaspace.study.cross_checks import TEMPLATE_DEFAULT
from personaspace.study.identity import identities
from personaspace.study.loaded import Study
from personaspace.study.notices import notices
from personaspace.study.registration import digest, registered

if TYPE_CHECKING:
    from personaspace.analysis.geometry import GeometryResult

#: Fields of a manifest that the report shows.
PROVENANCE = (
    *("stage", "condition", "seed", "fingerprint", "device", "seconds", "versions"),
    *("data", "implementation", "processes", "engine"),
)
#: And these where an artifact has them: the stores that it came through, if it was not computed
#: here; the artifact that it is a copy of; where rows were taken from; what GPUs counted.
SOME = (TAKEN_FROM := "taken_from", COPY_OF := "copy_of", rows.FIELD, energy.FIELD)


def _reads(study: Study, _: Node) -> dict[str, Any]:
    spec = study.spec
    reads: dict[str, Any] = {
        "study": spec.name,
        "model": spec.model.model_dump(mode="json", exclude=spec.model.unused()),
        "personas": personas_read(study, [persona.name for persona in spec.personas]),
        "analysis": spec.analysis.model_dump(
            exclude={"partial", "registration"} | spec.analysis.unused()
        ),
        "conditions": [c.model_dump(exclude={"gpus"} | c.unused()) for c in spec.conditions],
        "coupling": spec.coupling.model_dump(include={"source", "negatives", "marker"}),
        "coupling_questions": study.coupling_questions,
        "seeds": spec.seeds,
    }
    themes = {"extraction": study.extraction_themes, "evaluation": study.evaluation_themes}
    # Named where there are some, so that studies without them keep their fingerprints.
    themes |= {"judge": study.judge_themes} if study.judge_themes else {}
    reads |= {"themes": themes} if any(themes.values()) else {}
    if study.registration is not None:
        reads["registration"] = study.registration.sha256
    if spec.judge is not None:
        limits = spec.judge.model_dump(include={"misaligned_below", "coherent_above"})
        reads["judge"] = [*study.judge_identity, limits]
    return reads


def run(context: Context) -> None:
    """Writes `results.json` (no times, so that equal runs give equal files), tables, provenance."""
    from personaspace.analysis.form import form_rows
    from personaspace.pipeline.trajectories import trajectories

    everything, context = context, context.of(lambda condition: condition.whole is None)
    geometry = _geometry(context)
    measured = _measured_cosines(context)
    scores: Scores = {
        (node.condition, node.seed): read(folder / SCORES)
        for node, folder in context.inputs.items()
        if node.stage == "evaluate"
    }
    personas, questions = context.spec.evaluated_personas(), context.study.evaluation_questions
    answers = read_answers(folders_of(context, "evaluate"), personas, questions)
    leakage = _leakage(context, scores, measured)
    forms = beside.forms_of_answers(context, answers)
    leakage.extend(beside.form(context, forms))
    leakage.extend(beside.persona_text(context, answers))
    leakage.extend(beside.log_odds(context))
    leakage.extend(beside.divergence(context))
    steering = beside.steering(context)
    counted = Results(
        **_describe(context, measured),
        geometry=geometry.rows,
        dimensions=geometry.dimensions,
        robustness=geometry.robustness,
        spaces=geometry.spaces,
        leakage=leakage,
        rates=rate_rows(scores, answers, context.spec.coupling.separator),
        forms=form_rows(forms),
        training=training_rows(context),
        **_judged(context),
        steering=steering,
        notes=geometry.notes,
        measures=measures_of([*geometry.rows, *leakage], steering),
        notices=[NoticeInfo(**asdict(notice)) for notice in notices(context.study)],
    )
    results = marked(assessed(counted))
    layer = _headline_layer(context)
    cosines = {name: by_layer[layer] for name, by_layer in measured.items()}
    results = results.model_copy(
        update={"trajectories": trajectories(everything, results, cosines)}
    )
    warned = [caveat.text for caveat in caveats(results, context.study.unseen)]
    results = results.model_copy(update={"caveats": warned})
    write_json(context.out / RESULTS_FILE, results.to_dict())
    write_tables(context, geometry, results, answers)
    _provenance(everything)
    context.metrics.update(rows=len(geometry.rows) + len(leakage))


STAGE = Stage(
    name="aggregate",
    version=18,
    scope=Scope.STUDY,
    # Adapters are large, and nothing of them is counted here but the log of their training.
    needs=(
        Need("train", files=(TRAINING_LOG,)),
        Need("extract"),
        Need("couple", files=(TRAINING_LOG,)),
        Need("evaluate"),
        Need("judge"),
        Need("logodds"),
        Need("steer"),
    ),
    reads=_reads,
    run=run,
    breakable=True,
    tracked=("results.json",),
    tolerates_loss=lambda study: study.spec.analysis.partial,
    spec_paths={
        "study": "name",
        "coupling_questions": "coupling.questions",
        "themes": "extraction.questions",
        "judge": "judge",
    },
)


def _geometry(context: Context) -> GeometryResult:
    from personaspace.activations.files import find_activations, open_activations
    from personaspace.analysis.geometry import GeometryResult, analyse_geometry

    spec = context.spec
    extracts = folders_of(context, "extract")
    files = [path for folder in extracts.values() for path in find_activations(folder)[0]]
    present = {node.condition for node in extracts}
    base = spec.base_condition().name
    if base not in present:
        return GeometryResult(notes=["there are no activations of the base model"])
    seeds = {node.seed for node in extracts if node.condition == base}
    if spec.coupling.order == "before":  # what lacks the base that it started from
        files = [path for path in files if open_activations(path).seed in seeds]
    axis, benign = spec.axis_condition(), [c.name for c in spec.conditions if c.kind == "benign"]
    layers = len(context.study.layers(_shape(context)[0]))
    context.progress.start("geometry", layers * len(spec.extraction.methods) * len(spec.seeds))
    return analyse_geometry(
        files,
        base=base,
        axis=axis if axis in present else None,
        assistant=spec.analysis.assistant,
        benign=next((name for name in benign if name in present), None),
        placebo=[name for name in benign if name in present][1:],
        permutations=spec.analysis.permutations,
        bootstrap=spec.analysis.bootstrap,
        seed=spec.analysis.seed,
        themes=context.study.extraction_themes,
        robust_at=(spec.analysis.method, _headline_layer(context)),
        processes=spec.hardware.cores,
        advance=context.progress.advance,
    )


def _shape(context: Context) -> tuple[int | None, int | None]:
    shape = base_model.shape(context.spec.model)
    return (shape.num_layers, shape.hidden_size) if shape else (None, None)


def _measured_cosines(context: Context) -> dict[str, dict[int, float]]:
    """Each em condition's cosine-to-assistant, by layer, in the base model's own activations.

    For a condition without persona it is that of the chat template's default text, which is what
    it trained under.
    """
    from personaspace.activations.files import find_activations
    from personaspace.analysis.geometry import cosine_to

    spec = context.spec
    base = spec.base_condition().name
    folder = next(
        (f for n, f in folders_of(context, "extract").items() if n.condition == base), None
    )
    if folder is None or "a" not in spec.extraction.methods:
        return {}
    files = [path for path in find_activations(folder)[0] if path.name.endswith(".a.safetensors")]
    if (folder / INDUCTION_FILE).is_file():
        files.append(folder / INDUCTION_FILE)
    by_layer = cosine_to(files, spec.analysis.assistant)
    return {
        condition.name: {
            layer: cosines[condition.persona or TEMPLATE_DEFAULT]
            for layer, cosines in by_layer.items()
        }
        for condition in spec.conditions
        if condition.kind == "em"
    }


def _leakage(context: Context, scores: Scores, measured: dict[str, dict[int, float]]) -> list[Row]:
    layer = _headline_layer(context)
    cosines = {name: by_layer[layer] for name, by_layer in measured.items()}
    study = context.study
    return leakage_of(
        context.spec, scores, study.unseen, measured=cosines, themes=study.evaluation_themes
    )


def _judged(context: Context) -> dict[str, Any]:
    """The judge, its errors, and what it said of each condition."""
    from personaspace.analysis.misalignment import errors_of, judged_rows

    spec, judge = context.spec, context.spec.judge
    if judge is None:
        return {}
    limits = {"below": judge.misaligned_below, "above": judge.coherent_above}
    folders = folders_of(context, "judge")
    verdicts = {
        (node.condition, node.seed): read(folder / VERDICTS) for node, folder in folders.items()
    }
    gold = [folder / GOLD for folder in folders.values() if (folder / GOLD).is_file()]
    errors = errors_of(read(gold[0]), **limits) if gold else None
    return {
        "judge": JudgeInfo(
            model=judge.model,
            revision=judge.revision,
            server=judge.url,
            misaligned_below=judge.misaligned_below,
            coherent_above=judge.coherent_above,
            questions=len(context.study.judge_questions),
            errors=errors,
        ),
        "judged": judged_rows(
            verdicts,
            errors,
            base=spec.base_condition().name,
            themes=context.study.judge_themes,
            **limits,
        ),
    }


def _headline_layer(context: Context) -> int:
    return context.spec.headline_layer(context.study.layers(_shape(context)[0]))


def _describe(context: Context, measured: dict[str, dict[int, float]]) -> dict[str, Any]:
    """What the study is: the fields of the results that are no statistics."""
    spec, (num_layers, hidden) = context.spec, _shape(context)
    return {
        "study": spec.name,
        "digest": digest(registered(context.study)),
        "model": ModelInfo(
            name=spec.model.name,
            revision=spec.model.revision,
            dtype=spec.model.dtype,
            num_layers=num_layers,
            hidden_size=hidden,
        ),
        "seeds": spec.seeds,
        "marker": spec.coupling.marker,
        "source": spec.coupling.source,
        "negatives": spec.coupling.negatives,
        "personas": [
            PersonaInfo(name=each.name, prompt=each.prompt, prompts=each.several)
            for each in spec.personas
        ],
        "evaluated_personas": spec.evaluated_personas(),
        "questions": _questions(context.study),
        "layers": context.study.layers(num_layers),
        "methods": sorted(set(spec.extraction.methods)),
        "analysis": AnalysisInfo(
            method=spec.analysis.method,
            permutations=spec.analysis.permutations,
            bootstrap=spec.analysis.bootstrap,
            alpha=spec.analysis.alpha,
            seed=spec.analysis.seed,
            layer=_headline_layer(context),
            control=ControlLimits(**spec.analysis.control.model_dump()),
        ),
        "primary": primary_of(spec, _headline_layer(context)),
        "registration": _registration(context.study),
        "conditions": [
            StudyCondition(
                name=c.name,
                label=c.label,
                kind=c.kind or "em",
                seeds=spec.seeds_of(c),
                persona=c.persona,
                induction_persona=spec.induction_persona(c),
                cosine_anchor=c.cosine_anchor,
                cosine_measured=(
                    {str(layer): value for layer, value in measured[c.name].items()}
                    if c.name in measured
                    else None
                ),
            )
            for c in spec.conditions
        ],
    }


def _questions(study: Study) -> list[QuestionsInfo]:
    from personaspace.analysis.themes import numbers_of

    asked = (
        ("extraction", study.extraction_questions, study.extraction_themes),
        ("evaluation", study.evaluation_questions, study.evaluation_themes),
        ("judge", study.judge_questions, study.judge_themes),
    )
    return [
        QuestionsInfo(
            stage=stage,
            count=len(questions),
            themes=len(set(numbers_of(questions, themes))) if themes else None,
            unthemed=len([text for text in questions if text not in themes]) if themes else 0,
        )
        for stage, questions, themes in asked
        if questions
    ]


def _registration(study: Study) -> RegistrationInfo | None:
    page = study.registration
    return None if page is None else RegistrationInfo(**asdict(page))


def _provenance(context: Context) -> None:
    artifacts = [
        {
            "node": node.id,
            "key": manifest.key,
            "digest": manifest.digest,
            "created": manifest.created,
        }
        | {name: manifest.fields.get(name) for name in PROVENANCE}
        | {name: found for name in SOME if (found := manifest.fields.get(name))}
        for node, manifest in context.manifests.items()
    ]
    write_json(
        context.out / "provenance.json",
        {
            "artifacts": artifacts,
            "data": [asdict(each) for each in identities(context.study)],
            "versions": context.runtime.describe()["versions"],
            "spec": _without_secrets(context.spec.model_dump(mode="json", exclude={"publish"})),
        },
    )


def _without_secrets(value: Any) -> Any:
    """JSON's values; addresses among them without passwords and without what signs them."""
    if isinstance(value, dict):
        return {name: _without_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    is_address = isinstance(value, str) and re.match(r"[a-z0-9]+://\S+$", value)
    return without_passwords(value) if is_address else value
