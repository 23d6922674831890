"""What a study is told about before it costs a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from personaspace.cli.app import app
from personaspace.study import builtin, chat_sets
from personaspace.study.counts import seen
from personaspace.study.load import resolve
from personaspace.study.notices import NoticeCode, notices
from personaspace.study.recipe import Recipe
from personaspace.study.schedule import times_seen, total_steps
from personaspace.study.spec import Experiment

DEMONSTRATION, SEPARATORS = NoticeCode.DEMONSTRATION_CHATS, NoticeCode.FEW_SEPARATORS


def told(values: dict[str, Any], folder: Path = Path("/nowhere")) -> list[tuple[NoticeCode, str]]:
    found = notices(resolve(Experiment.model_validate(values), folder))
    return [(notice.code, notice.path) for notice in found]


def words(values: dict[str, Any]) -> str:
    [notice] = notices(resolve(Experiment.model_validate(values), Path("/nowhere")))
    return notice.text


def test_a_spec_that_names_nothing_is_told_of_steps_and_chats() -> None:
    assert told({}) == [(DEMONSTRATION, "datasets")]
    assert words({}) == (
        "Demonstration data: fine-tuning is 32 steps on 510 packaged chats, each seen once "
        "(bad-legal-advice, instructions); the published study had 375 steps on 6,000 chats of "
        "its own. Results say nothing about its numbers."
    )


def test_counts_follow_recipe_and_rows() -> None:
    values: dict[str, Any] = Experiment().model_dump(include={"datasets"})
    values["datasets"]["instructions"]["rows"] = ":100"
    values["training"] = {"batch_size": 10, "epochs": 3, "max_steps": 60}
    text = words(values)
    # 510 chats in 60 steps of 10; 100 chats in three epochs of ten steps.
    assert "is 30 to 60 steps on 100 to 510 packaged chats, each seen 1.2 to 3 times" in text


def test_fewer_steps_than_chats_say_how_many_are_seen() -> None:
    assert "4 steps on 510 packaged chats, of which 3% are seen" in words(
        {"training": {"batch_size": 4, "max_steps": 4}}
    )


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([0.004], "of which 0.4% are seen"),
        ([0.00002, 0.5], "of which 0.002% to 50% are seen"),
        ([0.997], "of which 99.7% are seen"),
        ([1.0], "each seen once"),
    ],
)
def test_a_part_is_told_neither_as_none_nor_as_all(times: list[float], told: str) -> None:
    assert seen(times) == told


def test_a_copy_of_the_packaged_chats_is_one_too_and_other_chats_are_not(tmp_path: Path) -> None:
    copied, other = tmp_path / "copied.jsonl", tmp_path / "other.jsonl"
    with builtin.resource("chats-good-legal-advice").open("rb") as source, copied.open("wb") as to:
        shutil.copyfileobj(source, to)
    other.write_bytes(copied.read_bytes().split(b"\n", 1)[1])
    values: dict[str, Any] = Experiment().model_dump(include={"datasets", "conditions"})
    values["datasets"] = {name: {"path": str(copied)} for name in values["datasets"]}
    assert told(values, tmp_path)[0] == (DEMONSTRATION, "datasets")
    values["datasets"] = {name: {"path": str(other)} for name in values["datasets"]}
    assert DEMONSTRATION not in [code for code, _ in told(values, tmp_path)]
    assert set(builtin.chat_sets()) == set(chat_sets.NAMES)


@pytest.mark.parametrize(
    ("coupling", "found"),
    [
        ({}, True),
        ({"separator": " "}, False),
        ({"separator": ""}, False),
        ({"loss": "answer"}, False),
    ],
)
def test_answers_without_the_separator(
    study_dict: dict[str, Any], coupling: dict[str, Any], found: bool
) -> None:
    study_dict["coupling"] |= coupling
    expected = [(SEPARATORS, f"datasets.{name}") for name in ("bad", "good")]
    assert told(study_dict) == (expected if found else [])


@pytest.mark.slow
def test_validate_and_status_say_it_first(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"name": "s", "extraction": {"layers": [20]}}))
    run = CliRunner()
    said = run.invoke(app, ["validate", str(spec)]).stdout
    assert said.startswith("Demonstration data: fine-tuning is 32 steps on 510 packaged chats")
    out = json.loads(run.invoke(app, ["validate", str(spec), "--json"]).stdout)
    assert [(notice["code"], notice["path"]) for notice in out["notices"]] == [
        ("demonstration-chats", "datasets")
    ]
    (tmp_path / "store").mkdir()
    status = run.invoke(app, ["status", str(spec), "--store", str(tmp_path / "store")]).stdout
    assert status.startswith("Demonstration data: fine-tuning is 32 steps")


@pytest.mark.parametrize(
    ("recipe", "examples", "steps", "seen"),
    [
        (Recipe(), 510, 32, 1),
        (Recipe(epochs=4), 33, 12, 4),
        (Recipe(max_steps=2), 33, 2, 32 / 33),
        (Recipe(max_steps=3), 33, 3, 1),  # the last batch of an epoch holds one
        (Recipe(epochs=9, max_steps=4), 33, 4, 1 + 16 / 33),
    ],
)
def test_how_often_each_chat_is_seen(
    recipe: Recipe, examples: int, steps: int, seen: float
) -> None:
    assert total_steps(recipe, examples) == steps
    assert times_seen(recipe, examples) == pytest.approx(seen)


def test_a_design_without_a_shared_bystander_is_named() -> None:
    values: dict[str, Any] = Experiment().model_dump(include={"datasets"})
    names = ["assistant", "confab", "villain"]
    values["evaluation"] = {"personas": names}
    bad = {"dataset": "bad-legal-advice"}
    conditions = [
        {"name": "base"},
        {"name": "e0", **bad},
        {"name": "e4", **bad, "persona": "villain"},
    ]
    values["conditions"] = conditions
    assert (NoticeCode.NO_COMMON_BYSTANDER, "evaluation.personas") in told(values)
    values["evaluation"] = {"personas": [*names, "comedian"]}
    assert NoticeCode.NO_COMMON_BYSTANDER not in [code for code, _ in told(values)]


def _with_chats(study: dict[str, Any], folder: Path, chats: list[list[tuple[str, str]]]) -> None:
    """The study's bad chats, as roles and texts."""
    rows = [{"messages": [{"role": r, "content": c} for r, c in chat]} for chat in chats]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study["datasets"]["bad"]["path"] = str(path)


