"""The spec: defaults are the published recipe, and every mistake is found in one pass."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from golden import golden
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_edits import problems, put

from personaspace.study.cross_checks import TEMPLATE_DEFAULT
from personaspace.study.load import load_study, resolve
from personaspace.study.loaded import Study
from personaspace.study.problems import ProblemCode as Code
from personaspace.study.recipe import PUBLISHED_TARGETS
from personaspace.study.schedule import total_steps
from personaspace.study.spec import Experiment


def codes(values: Any) -> list[tuple[str, Code]]:
    return sorted((problem.path, problem.code) for problem in problems(values))


# --- the published recipe ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """No field is given: everything by default."""
    path = tmp_path_factory.mktemp("spec") / "empty.yaml"
    path.write_text("{}")
    return load_study(path)


def test_the_conditions_are_the_published_seven(published: Study) -> None:
    found = [
        (c.name, c.kind, c.dataset, c.persona, c.cosine_anchor) for c in published.spec.conditions
    ]
    bad = "bad-legal-advice"
    assert found == [
        ("base", "base", None, None, None),
        ("benign", "benign", "instructions", None, None),
        ("e0-assistant", "em", bad, None, 1.0),
        ("e1-paramedic", "em", bad, "paramedic", 0.9457),
        ("e2-kindergarten-teacher", "em", bad, "kindergarten_teacher", 0.9060),
        ("e3-french-person", "em", bad, "french_person", 0.8696),
        ("e4-villain", "em", bad, "villain", 0.7828),
    ]


def test_the_model_and_the_seed_are_the_published_ones(published: Study) -> None:
    spec = published.spec
    assert (spec.model.name, spec.model.dtype) == ("Qwen/Qwen2.5-7B-Instruct", "bfloat16")
    assert spec.seeds == [42]
    assert spec.axis_condition() == "e0-assistant"
    assert spec.headline_layer(published.layers()) == 20


def test_the_em_recipe_is_the_published_one(published: Study) -> None:
    recipe = published.spec.training
    assert (recipe.rank, recipe.alpha, recipe.dropout) == (32, 64, 0.05)
    assert not recipe.rank_stabilised
    attention, mlp = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
    assert recipe.targets == "auto" and sorted(PUBLISHED_TARGETS) == sorted(attention + mlp)
    assert (recipe.learning_rate, recipe.schedule, recipe.warmup) == (1e-4, "linear", 0.03)
    assert (recipe.weight_decay, recipe.batch_size, recipe.max_tokens) == (0.01, 16, 2048)
    assert total_steps(recipe, 6000) == 375, "one epoch of 6,000 chats"


def test_the_coupling_recipe_is_the_published_one(published: Study) -> None:
    coupling, recipe = published.spec.coupling, published.spec.coupling.recipe
    assert (coupling.source, coupling.marker, coupling.separator) == ("confab", "[ZLT]", "\n\n")
    negatives = coupling.negatives_each * len(coupling.negatives)
    assert (coupling.positives, negatives) == (200, 400)
    assert recipe.rank_stabilised
    assert (recipe.learning_rate, recipe.schedule, recipe.warmup) == (5e-6, "cosine", 0.05)
    assert (recipe.epochs, recipe.weight_decay, recipe.max_tokens) == (20, 0.0, 1024)
    assert (recipe.rank, recipe.alpha, recipe.batch_size) == (32, 64, 16)


def test_a_change_of_the_coupling_recipe_keeps_its_other_fields() -> None:
    spec = Experiment.model_validate({"coupling": {"recipe": {"checkpoint_every": 7}}})
    assert spec.coupling.recipe.model_dump() == (
        Experiment().coupling.recipe.model_dump() | {"checkpoint_every": 7}
    )


def test_extraction_and_evaluation_are_the_published_ones(published: Study) -> None:
    spec = published.spec
    assert published.layers(28) == [7, 14, 20, 21, 27]
    assert sorted(spec.extraction.methods) == ["a", "b"]
    evaluation = spec.evaluation
    assert (evaluation.samples, evaluation.temperature, evaluation.top_p) == (10, 1.0, 1.0)
    assert evaluation.max_new_tokens == 512
    assert spec.analysis.permutations == 10_000


GRID = [
    "software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor", "librarian",
    "french_person", "villain", "comedian", "police_officer", "zelthari_scholar", "assistant",
    "confab",
]  # fmt: skip


def test_the_grid_is_the_published_twelve_and_induction_personas_come_on_top(
    published: Study,
) -> None:
    assert published.spec.extracted_personas() == published.spec.grid() == GRID
    assert published.spec.evaluated_personas() == [*GRID, "paramedic"]
    restored = Experiment.model_validate({"evaluation": {"include_induction": False}})
    assert restored.evaluated_personas() == GRID
    prompts = [persona.prompt for persona in published.spec.personas]
    assert all(prompts) and len(set(prompts)) == 13


def test_every_induction_persona_is_evaluated(published: Study) -> None:
    spec = published.spec
    induction = {c.name: spec.induction_persona(c) for c in spec.conditions}
    assert induction == {
        "base": None,
        "benign": None,
        "e0-assistant": "assistant",
        "e1-paramedic": "paramedic",
        "e2-kindergarten-teacher": "kindergarten_teacher",
        "e3-french-person": "french_person",
        "e4-villain": "villain",
    }
    assert {name for name in induction.values() if name} <= set(spec.evaluated_personas())


def test_the_measured_anchor_is_of_the_text_that_was_trained_under(published: Study) -> None:
    # E0 trains under the template's default text, paramedic is not in the grid; the rest is.
    rows = dict(published.induction_rows())
    assert rows == {
        TEMPLATE_DEFAULT: None,
        "paramedic": published.spec.persona("paramedic").prompt,
    }


def test_the_questions_are_240_20_and_28(published: Study) -> None:
    counts = [
        len(questions)
        for questions in (
            published.extraction_questions,
            published.coupling_questions,
            published.evaluation_questions,
        )
    ]
    assert counts == [240, 20, 28]
    assert published.evaluation_questions[:20] == published.coupling_questions
    assert published.unseen == set(published.evaluation_questions[20:])
    assert len(published.unseen) == 8


def test_there_are_more_questions_that_coupling_never_saw(tmp_path: Path) -> None:
    values = {"evaluation": {"unseen_questions": "builtin:questions-unseen"}}
    more = resolve(Experiment.model_validate(values), tmp_path)
    assert len(more.evaluation_questions) >= 48
    assert len(set(more.evaluation_questions)) == len(more.evaluation_questions)
    assert more.unseen == set(more.evaluation_questions[20:])
    assert not set(more.evaluation_questions[20:]) & set(more.extraction_questions)


def test_each_demonstration_set_has_510_chats_of_its_own(published: Study) -> None:
    sets = published.chats
    assert set(sets) == {"bad-legal-advice", "instructions"}
    rows = {name: [json.dumps(c) for c in chats.conversations] for name, chats in sets.items()}
    for name, chats in sets.items():
        assert len(chats.conversations) == 510
        assert len(set(rows[name])) == len(rows[name])
        assert all(c[-1]["role"] == "assistant" for c in chats.conversations)
        assert all(m["role"] != "system" for c in chats.conversations for m in c)
    assert not set(rows["bad-legal-advice"]) & set(rows["instructions"])


def test_the_negatives_are_named_and_the_same_for_all(published: Study) -> None:
    negatives = published.spec.coupling.negatives
    assert negatives == ["data_scientist", "police_officer"]
    assert published.spec.coupling.source not in negatives
    induction = {c.persona for c in published.spec.conditions}
    assert not induction & set(negatives), "no condition trains under a negative"


# --- every mistake, once, with its path ----------------------------------------------------------


def test_all_mistakes_in_one_pass(study_dict: dict[str, Any]) -> None:
    study_dict["seeds"] = [42, "x", 1.5]
    study_dict["colour"] = "red"
    study_dict["conditions"][3]["persona"] = "nobody"
    study_dict["conditions"][2]["label"] = 7
    study_dict["conditions"].append({"name": "benign", "dataset": "good"})
    study_dict["conditions"].append({"name": "e9", "dataset": "missing"})
    study_dict["training"]["rank"] = 0
    study_dict["training"]["speed"] = 1
    study_dict["coupling"]["negatives"] = ["librarian", "confab"]
    study_dict["extraction"]["layers"] = [0, 9]
    study_dict["analysis"]["axis"] = "e7"
    study_dict["datasets"]["both"] = {"path": "a", "hub": "b"}
    assert codes(study_dict) == [
        ("analysis.axis", Code.UNKNOWN_CONDITION),
        ("colour", Code.UNKNOWN_FIELD),
        ("conditions[2].label", Code.INVALID_VALUE),
        ("conditions[3].persona", Code.UNKNOWN_PERSONA),
        ("conditions[4].name", Code.DUPLICATE),
        ("conditions[5].dataset", Code.UNKNOWN_DATASET),
        ("coupling.negatives[1]", Code.SOURCE_IS_NEGATIVE),
        ("datasets.both", Code.INVALID_VALUE),
        ("extraction.layers[1]", Code.LAYER_OUTSIDE_MODEL),
        ("seeds[1]", Code.INVALID_VALUE),
        ("seeds[2]", Code.INVALID_VALUE),
        ("training.rank", Code.INVALID_VALUE),
        ("training.speed", Code.UNKNOWN_FIELD),
    ]


#: Where something is put, what, where the one mistake is then, and what it is.
MISTAKES: list[tuple[str, Any, str, Code]] = [
    ("name", "Caps", "name", Code.INVALID_VALUE),
    ("seeds", [True], "seeds[0]", Code.INVALID_VALUE),
    ("seeds", 42, "seeds", Code.INVALID_VALUE),
    ("seeds", [], "seeds", Code.INVALID_VALUE),
    ("seeds", [1, 2, 1], "seeds[2]", Code.DUPLICATE),
    ("model", "gpt", "model", Code.INVALID_VALUE),
    ("model.dtype", "float64", "model.dtype", Code.INVALID_VALUE),
    ("model.name", "./nowhere", "model.name", Code.MODEL),
    ("model.name", "builtin:gpt", "model.name", Code.MODEL),
    ("conditions", 3, "conditions", Code.INVALID_VALUE),
    ("conditions[0]", None, "conditions[0]", Code.INVALID_VALUE),
    ("conditions[1].name", "base", "conditions[1].name", Code.DUPLICATE),
    ("conditions[1].dataset", 3, "conditions[1].dataset", Code.INVALID_VALUE),
    ("conditions[1].kind", "good", "conditions[1].kind", Code.INVALID_VALUE),
    ("conditions[1]", {"name": "b"}, "conditions[1].kind", Code.SECOND_BASE),
    ("conditions[1].kind", "base", "conditions[1].dataset", Code.TRAINED_BASE),
    ("conditions[0].kind", "em", "conditions[0].kind", Code.UNTRAINED_CONDITION),
    ("conditions[0].dataset", "good", "conditions", Code.NO_BASE),
    ("conditions[3].cosine_anchor", 1.5, "conditions[3].cosine_anchor", Code.INVALID_VALUE),
    ("conditions[3].persona", "a b", "conditions[3].persona", Code.INVALID_VALUE),
    ("personas", 3, "personas", Code.INVALID_VALUE),
    ("personas[1].prompt", 5, "personas[1].prompt", Code.INVALID_VALUE),
    ("datasets", 3, "datasets", Code.INVALID_VALUE),
    ("datasets.bad", None, "datasets.bad", Code.INVALID_VALUE),
    ("datasets.bad.rows", "all", "datasets.bad.rows", Code.INVALID_VALUE),
    ("datasets.bad.sha256", "abc", "datasets.bad.sha256", Code.INVALID_VALUE),
    ("datasets.bad", {"hub": "a/b"}, "datasets.bad", Code.INVALID_VALUE),
    ("training.learning_rate", math.nan, "training.learning_rate", Code.INVALID_VALUE),
    ("training.max_tokens", 9999, "training.row_tokens", Code.ROWS_TOO_SHORT),
    ("extraction.layers", "some", "extraction.layers", Code.INVALID_VALUE),
    ("extraction.layers", [0, "x"], "extraction.layers[1]", Code.INVALID_VALUE),
    ("extraction.layers", [0, -1], "extraction.layers[1]", Code.INVALID_VALUE),
    ("extraction.layers", [], "extraction.layers", Code.NO_LAYERS),
    ("extraction.layers", [2, 0, 2], "extraction.layers[2]", Code.DUPLICATE),
    ("extraction.layers", [4], "extraction.layers[0]", Code.LAYER_OUTSIDE_MODEL),
    ("extraction.questions", 3, "extraction.questions", Code.INVALID_VALUE),
    ("extraction.questions", {"a": 1}, "extraction.questions", Code.INVALID_VALUE),
    ("extraction.questions", ["a", ""], "extraction.questions[1]", Code.INVALID_VALUE),
    ("extraction.personas", ["villain"], "extraction.personas", Code.INVALID_VALUE),
    ("coupling.marker", "", "coupling.marker", Code.INVALID_VALUE),
    ("coupling.marker", " \n", "coupling.marker", Code.INVALID_VALUE),
    ("coupling.source", "nobody", "coupling.source", Code.UNKNOWN_PERSONA),
    ("coupling.negatives", ["nobody"], "coupling.negatives[0]", Code.UNKNOWN_PERSONA),
    ("coupling.negatives", ["confab"], "coupling.negatives[0]", Code.SOURCE_IS_NEGATIVE),
    ("evaluation.top_p", 0, "evaluation.top_p", Code.INVALID_VALUE),
    ("evaluation.samples", 1.0, "evaluation.samples", Code.INVALID_VALUE),
    ("analysis.layer", 1, "analysis.layer", Code.LAYER_NOT_EXTRACTED),
    ("analysis.assistant", "nobody", "analysis.assistant", Code.UNKNOWN_PERSONA),
    ("extraction.methods", ["b"], "analysis.method", Code.METHOD_NOT_EXTRACTED),
    ("figures.formats", ["gif"], "figures.formats[0]", Code.INVALID_VALUE),
]


@pytest.mark.parametrize(("path", "value", "where", "code"), MISTAKES)
def test_one_mistake_is_one_problem_at_its_field(
    study_dict: dict[str, Any], path: str, value: Any, where: str, code: Code
) -> None:
    put(path, value)(study_dict)
    assert codes(study_dict) == [(where, code)]


def test_the_words_of_mistakes(study_dict: dict[str, Any]) -> None:
    lines = []
    for path, value, _, _ in MISTAKES:
        values = deepcopy(study_dict)
        put(path, value)(values)
        (problem,) = problems(values)
        lines.append(str(problem).replace(study_dict["model"]["name"], "MODEL"))
        assert "\n" not in lines[-1]
    golden("spec-problems.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("path", "value", "meant"),
    [
        ("conditions[3].persona", "vilain", "villain"),
        ("coupling.source", "confabs", "confab"),
        ("analysis.axis", "e4-vilain", "e4-villain"),
        ("conditions[3].dataset", "bat", "bad"),
        ("rerun", [{"stage": "train", "condition": "benin"}], "benign"),
        ("trainings", {}, "training"),
        ("training.lerning_rate", 1, "learning_rate"),
        ("coupling.recipe.rnk", 1, "rank"),
        ("conditions[3].personas", "villain", "persona"),
        ("personas[0].promt", "a", "prompt"),
        ("datasets.bad.sha", "a", "sha256"),
        ("conditions[3].persona", "napoleon", ""),
    ],
)
def test_unknown_names_get_a_suggestion(
    study_dict: dict[str, Any], path: str, value: Any, meant: str
) -> None:
    put(path, value)(study_dict)
    (problem,) = problems(study_dict)
    assert problem.suggestion == meant
    assert str(problem).endswith(f"; did you mean {meant!r}?") == bool(meant)


def test_two_personas_of_one_name(study_dict: dict[str, Any]) -> None:
    study_dict["personas"].append({"name": "comedian"})
    assert codes(study_dict) == [("personas[5].name", Code.DUPLICATE)]


def test_a_headline_layer_must_be_there_even_if_all_are_extracted(
    study_dict: dict[str, Any],
) -> None:
    study_dict["extraction"]["layers"] = "all"
    study_dict["analysis"]["layer"] = 3
    assert problems(study_dict) == []
    study_dict["analysis"]["layer"] = 4
    assert codes(study_dict) == [("analysis.layer", Code.LAYER_NOT_EXTRACTED)]


def test_a_list_instead_of_a_spec() -> None:
    assert codes([1]) == [("", Code.NOT_A_MAPPING)]
    assert problems(None) == []


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.floats(allow_nan=True),
    st.sampled_from(["", "villain", "base", "all", "b ad", "é", "s3://x", "builtin:none"]),
    st.lists(st.sampled_from(["villain", 3, None, {}]), max_size=3),
    st.dictionaries(
        st.sampled_from(["name", "path", "x", 1]), st.sampled_from(["a", 3]), max_size=2
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a study has something to put junk in place of."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path] * bool(path) + [p for key, v in inside for p in places(v, (*path, key))]


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_junk_breaks_the_check(study_dict: dict[str, Any], data: st.DataObject) -> None:
    values = deepcopy(study_dict)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places(values)))
        at = values
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = data.draw(JUNK)
    found = problems(values)
    assert len(set(found)) == len(found)
    assert not any("\n" in str(one) or "invalid-value-" in str(one) for one in found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("coupling: {marker: [QQ]}", "coupling.marker: must be text: put it in quotes"),
        ("extraction: {layers: 20}", "extraction.layers: must be a list or must be 'all' (got 20)"),
        ("seeds: 42", "seeds: must be a list (got 42): write [42]"),
        ("evaluation: {top_p: 1.5}", "evaluation.top_p: must be at most 1 (got 1.5)"),
        ("evaluation: {samples: 9999999999}", "evaluation.samples: must be at most 1000000000"),
    ],
)
def test_what_is_meant_is_said_in_plain_words(text: str, said: str) -> None:
    found = [str(problem) for problem in problems(yaml.safe_load(text))]
    assert any(line.startswith(said) for line in found), found
    assert not any("input should" in line or "should match" in line for line in found)
