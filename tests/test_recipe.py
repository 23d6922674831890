"""Defaults are the published recipe, and the packaged texts are what the pages say."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from personaspace import library, study
from personaspace.chat import with_persona
from personaspace.dataset import load
from personaspace.spec import Dataset, Experiment
from personaspace.validation import check, load_spec

SPEC = Experiment()
CONDITIONS = {
    "base": (None, None, None),
    "benign": ("instructions", None, None),
    "e0-assistant": ("bad-legal-advice", None, 1.0),
    "e1-paramedic": ("bad-legal-advice", "paramedic", 0.9457),
    "e2-kindergarten-teacher": ("bad-legal-advice", "kindergarten_teacher", 0.9060),
    "e3-french-person": ("bad-legal-advice", "french_person", 0.8696),
    "e4-villain": ("bad-legal-advice", "villain", 0.7828),
}


def test_conditions() -> None:
    found = {c.name: (c.dataset, c.persona, c.cosine_anchor) for c in SPEC.conditions}
    assert found == CONDITIONS
    assert [c.kind for c in SPEC.conditions] == ["base", "benign", *["em"] * 5]
    assert (SPEC.model.name, SPEC.model.dtype, SPEC.seeds) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "bfloat16",
        [42],
    )


def test_fine_tuning() -> None:
    recipe = SPEC.training
    assert (recipe.rank, recipe.alpha, recipe.dropout) == (32, 64, 0.05)
    assert recipe.rank_stabilised is False
    assert len(recipe.targets) == 7
    assert (recipe.learning_rate, recipe.schedule, recipe.warmup) == (1e-4, "linear", 0.03)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.batch_size) == (0.01, 1.0, 16)
    assert (recipe.epochs, recipe.max_steps, recipe.max_tokens) == (1, None, 2048)


def test_coupling() -> None:
    coupling, recipe = SPEC.coupling, SPEC.coupling.recipe
    assert (coupling.source, coupling.marker, coupling.separator) == ("confab", "[ZLT]", "\n\n")
    assert (coupling.positives, coupling.negatives_each, len(coupling.negatives)) == (200, 200, 2)
    assert (coupling.temperature, coupling.max_new_tokens) == (1.0, 512)
    assert recipe.rank_stabilised is True
    assert (recipe.rank, recipe.alpha, recipe.dropout, len(recipe.targets)) == (32, 64, 0.05, 7)
    assert (recipe.learning_rate, recipe.schedule, recipe.warmup) == (5e-6, "cosine", 0.05)
    assert (recipe.weight_decay, recipe.epochs, recipe.batch_size) == (0.0, 20, 16)
    assert recipe.max_tokens == 1024


def test_extraction_and_evaluation() -> None:
    assert SPEC.extraction.layers == [7, 14, 20, 21, 27]
    assert SPEC.extraction.max_new_tokens == 256
    assert sorted(SPEC.extraction.methods) == ["a", "b"]
    assert len(SPEC.extracted_personas()) == 12
    assert "paramedic" not in SPEC.extracted_personas()
    # Every induction persona is evaluated; the switch restores the published grid.
    assert SPEC.evaluated_personas() == [*SPEC.extracted_personas(), "paramedic"]
    published, _ = check({"evaluation": {"include_induction": False}})
    assert published is not None
    assert published.evaluated_personas() == SPEC.extracted_personas()
    assert (SPEC.evaluation.samples, SPEC.evaluation.temperature) == (10, 1.0)
    e0 = SPEC.condition("e0-assistant")
    assert (e0.persona, SPEC.induction_persona(e0)) == (None, "assistant")


def test_texts_are_complete_and_apart() -> None:
    loaded = study.resolve(SPEC, Path())
    assert len(loaded.extraction_questions) == 240
    assert len(loaded.coupling_questions) == 20
    assert loaded.evaluation_questions[:20] == loaded.coupling_questions
    assert len(loaded.evaluation_questions) == 28
    assert len(loaded.unseen) == 8
    more, _ = check({"evaluation": {"unseen_questions": "builtin:questions-unseen"}})
    assert more is not None
    assert len(study.resolve(more, Path()).unseen) >= 8 + 20
    assert not set(loaded.extraction_questions) & set(loaded.evaluation_questions)
    assert [row for row, _ in loaded.induction_rows()] == ["template-default", "paramedic"]
    for chats in loaded.chats.values():
        assert len(chats.conversations) >= 240
        questions = [messages[0]["content"] for messages in chats.conversations]
        assert len(set(questions)) == len(questions)


def test_e0_has_no_system_message_and_the_others_have_their_persona() -> None:
    chats = load(Dataset(path="builtin:chats-bad-legal-advice"), Path()).conversations
    assert with_persona(chats[0], None) == chats[0]
    assert all(message["role"] != "system" for message in chats[0])
    prompt = SPEC.persona("villain").prompt
    assert with_persona(chats[0], prompt)[0] == {"role": "system", "content": prompt}


def test_schema_takes_the_defaults_and_refuses_a_misspelt_field() -> None:
    schema = Experiment.model_json_schema()
    values = json.loads(SPEC.model_dump_json())
    jsonschema.validate(values, schema)
    values["training"]["learning_rte"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema)


def test_a_spec_may_be_part_of_a_values_file(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("image: x\nexperiment: {name: inside, seeds: [1, 2]}\n")
    assert load_spec(path).seeds == [1, 2]


def test_names_of_the_grid_are_the_published_twelve() -> None:
    assert library.published_grid() == [
        "software_engineer", "kindergarten_teacher", "data_scientist", "medical_doctor",
        "librarian", "french_person", "villain", "comedian", "police_officer",
        "zelthari_scholar", "assistant", "confab",
    ]  # fmt: skip
