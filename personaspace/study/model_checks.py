"""What a study asks of its model: a version, layers that there are, room for what is asked."""

from __future__ import annotations

from collections.abc import Iterator

from personaspace.errors import nearest
from personaspace.study import base_model
from personaspace.study.problems import Problem
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.recipe import Recipe
from personaspace.study.spec import Experiment


def recipes_of(spec: Experiment) -> Iterator[tuple[str, Recipe, frozenset[str]]]:
    """Where a recipe stands, the whole of it, and which of its fields are given there."""
    every = frozenset(Recipe.model_fields)
    yield "training", spec.training, every
    yield "coupling.recipe", spec.coupling.recipe, every
    for index, condition in enumerate(spec.conditions):
        if condition.training is not None:
            given = frozenset(condition.training.model_fields_set)
            yield f"conditions[{index}].training", spec.recipe_of(condition), given


def check_model(spec: Experiment) -> Iterator[Problem]:
    """What the model does not have, or cannot be told apart by."""
    try:
        yield from _check_version(spec)
        yield from _check_layers(spec)
        yield from _check_model_fits(spec)
    except base_model.ModelError as error:
        yield Problem(error.field, Code.MODEL, error.reason)


def _check_version(spec: Experiment) -> Iterator[Problem]:
    why = base_model.unpinned(spec.model)
    if why is not None:
        yield Problem("model.revision", Code.MODEL_UNPINNED, why)


def _check_layers(spec: Experiment) -> Iterator[Problem]:
    shape, headline = base_model.shape(spec.model), spec.analysis.layer
    not_extracted = Problem(
        "analysis.layer", Code.LAYER_NOT_EXTRACTED, f"{headline} is not extracted"
    )
    if spec.extraction.layers == "all":
        if headline is not None and shape is not None and headline >= shape.num_layers:
            yield not_extracted
        return
    if not spec.extraction.layers:
        yield Problem("extraction.layers", Code.NO_LAYERS, "name at least one layer")
    for index, layer in enumerate(spec.extraction.layers):
        where = f"extraction.layers[{index}]"
        if shape is not None and layer >= shape.num_layers:
            yield Problem(
                where,
                Code.LAYER_OUTSIDE_MODEL,
                f"{layer} is outside the model: {spec.model.name} has layers 0 to "
                f"{shape.num_layers - 1}",
            )
        if layer in spec.extraction.layers[:index]:
            yield Problem(where, Code.DUPLICATE, f"{layer} is listed twice")
    if headline is not None and headline not in spec.extraction.layers:
        yield not_extracted


def _check_model_fits(spec: Experiment) -> Iterator[Problem]:
    """What the model, where it is on this machine, cannot do."""
    modules, positions = base_model.modules(spec.model), base_model.positions(spec.model)
    shape = base_model.shape(spec.model)
    last_parts = {name.rpartition(".")[2] for name in modules}
    for section, recipe, given in recipes_of(spec):
        own = "targets" in given and recipe.targets != "auto"
        for index, target in enumerate(recipe.targets if own else []):
            if modules and not any(f".{name}".endswith(f".{target}") for name in modules):
                yield Problem(
                    f"{section}.targets[{index}]",
                    Code.UNKNOWN_MODULE,
                    f"the model has no module {target!r}",
                    nearest(target, last_parts),
                )
        if shape is not None and "rank" in given and recipe.rank > shape.hidden_size:
            yield Problem(
                f"{section}.rank",
                Code.RANK_TOO_HIGH,
                f"{recipe.rank} is more than the model's width ({shape.hidden_size})",
            )
    for section, count in (
        ("extraction", spec.extraction.max_new_tokens),
        ("coupling", spec.coupling.max_new_tokens),
        ("evaluation", spec.evaluation.max_new_tokens),
    ):
        if positions is not None and count >= positions:
            yield Problem(
                f"{section}.max_new_tokens",
                Code.TOO_MANY_TOKENS,
                f"{count} tokens and a prompt do not fit the model's {positions} positions",
            )
