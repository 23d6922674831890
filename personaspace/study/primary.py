"""Whether the primary endpoint is one that the analysis computes."""

from __future__ import annotations

from collections.abc import Iterator

from personaspace.errors import nearest
from personaspace.study.concluding import Primary
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.spec import Experiment


def check_primary(spec: Experiment) -> Iterator[Problem]:
    """What is wrong with it; nothing where there is none."""
    primary = spec.analysis.primary
    if primary is None:
        return
    kinds = {condition.name: condition.kind for condition in spec.conditions}
    unknown = False
    for field in ("condition", "against"):
        name = getattr(primary, field)
        if name is not None and name not in kinds:
            unknown = True
            text = f"unknown condition {name!r}"
            where = f"analysis.primary.{field}"
            yield Problem(where, Code.UNKNOWN_CONDITION, text, nearest(name, kinds))
    if not unknown:
        why = _not_compared(spec, primary)
        if why:
            yield Problem("analysis.primary", Code.NOT_COMPUTED, f"is not computed: {why}")
        elif _untested(spec, primary):
            yield Problem(
                "analysis.primary.measure",
                Code.NOT_COMPUTED,
                f"{primary.measure} has no test where every condition has one training run; name "
                "more seeds, or another measure",
            )
    yield from _check_place(spec, primary)


def _not_compared(spec: Experiment, primary: Primary) -> str | None:
    kinds = {condition.name: condition.kind for condition in spec.conditions}
    em = [name for name, kind in kinds.items() if kind == "em"]
    against = kinds[primary.against]
    if primary.condition is None:
        if len(em) < 2:
            return "there are no several EM conditions to take the mean of; name the condition"
        return None if against == "benign" else "the EM conditions' mean goes with benign alone"
    if primary.condition == primary.against:
        return "a condition is not compared with itself"
    kind = kinds[primary.condition]
    if kind == "base" or (kind == "benign" and against != "base"):
        return f"{primary.against} less {primary.condition} is the way round that is computed"
    return None


def _untested(spec: Experiment, primary: Primary) -> bool:
    """M3 shares its classifiers over all questions: without several runs it has no p."""
    return primary.measure in ("nearest_centroid", "lda") and all(
        len(spec.seeds_of(condition)) == 1 for condition in spec.conditions if condition.dataset
    )


def _check_place(spec: Experiment, primary: Primary) -> Iterator[Problem]:
    where, layers = "analysis.primary", spec.extraction.layers
    if primary.measure == "bystander":
        given = [name for name in ("layer", "method") if getattr(primary, name) is not None]
        if given:
            text = "leakage is counted in answers and has none: leave it out"
            if len(given) > 1:
                text = "leakage is counted in answers and has none, nor a method: leave both out"
            yield Problem(f"{where}.{given[0]}", Code.NOT_COMPUTED, text)
        return
    if primary.layer is not None and layers != "all" and primary.layer not in layers:
        text = f"{primary.layer} is not extracted"
        yield Problem(f"{where}.layer", Code.LAYER_NOT_EXTRACTED, text)
    if primary.method is not None and primary.method not in spec.extraction.methods:
        text = f"{primary.method!r} is not extracted"
        yield Problem(f"{where}.method", Code.METHOD_NOT_EXTRACTED, text)
