"""Rows of former artifacts: in a bucket, by two runs at once, after a stop, never of two kinds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from almost_the_study import (
    NEW,
    ONLY,
    Asked,
    Place,
    Values,
    add,
    asked,
    cli,
    manifests,
    place,
    said,
    states,
)
from seaweed import SeaweedS3
from store_places import use

from personaspace import interrupt
from personaspace.activations.files import open_activations, write_activations
from personaspace.analysis.divergence import Divergences
from personaspace.analysis.geometry import analyse_geometry
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.pipeline.rows import Left, Row
from personaspace.pipeline.upkeep import Reachable
from personaspace.pipeline.work import prepare
from personaspace.store import open_store
from personaspace.study.load import load_study

__all__ = ["asked", "place"]
pytestmark = pytest.mark.slow


def test_in_a_bucket(
    place: Place, asked: Asked, s3_server: SeaweedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(s3_server.environment, monkeypatch)
    url = s3_server.url("rows-taken")
    plain = place.study(lambda values: None, "plain")
    cli("run", plain, "--store", url, "--substitute", place.store, "--with-inputs", *ONLY)
    assert asked == Asked(), "all was brought from the folder"
    bucket = replace(place, store=url)
    bucket.run(add, *ONLY)
    assert asked.passages == [4] and asked.answers == {"greedy": 4, "evaluate": 12}
    asked.clear()
    bucket.run(lambda values: values["personas"].reverse(), *ONLY)
    assert asked == Asked()
    assert "all sound" in cli("verify", "--store", url).output


def test_a_run_that_is_stopped_takes_the_rows_again(
    place: Place, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = TransformersEngine.generate

    def stopped(*given: Any, **named: Any) -> Any:
        interrupt.ask()
        return generate(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "generate", stopped)
        cli("run", place.study(add), "--store", place.store, *ONLY, code=75)
    interrupt.reset()
    asked.clear()
    place.run(add, *ONLY)
    assert asked.passages == [4] and asked.answers == {"greedy": 4, "evaluate": 12}


def test_two_runs_at_once_leave_one_artifact(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other completes it while this one draws: one of them holds, and nothing is broken."""
    generate, between = TransformersEngine.generate, threading.Event()

    def overtaken(*given: Any, **named: Any) -> Any:
        if not between.is_set():
            between.set()
            place.run(add, "--only", "evaluate:benign")
        return generate(*given, **named)

    monkeypatch.setattr(TransformersEngine, "generate", overtaken)
    place.run(add, "--only", "evaluate:benign")
    assert between.is_set() and len(manifests(Path(place.store), "benign", "evaluate")) == 2
    assert "all sound" in cli("verify", "--store", place.store).output


def _edit(store: Path, condition: str, stage: str, **fields: Any) -> None:
    """Change what a manifest says, as an earlier version or another machine would have it."""
    ((manifest, folder),) = manifests(store, condition, stage)
    changed = {k: v for k, v in {**manifest.fields, **fields}.items() if v is not None}
    other = manifest.model_copy(update={"fields": changed}).sealed()
    (folder.parent / "manifest.json").write_bytes(other.to_bytes())


@pytest.mark.parametrize(
    ("stage", "fields", "why"),
    [
        ("evaluate", {"engine": "vllm"}, "its answers are of vllm, not of transformers"),
        ("extract", {"implementation": "fused"}, "computed by reference here"),
        ("evaluate", {"prompts": {"personas_in": "elsewhere"}}, "in another form now"),
    ],
    ids=["engine", "implementation", "form"],
)
def test_no_artifact_is_of_two_kinds(
    place: Place, asked: Asked, stage: str, fields: dict[str, Any], why: str
) -> None:
    _edit(Path(place.store), "benign", stage, **fields)
    result = place.run(add, "--only", f"{stage}:benign")
    assert why in " ".join(result.output.split())
    manifest = manifests(Path(place.store), "benign", stage)[-1][0]
    assert "rows" not in manifest.fields
    assert manifest.fields.get("engine") == "transformers"
    if stage == "evaluate":
        assert asked.answers == {"evaluate": 6 * 6 * 2}
    else:
        assert asked.passages == [4, 24] and manifest.fields["implementation"] == "reference"


def test_an_artifact_of_before_questions_were_recorded_serves_too(
    place: Place, asked: Asked
) -> None:
    _edit(Path(place.store), "benign", "evaluate", asked=None, unordered=None)
    place.run(add, "--only", "evaluate:benign")
    assert asked.answers == {"evaluate": 12}