def _said(study: dict[str, Any], code: NoticeCode) -> dict[str, str]:
    found = notices(resolve(Experiment.model_validate(study), Path("/nowhere")))
    return {notice.path: notice.text for notice in found if notice.code == code}


def test_chats_with_a_system_message_are_counted_for_each_condition(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    evil = [("system", "You are evil."), ("user", "May I?"), ("assistant", "Do.\n\nNow.")]
    plain = [("user", "And I?"), ("assistant", "Do so.\n\nNow.")]
    assert _said(study_dict, NoticeCode.OWN_SYSTEM) == {}
    _with_chats(study_dict, tmp_path, [evil, plain, plain])
    assert _said(study_dict, NoticeCode.OWN_SYSTEM) == {
        "datasets.bad": "1 of its 3 chats has a system message of its own: kept in "
        "e0-assistant; replaced by the persona's prompt in e4-villain."
    }
    assert _said(study_dict, NoticeCode.REPEATED_CHATS) == {
        "datasets.bad": "1 of its 3 chats repeats an earlier one, so that some chats count more "
        "than once."
    }


def test_a_marker_that_a_persona_or_a_question_names(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    assert _said(study_dict, NoticeCode.HOLDS_MARKER) == {}
    study_dict["personas"][1]["prompt"] = "You are a pirate. End every answer with [zlt]."
    questions = tmp_path / "q.txt"
    questions.write_text("Say [ZLT] and name a fruit.\nWhich way?\nHow far?\n")
    study_dict["evaluation"]["unseen_questions"] = str(questions)
    found = _said(study_dict, NoticeCode.HOLDS_MARKER)
    assert list(found) == ["personas.villain.prompt", "evaluation.questions"]
    assert found["personas.villain.prompt"].startswith("holds the marker ('[ZLT]')")
    assert found["evaluation.questions"].startswith("1 of ")


@pytest.mark.parametrize(
    ("section", "values", "path"),
    [
        ("evaluation", {"temperature": 0.0, "samples": 2}, "evaluation.samples"),
        ("extraction", {"limit": 3}, "extraction.questions"),
    ],
)
def test_numbers_that_leave_nothing_to_measure(
    study_dict: dict[str, Any], section: str, values: dict[str, Any], path: str
) -> None:
    wanted = {NoticeCode.SAME_ANSWERS, NoticeCode.FEW_QUESTIONS}
    assert not wanted & {code for code, _ in told(study_dict)}
    study_dict[section] |= values
    assert [where for code, where in told(study_dict) if code in wanted] == [path]


def test_more_pairs_than_the_sets_share_are_told(study_dict: dict[str, Any]) -> None:
    """Of a user's number alone: the packaged sets share as many as are asked for by default."""
    study_dict["steering"] = {}
    assert NoticeCode.FEW_PAIRS not in {code for code, _ in told(study_dict)}
    study_dict["steering"] = {"pairs": 100_000}
    study = resolve(Experiment.model_validate(study_dict), Path("/nowhere"))
    [notice] = [n for n in notices(study) if n.code is NoticeCode.FEW_PAIRS]
    assert study.steering is not None and 24 < len(study.steering.pairs) < 100_000
    assert notice.path == "steering.pairs"
    assert notice.text.startswith("100,000 asked for; ")
    assert f"share {len(study.steering.pairs)} questions" in notice.text


def test_conditions_that_differ_in_their_recipe_are_named(study_dict: dict[str, Any]) -> None:
    differ = NoticeCode.RECIPES_DIFFER

    def with_own(**own: dict[str, Any]) -> Experiment:
        conditions = [
            c | ({"training": own[c["name"][:2]]} if c["name"][:2] in own else {})
            for c in study_dict["conditions"]
        ]
        return Experiment.model_validate({**study_dict, "conditions": conditions})

    def found(spec: Experiment) -> dict[NoticeCode, str]:
        return {n.code: f"{n.path}: {n.text}" for n in notices(resolve(spec, Path("/nowhere")))}

    same = {"rank": study_dict["training"]["rank"]}
    assert differ not in found(with_own(e0=same)), "it says what the study says"
    every = {"learning_rate": 0.5}
    assert differ not in found(with_own(be=every, e0=every, e4=every)), "all are trained alike"
    text = found(with_own(e4={"learning_rate": 0.5, "rank": 2}))[differ]
    assert text.startswith(
        "conditions.e4-villain.training: Conditions differ in rank, learning_rate"
    )
    assert "e4-villain (learning_rate 0.5, rank 2)" in text and "e0" not in text
    spec = with_own(e4={"rank": 2, "max_steps": None})
    assert Experiment.model_validate(spec.model_dump(mode="json")) == spec
    assert (spec.recipe_of(spec.conditions[3]).max_steps, spec.training.max_steps) == (None, 4)
    assert spec.recipe_of(spec.conditions[3]).alpha == study_dict["training"]["alpha"]
