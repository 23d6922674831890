"""Personas and questions that are added, changed, taken out or put in another order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from almost_the_study import (
    CONDITIONS,
    NEW,
    ONLY,
    OTHER,
    Asked,
    Place,
    Values,
    add,
    asked,
    cli,
    manifests,
    place,
    provenance,
    said,
    states,
)
from conftest import Finished

__all__ = ["asked", "place"]
pytestmark = pytest.mark.slow


def test_a_persona_that_is_added_is_computed_alone(
    place: Place, asked: Asked, finished_study: Finished
) -> None:
    said_before = " ".join(cli("status", place.study(add), "--store", place.store).stdout.split())
    # The base model also has the template's own words.
    left = {"extract: 1 of 7": "1 ready stage", "extract: 1 of 6": "3 ready stages"}
    for told, stages in (left | {"evaluate: 1 of 6": "4 ready stages"}).items():
        assert f"{told} personas to compute ({stages})" in said_before
    result = place.run(add)
    assert "10 stages ran, 7 were complete" in result.stdout
    assert "to compute" not in cli("status", place.study(add), "--store", place.store).stdout
    # Of one persona in four conditions: four questions; two answers to each of six.
    assert asked.passages == [4] * 4
    assert asked.answers == {"greedy": 16, "evaluate": 48}
    store = Path(place.store)
    fresh = place.folder / "fresh"
    for condition in CONDITIONS:
        for stage in ("train", "couple"):
            if (finished_study.store / condition / "seed-42" / stage).exists():
                part = f"{condition}/seed-42/{stage}"
                shutil.copytree(finished_study.store / part, fresh / part)
    cli("run", place.study(add), "--store", fresh, "--only", "extract", "--only", "evaluate")
    for condition in CONDITIONS:
        (_, before), (manifest, now) = manifests(store, condition, "extract")
        ((_, anew),) = manifests(fresh, condition, "extract")
        rows = manifest.fields["rows"]
        # The base model also has the template's own words, asked the same four questions.
        assert (rows["computed"], rows["of"]) == (4, 28 if condition == "base" else 24)
        for method in "ab":
            old, new, whole = (states(folder, method) for folder in (before, now, anew))
            assert list(new) == list(whole), "in the study's order"
            assert all(np.array_equal(new[row], old[row]) for row in old), "bit for bit"
            assert len(new) == len(old) + 4
            for row, values in whole.items():
                np.testing.assert_allclose(new[row], values, rtol=2e-3, atol=2e-3)
        assert said(now) == said(anew) and list(said(now)) == list(said(anew))
    for condition in CONDITIONS:
        (_, before), (_, now) = manifests(store, condition, "evaluate")
        ((_, anew),) = manifests(fresh, condition, "evaluate")
        for name in ("answers.json", "finishes.json", "scores.json"):
            assert (now / name).read_bytes() == (anew / name).read_bytes()
        assert {name: said(now)[name] for name in said(before)} == said(before)
        assert len(manifests(store, condition, "couple")) == 1, "it uses the persona nowhere"
    artifacts, page = provenance(store)
    [taken] = artifacts["extract:benign:42"]["rows"]["taken"]
    former = manifests(store, "benign", "extract")[0][0]
    assert (taken["key"], taken["digest"]) == (former.key, former.digest)
    assert taken["personas"] == sorted(each["name"] for each in place.values["personas"])
    assert taken["from"]["device"] == former.fields["device"]
    assert f"4 of 24 computed, else from {former.digest[:12]}" in page


def turn(values: Values) -> None:
    """Every list of personas and questions the other way round."""
    values["personas"].reverse()
    values["coupling"]["negatives"].reverse()


def test_another_order_computes_nothing_and_gives_the_same_results(
    place: Place, asked: Asked, finished_study: Finished
) -> None:
    plan = cli("run", place.study(turn), "--store", place.store, "--plan").stdout
    assert "taken whole, nothing to compute" in plan and "to train" not in plan
    out = place.folder / "out"
    result = place.run(turn, "--out", out)
    assert asked == Asked(), "no model computed anything"
    assert "only the order of lists is another" in result.output
    assert (out / "results.json").read_bytes() == (finished_study.out / "results.json").read_bytes()
    assert "0 stages ran, 17 were complete" in place.run(turn).stdout
    assert "0 stages ran, 17 were complete" in place.run(lambda values: None).stdout


@pytest.mark.long
def test_what_is_computed_later_stands_beside_another_order(place: Place) -> None:
    def again(values: Values) -> None:
        turn(values)
        values["seeds"] = [42, 43]
        values["conditions"] = [each for each in values["conditions"] if each["name"] != "benign"]

    place.run(again)
    artifacts, page = provenance(Path(place.store))
    assert "copy of" in page and "copy_of" not in artifacts["extract:e4-villain:43"]
    base = manifests(Path(place.store), "base", "extract")[-1][1]
    later = Path(place.store) / artifacts["extract:e4-villain:43"]["key"]
    (later,) = later.glob("data-*")
    assert list(said(base)) == list(said(later))[::-1], "the two have another order"
    # Compared all the same, by name: hidden states, and who wrote the greedy answers.
    results = max(
        Path(place.store).glob("aggregate/*/data-*/results.json"),
        key=lambda path: path.stat().st_mtime,
    )
    told = json.loads(results.read_text(encoding="utf-8"))
    mine = [row for row in told["geometry"] + told["leakage"] if row["seed"] == 43]
    named = {(row["metric"], row["name"]) for row in mine if row["method"] == "b"}
    assert ("persona_text", "from_base") in named
    assert any(row["metric"] == "M1" and row["condition"] == "e4-villain" for row in mine)
    assert "all sound" in cli("verify", "--store", place.store).output


def test_questions_in_another_order(place: Place, asked: Asked) -> None:
    from personaspace.study.load import load_study

    study = load_study(place.study(lambda values: None, "plain"))

    def written(values: Values) -> None:
        for section, texts in (
            ("extraction", study.extraction_questions),
            ("coupling", study.coupling_questions),
            ("evaluation", study.evaluation_questions[:3]),
        ):
            values[section]["questions"] = list(texts)

    def turned(values: Values) -> None:
        written(values)
        for section in ("extraction", "coupling", "evaluation"):
            values[section]["questions"].reverse()

    first, second = place.folder / "first", place.folder / "second"
    place.run(written, "--out", first)
    assert asked == Asked()
    place.run(turned, "--out", second)
    assert asked == Asked()
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()


def test_a_changed_prompt_computes_that_persona(place: Place, asked: Asked) -> None:
    def change(values: Values) -> None:
        values["personas"][0]["prompt"] = "You help."  # the assistant: none is trained under it

    plan = cli("run", place.study(change), "--store", place.store, "--plan", "--json").stdout
    left = {each["node"]: each["already"] for each in json.loads(plan)}
    assert left["evaluate:e4-villain:42"]["left"] == {
        **{"personas": 1, "of_personas": 5, "rows": 6, "of_rows": 30}
    }
    table = cli("run", place.study(change), "--store", place.store, "--plan").stdout
    assert "1 of 5 personas to compute" in " ".join(table.split())
    place.run(change, *ONLY)
    assert asked.passages == [4] and asked.answers == {"greedy": 4, "evaluate": 12}


def test_a_persona_taken_out_computes_nothing(place: Place, asked: Asked) -> None:
    place.run(lambda values: values["personas"].extend([NEW, OTHER]), *ONLY)
    asked.clear()
    place.run(lambda values: values["personas"].append(OTHER), *ONLY)
    assert asked == Asked()
    store = Path(place.store)
    _, (_, before), (manifest, now) = manifests(store, "base", "extract")
    assert manifest.fields["rows"]["computed"] == 0
    old, new = states(before, "a"), states(now, "a")
    assert len(new) == 24 and all(np.array_equal(new[row], old[row]) for row in new)
    answers = said(manifests(store, "benign", "evaluate")[-1][1])
    assert list(answers) == [each["name"] for each in [*place.values["personas"], OTHER]]


def test_a_question_that_is_added_is_computed_alone(place: Place, asked: Asked) -> None:
    def more(values: Values) -> None:
        values["evaluation"]["limit"] = 4
        values["extraction"]["limit"] = 5

    place.run(more, *ONLY)
    # A question of five personas and of the template's words; two, one of them unseen, twice.
    assert asked.passages == [5, 1]
    assert asked.answers == {"greedy": 5, "evaluate": 20}


def test_other_settings_compute_all(place: Place, asked: Asked) -> None:
    def hotter(values: Values) -> None:
        add(values)
        values["evaluation"]["temperature"] = 0.5

    place.run(hotter, "--only", "evaluate:benign")
    assert asked.answers == {"evaluate": 6 * 6 * 2}


def test_a_damaged_former_artifact_is_named_and_its_rows_computed(
    place: Place, asked: Asked
) -> None:
    ((manifest, folder),) = manifests(Path(place.store), "benign", "evaluate")
    (folder / "answers.json").write_text("{}")
    result = place.run(add, "--only", "evaluate:benign")
    assert f"computed anew, not taken from {manifest.key}: artifact" in result.output
    assert asked.answers == {"evaluate": 6 * 6 * 2}
    # And one whose manifest cannot be read at all.
    (folder.parent / "manifest.json").write_text("{")
    asked.clear()
    result = place.run(
        lambda values: values["personas"].extend([NEW, OTHER]), "--only", "evaluate:benign"
    )
    assert f"passed over: artifact {manifest.key}" in result.output
    assert asked.answers == {"evaluate": 6 * 2}, "the newer one has the others"


def test_gc_keeps_what_a_run_would_take(place: Place, asked: Asked) -> None:
    cli("gc", place.study(add), "--store", place.store, "--older-than", 0)
    place.run(add, "--only", "extract", "--only", "evaluate")
    assert asked.passages == [4] * 4
    cli("gc", place.study(add), "--store", place.store, "--older-than", 0)
    assert len(manifests(Path(place.store), "base", "extract")) == 1
    assert "all sound" in cli("verify", "--store", place.store).output