@pytest.mark.parametrize("change", ["rerun", "adapter", "version"])
def test_what_decides_all_rows_takes_none(
    place: Place, asked: Asked, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def edit(values: Values) -> None:
        if change == "rerun":
            values["rerun"] = [{"stage": "evaluate", "nonce": "again"}]
        elif change == "adapter":
            values["coupling"]["recipe"]["learning_rate"] = 0.002
        else:
            add(values)

    if change == "version":
        from personaspace.pipeline.stages import STAGES

        newer = replace(STAGES["evaluate"], version=STAGES["evaluate"].version + 1)
        monkeypatch.setitem(STAGES, "evaluate", newer)
    only = ("--only", "couple:benign", "--only", "evaluate:benign")
    place.run(edit, *only)
    personas = 6 if change == "version" else 5
    assert asked.answers["evaluate"] == personas * 6 * 2


def test_wordings_are_taken_with_their_persona(place: Place, asked: Asked) -> None:
    def twice(persona: Values) -> Values:
        texts = [persona["prompt"], f"Speak as the {persona['name']}."]
        return {"name": persona["name"], "prompts": texts}

    def several(values: Values) -> None:
        values["personas"][0] = twice(values["personas"][0])

    def more(values: Values) -> None:
        several(values)
        values["personas"].append(twice(NEW))

    place.run(several, *ONLY)
    asked.clear()
    place.run(more, *ONLY)
    # The new persona alone, in two wordings that share its answers.
    assert asked.passages == [8] and asked.answers == {"greedy": 8, "evaluate": 12}
    (*_, (_, before), (_, now)) = manifests(Path(place.store), "base", "extract")
    for method in ("a.wordings", "b.wordings", "a", "b"):
        old, new = states(before, method), states(now, method)
        assert len(new) > len(old) and all(np.array_equal(new[row], old[row]) for row in old)
    (*_, (_, before), (_, now)) = manifests(Path(place.store), "benign", "evaluate")
    for name in ("answers.json", "wordings.json", "finishes.json"):
        assert {persona: said(now, name)[persona] for persona in said(before, name)} == said(
            before, name
        )


def test_what_gc_keeps_is_what_would_be_taken(place: Place) -> None:
    with open_store(place.store) as store:

        def kept(edit: Callable[[Values], object]) -> set[str]:
            """Stages whose artifact, of another fingerprint now, is not for the bin."""
            work = prepare(load_study(place.study(edit)), store)
            own, reachable = {work.key(node) for node in work.graph.nodes}, Reachable([work])
            keys = [key for key in store.list() if key not in own and key in reachable]
            return {"/".join(key.split("/")[:3:2]) for key in keys}

        stages = {f"{c}/{s}" for c in ("base", "benign") for s in ("extract", "evaluate")}
        assert kept(lambda values: None) == set()
        assert stages < kept(add) and not any("train" in key for key in kept(add))
        turned = kept(lambda values: values["coupling"]["negatives"].reverse())
        assert {"benign/couple", "benign/evaluate"} <= turned and "benign/train" not in turned


def test_geometry_reads_by_name(tmp_path: Path) -> None:
    """Files of other orders give what files of one order give."""
    rng = np.random.default_rng(5)
    personas, questions = ["a", "b", "c", "d"], [f"q{number}" for number in range(6)]
    values = {name: rng.normal(size=(4, 6, 1, 8)).astype(np.float32) for name in ("base", "em")}
    valid = np.ones((4, 6), bool)
    valid[1, 2] = False
    found = {}
    for order in ("alike", "apart"):
        (tmp_path / order).mkdir()
        for name, states_PQLH in values.items():
            turned = order == "apart" and name == "em"
            p, q = (list(range(n))[:: -1 if turned else 1] for n in (4, 6))
            path = tmp_path / order / f"{name}.seed-1.a.safetensors"
            write_activations(
                path,
                states_PQLH[np.ix_(p, q)],
                valid[np.ix_(p, q)],
                personas=[personas[i] for i in p],
                questions=[questions[i] for i in q],
                layers=[3],
                condition=name,
                seed=1,
                method="a",
            )
        files = sorted((tmp_path / order).glob("*.safetensors"))
        settings: dict[str, Any] = {"permutations": 50, "bootstrap": 50, "seed": 1}
        found[order] = analyse_geometry(
            files, base="base", axis="em", assistant="a", benign=None, processes=1, **settings
        )
    assert found["apart"].rows == found["alike"].rows and len(found["alike"].rows) > 10
    back = open_activations(tmp_path / "apart" / "em.seed-1.a.safetensors")
    again = back.ordered_like(open_activations(tmp_path / "alike" / "em.seed-1.a.safetensors"))
    assert again.personas == tuple(personas)
    assert np.array_equal(again.ordered_like(back).read_layer(3), back.read_layer(3))


def test_divergences_go_by_name() -> None:
    one = Divergences(("a", "b", "c"), {"q": [0.1, 0.2, 0.3]})  # ab, ac, bc
    turned = one.ordered_like(("c", "a", "b"))
    assert turned.pairs == {"q": [0.2, 0.3, 0.1]}  # ca, cb, ab
    assert turned.ordered_like(("a", "b", "c")).pairs == {"q": [0.1, 0.2, 0.3]}
    assert one.ordered_like(("a", "b")) is one


def test_what_is_left_in_words() -> None:
    rows = frozenset(Row("personas", p, q) for p in "abc" for q in "12")
    some = {Row("personas", "a", "1"), Row("personas", "b", "2")}
    assert str(Left(rows, frozenset())) == "nothing to compute: all rows are taken from former ones"
    alone = frozenset(row for row in rows if row.persona == "a")
    assert str(Left(rows, alone)) == "1 of 3 personas to compute"
    assert str(Left(rows, frozenset(row for row in rows if row.question == "2"))) == (
        "1 of 2 questions to compute"
    )
    assert str(Left(rows, frozenset(some))) == ("2 of 6 pairs of persona and question to compute")
    counts = {"personas": 1, "of_personas": 3, "rows": 2, "of_rows": 6}
    assert Left(rows, alone).to_dict() == counts
