"""What a study's fields must not be beside each other: names, seeds, layers, roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from personaspace.errors import nearest
from personaspace.files import named_again
from personaspace.study import base_model
from personaspace.study.doses import check_doses
from personaspace.study.inputs import Model
from personaspace.study.model_checks import check_model, recipes_of
from personaspace.study.primary import check_primary
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.publish_checks import check_publish
from personaspace.study.spec import Experiment
from personaspace.study.steering_checks import check_steering
from personaspace.study.wordings import check_wordings

#: Name of the extra extraction row that has no system message: the text E0 trained under.
TEMPLATE_DEFAULT = "template-default"
#: Stages that a rerun names without condition and seed.
OF_STUDY = ("aggregate", "publish")


def _duplicates(names: list[str], what: str) -> Iterator[Problem]:
    counts = Counter(names)
    for index, name in enumerate(names):
        if counts[name] > 1 and name in names[:index]:
            yield Problem(
                f"{what}[{index}].name",
                Code.DUPLICATE,
                f"{name!r} is already the name of another",
            )


def _persona_references(spec: Experiment) -> Iterator[tuple[str, str, bool]]:
    """Where a persona is named, which, and whether the name is only the default."""
    of_file = spec.model_fields_set
    for index, condition in enumerate(spec.conditions):
        if condition.persona is not None:
            default = "conditions" not in of_file
            yield f"conditions[{index}].persona", condition.persona, default
    for index, name in enumerate(spec.extraction.personas or []):
        yield f"extraction.personas[{index}]", name, False
    coupling = spec.coupling.model_fields_set
    yield "coupling.source", spec.coupling.source, "source" not in coupling
    for index, name in enumerate(spec.coupling.negatives):
        yield f"coupling.negatives[{index}]", name, "negatives" not in coupling
    for index, name in enumerate(spec.evaluation.personas or []):
        yield f"evaluation.personas[{index}]", name, False
    for index, name in enumerate(spec.judge.personas if spec.judge else []):
        yield f"judge.personas[{index}]", name, False
    default = "assistant" not in spec.analysis.model_fields_set
    yield "analysis.assistant", spec.analysis.assistant, default


def _check_conditions(spec: Experiment) -> Iterator[Problem]:
    yield from _duplicates([c.name for c in spec.conditions], "conditions")
    yield from _duplicates([p.name for p in spec.personas], "personas")
    bases = [i for i, c in enumerate(spec.conditions) if c.kind == "base"]
    if not bases and all(c.fine_tuned for c in spec.conditions):
        yield Problem(
            "conditions",
            Code.NO_BASE,
            "one condition without dataset or adapter is needed as the base",
        )
    for index in bases[1:]:
        if not spec.conditions[index].fine_tuned:
            yield Problem(
                f"conditions[{index}].kind",
                Code.SECOND_BASE,
                "there is already a base condition",
            )
    for index, condition in enumerate(spec.conditions):
        if condition.dataset is not None and condition.dataset not in spec.datasets:
            known = ", ".join(sorted(spec.datasets)) or "none"
            yield Problem(
                f"conditions[{index}].dataset",
                Code.UNKNOWN_DATASET,
                f"unknown dataset {condition.dataset!r} (known: {known})",
                nearest(condition.dataset, spec.datasets),
            )
        if not condition.fine_tuned and condition.kind != "base":
            yield Problem(
                f"conditions[{index}].kind",
                Code.UNTRAINED_CONDITION,
                "a condition without dataset or adapter is the base",
            )
        if condition.fine_tuned and condition.kind == "base":
            source = "adapter" if condition.dataset is None else "dataset"
            yield Problem(
                f"conditions[{index}].{source}",
                Code.TRAINED_BASE,
                "the base condition is not trained",
            )
        yield from _check_adapter(spec, index)
    yield from _check_placebo(spec)
    yield from _check_seeds(spec)
    yield from _check_recipes(spec)


def _check_recipes(spec: Experiment) -> Iterator[Problem]:
    for index, condition in enumerate(spec.conditions):
        if condition.training is not None and condition.dataset is None:
            source = "has an adapter" if condition.adapter else "has no data set"
            yield Problem(
                f"conditions[{index}].training",
                Code.NOT_TRAINED_HERE,
                f"{condition.name} {source} and is not trained here",
            )
    for section, recipe, given in recipes_of(spec):
        if recipe.row_tokens is None or recipe.row_tokens >= recipe.max_tokens:
            continue
        if "row_tokens" in given:
            place, text = "row_tokens", f"is less than max_tokens ({recipe.max_tokens})"
        else:
            place, text = "max_tokens", f"is more than training.row_tokens ({recipe.row_tokens})"
        if place in given:
            yield Problem(f"{section}.{place}", Code.ROWS_TOO_SHORT, text)


def _check_placebo(spec: Experiment) -> Iterator[Problem]:
    """A second benign condition is no other training if data, persona and seed are the same."""
    benign = [(i, c) for i, c in enumerate(spec.conditions) if c.kind == "benign" and c.dataset]
    for place, (index, condition) in enumerate(benign):
        for _, other in benign[:place]:
            alike = (other.dataset, other.persona) == (condition.dataset, condition.persona)
            alike = alike and spec.recipe_of(other) == spec.recipe_of(condition)
            shared = set(spec.seeds_of(condition)) & set(spec.seeds_of(other))
            if alike and shared:
                yield Problem(
                    f"conditions[{index}].dataset",
                    Code.DUPLICATE,
                    f"with seed {min(shared)} it is the very training of {other.name!r}; give it "
                    "other rows or other seeds",
                )


def _check_seeds(spec: Experiment) -> Iterator[Problem]:
    named = [f"conditions[{index}].seeds" for index in range(len(spec.conditions))]
    lists = [("seeds", spec.seeds)]
    lists += [(n, c.seeds) for n, c in zip(named, spec.conditions, strict=True) if c.seeds]
    for where, seeds in lists:
        for index, seed in enumerate(seeds):
            if seed in seeds[:index]:
                yield Problem(f"{where}[{index}]", Code.DUPLICATE, f"{seed} is listed twice")
            elif seed not in spec.seeds:
                text = f"{seed} is not among the seeds of the study"
                yield Problem(f"{where}[{index}]", Code.UNKNOWN_SEED, text)
    for index, seed in enumerate(spec.seeds):
        if not any(seed in spec.seeds_of(condition) for condition in spec.conditions):
            yield Problem(f"seeds[{index}]", Code.IDLE_SEED, f"no condition has a run with {seed}")
    if spec.coupling.order == "before":
        of_others = {s for c in spec.conditions if c.kind != "base" for s in spec.seeds_of(c)}
        for where, condition in zip(named, spec.conditions, strict=True):
            missing = of_others - set(spec.seeds_of(condition))
            if condition.kind == "base" and missing:
                listed = ", ".join(str(seed) for seed in spec.seeds if seed in missing)
                yield Problem(
                    where,
                    Code.BASE_WITHOUT_SEED,
                    f"must hold {listed}: coupling.order: before couples base first, and "
                    "others start from there",
                )


def _check_adapter(spec: Experiment, index: int) -> Iterator[Problem]:
    condition = spec.conditions[index]
    where = f"conditions[{index}].adapter"
    if condition.adapter is None:
        return
    if condition.dataset is not None:
        yield Problem(where, Code.TWO_SOURCES, "give either dataset or adapter")
    if len(spec.seeds_of(condition)) > 1:
        yield Problem(
            f"conditions[{index}].seeds",
            Code.ADAPTER_SEEDS,
            "a published adapter is one training run: name one seed",
        )
    if spec.coupling.order == "before":
        yield Problem(
            where,
            Code.ADAPTER_COUPLED_FIRST,
            "was not trained over a coupled base, as coupling.order: before has it",
        )


def _check_reruns(spec: Experiment) -> Iterator[Problem]:
    known = {condition.name: condition for condition in [*spec.conditions, *spec.doses()]}
    for index, rerun in enumerate(spec.rerun):
        where = f"rerun[{index}]"
        if rerun.condition is not None and rerun.condition not in known:
            yield Problem(
                f"{where}.condition",
                Code.UNKNOWN_CONDITION,
                f"unknown condition {rerun.condition!r}",
                nearest(rerun.condition, known),
            )
        elif rerun.stage in OF_STUDY and (rerun.condition, rerun.seed) != (None, None):
            yield Problem(
                f"{where}.stage",
                Code.RERUN_NOT_OF_CONDITION,
                f"{rerun.stage} is of the whole study: leave out condition and seed",
            )
        elif rerun.condition and rerun.stage == "train" and not known[rerun.condition].fine_tuned:
            yield Problem(
                f"{where}.stage",
                Code.RERUN_UNTRAINED,
                f"{rerun.condition} has no data set and is not trained",
            )
        elif (
            rerun.condition
            and (rerun.stage, spec.coupling.order) == ("couple", "before")
            and known[rerun.condition].kind != "base"
        ):
            yield Problem(
                f"{where}.condition",
                Code.RERUN_COUPLED_ONCE,
                "coupling.order: before couples the base condition alone",
            )
        if rerun.seed is not None and rerun.seed not in spec.seeds:
            yield Problem(
                f"{where}.seed", Code.UNKNOWN_SEED, f"{rerun.seed} is not among the seeds"
            )
        elif (
            None not in (rerun.seed, rerun.condition)
            and rerun.condition in known
            and rerun.seed not in spec.seeds_of(known[rerun.condition])
        ):
            text = f"{rerun.seed} is not among the seeds of {rerun.condition}"
            yield Problem(f"{where}.seed", Code.UNKNOWN_SEED, text)


def _check_coupling(spec: Experiment) -> Iterator[Problem]:
    coupling = spec.coupling
    for index, name in enumerate(coupling.negatives):
        where = f"coupling.negatives[{index}]"
        if name == coupling.source:
            yield Problem(where, Code.SOURCE_IS_NEGATIVE, f"{name!r} is the source persona")
        if name in coupling.negatives[:index]:
            yield Problem(where, Code.DUPLICATE, f"{name!r} is listed twice")


def _check_analysis(spec: Experiment) -> Iterator[Problem]:
    known = {persona.name for persona in spec.personas}
    trained = [c.name for c in spec.conditions if c.kind == "em"]
    if spec.analysis.axis is not None and spec.analysis.axis not in trained:
        yield Problem(
            "analysis.axis",
            Code.UNKNOWN_CONDITION,
            f"unknown em condition {spec.analysis.axis!r}",
            nearest(spec.analysis.axis, trained),
        )
    if spec.analysis.assistant in known.difference(spec.extracted_personas()):
        yield Problem(
            "analysis.assistant",
            Code.ASSISTANT_NOT_EXTRACTED,
            "is not among the extracted personas",
        )
    for section, names in (
        ("extraction.personas", spec.extraction.personas or []),
        ("evaluation.personas", spec.evaluation.personas or []),
        ("judge.personas", spec.judge.personas if spec.judge else []),
        ("tracking", [str(tracker) for tracker in spec.tracking]),
        ("publish.include", list(spec.publish.include) if spec.publish else []),
    ):
        for index, name in enumerate(names):
            if name in names[:index]:
                text = f"{str(name)!r} is listed twice"
                yield Problem(f"{section}[{index}]", Code.DUPLICATE, text)
    if spec.analysis.method not in spec.extraction.methods:
        yield Problem(
            "analysis.method",
            Code.METHOD_NOT_EXTRACTED,
            f"{spec.analysis.method!r} is not extracted",
        )
    if spec.coupling.source in known.difference(spec.grid()):
        yield Problem(
            "evaluation.personas",
            Code.SOURCE_NOT_EVALUATED,
            f"must hold the source persona {spec.coupling.source!r}",
        )


def _check_substitutes(spec: Experiment) -> Iterator[Problem]:
    for index in named_again(spec.substitutes):
        text = f"{spec.substitutes[index]!r} is listed twice"
        yield Problem(f"substitutes[{index}]", Code.DUPLICATE, text)


def _check_judge(spec: Experiment) -> Iterator[Problem]:
    judge = spec.judge
    if judge is not None and judge.url is None:
        try:
            base_model.shape(Model(name=judge.model, revision=judge.revision))
        except base_model.ModelError as error:
            yield Problem("judge.model", Code.MODEL, error.reason)


def _check_persona_names(spec: Experiment) -> Iterator[Problem]:
    for index, persona in enumerate(spec.personas):
        if persona.name == TEMPLATE_DEFAULT:
            yield Problem(
                f"personas[{index}].name",
                Code.RESERVED_NAME,
                f"{persona.name!r} is what the text of the chat template is called",
            )


def cross_checks(spec: Experiment) -> Iterator[Problem]:
    """All mistakes of a study whose fields are legal one by one."""
    known = {persona.name for persona in spec.personas}
    for path, name, default in _persona_references(spec):
        if name not in known:
            why = " (the default: name one of your own)" if default else ""
            text = f"unknown persona {name!r}{why}"
            yield Problem(path, Code.UNKNOWN_PERSONA, text, nearest(name, known))
    yield from _check_conditions(spec)
    yield from check_doses(spec)
    yield from _check_coupling(spec)
    yield from _check_reruns(spec)
    yield from _check_analysis(spec)
    yield from check_primary(spec)
    yield from _check_judge(spec)
    yield from _check_substitutes(spec)
    yield from _check_persona_names(spec)
    yield from check_wordings(spec)
    yield from check_model(spec)
    yield from check_steering(spec)
    yield from check_publish(spec)
