"""Mistakes that the values' schema cannot see: refused by Helm, in the code's own words."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helm_charts import each_helm, needs_helm, refused

from personaspace.study.validate import examine

pytestmark = needs_helm


@each_helm
def test_a_study_that_no_job_could_read_is_refused(program: str) -> None:
    """What a schema cannot say, in the words of `personaspace validate`."""
    study = {
        "seeds": [42, 7, 42],
        "conditions": [
            {"name": "base"},
            {"name": "x", "dataset": "none", "persona": "nobody"},
            {"name": "x", "dataset": "d"},
            {"name": "z", "dataset": "d", "seeds": [42, 8, 42]},
        ],
        "datasets": {"d": {"path": "d.jsonl"}},
        "rerun": [
            {"stage": "aggregate", "condition": "x"},
            {"stage": "train", "condition": "y"},
            {"stage": "couple", "seed": 0},
            {"stage": "couple", "seed": 7},
            {"stage": "couple", "condition": "z", "seed": 7},
        ],
    }
    said = refused({"experiment": study}, program)
    _, problems = examine(study)
    chart_says = {
        "conditions[1].persona",
        "conditions[1].dataset",
        "conditions[2].name",
        "seeds[2]",
        "conditions[3].seeds[1]",
        "conditions[3].seeds[2]",
        "rerun[4].seed",
        "rerun[0].stage",
        "rerun[1].condition",
        "rerun[2].seed",
    }
    assert chart_says == {problem.path for problem in problems}
    for problem in problems:
        text = problem.message.partition(" (")[0].replace("'", '"')
        assert f"experiment.{problem.path}: {text}" in said


BASE = {"name": "base"}
X = {"name": "x", "dataset": "instructions"}
FAULTS: dict[str, dict[str, Any]] = {
    "no base": {"conditions": [X]},
    "two bases": {"conditions": [BASE, {"name": "b"}, X]},
    "kinds": {
        "conditions": [BASE, {"name": "b", "kind": "em"}, {**X, "kind": "base"}],
    },
    "default data sets": {"conditions": [BASE, {**X, "dataset": "instruction"}]},
    "adapters": {
        "seeds": [42, 7],
        "conditions": [
            BASE,
            {**X, "adapter": "a/b@" + "0" * 40, "seeds": [42, 7]},
        ],
        "coupling": {"order": "before"},
    },
    "an adapter as base": {
        "conditions": [X, {"name": "y", "adapter": "a/b@" + "0" * 40, "kind": "base"}],
    },
    "no source": {"datasets": {"instructions": {}}, "conditions": [BASE, X]},
    "two sources": {
        "datasets": {"instructions": {"path": "x", "hub": "y"}},
        "conditions": [BASE, X],
    },
    "no revision": {"datasets": {"instructions": {"hub": "y"}}, "conditions": [BASE, X]},
    "digest of a hub": {
        "datasets": {"instructions": {"hub": "y", "revision": "1", "sha256": "0" * 64}},
        "conditions": [BASE, X],
    },
    "rows": {"training": {"row_tokens": 5}, "coupling": {"recipe": {"row_tokens": 6}}},
    "personas": {
        "extraction": {"personas": ["nobody", "assistant", "assistant"]},
        "evaluation": {"personas": ["confab", "confab", "someone"]},
        "coupling": {"negatives": ["confab", "librarian", "librarian", "no-one"]},
    },
    "source": {"coupling": {"source": "nobody"}},
    "source outside the grid": {"evaluation": {"personas": ["assistant", "librarian"]}},
    "source outside the default grid": {"coupling": {"source": "paramedic"}},
    "assistant": {"analysis": {"assistant": "nobody"}},
    "assistant not extracted": {"extraction": {"personas": ["confab", "librarian"]}},
    "method": {"extraction": {"methods": ["b"]}},
    "axis": {"analysis": {"axis": "benign"}},
    "layers": {"extraction": {"layers": [7, 7, 8]}, "analysis": {"layer": 9}},
    "no layers": {"extraction": {"layers": []}},
    "own personas": {"personas": [{"name": "assistant"}, {"name": "confab"}], "conditions": [BASE]},
    "idle seed": {"seeds": [42, 7], "conditions": [{**BASE, "seeds": [42]}, {**X, "seeds": [42]}]},
    "base without a seed": {
        "seeds": [42, 137, 7],
        "conditions": [{**BASE, "seeds": [137]}, X],
        "coupling": {"order": "before"},
    },
    "own training": {
        "training": {"row_tokens": 3000},
        "conditions": [
            {**BASE, "training": {"rank": 2}},
            {**X, "training": {"max_tokens": 3001}},
            {"name": "y", "adapter": "a/b@" + "0" * 40, "training": {"rank": 2}},
        ],
    },
    "doses": {
        "training": {"max_steps": 9, "doses": [3, 3, 2, 10, 7], "doses_in": ["extract", "extract"]},
        "conditions": [
            BASE,
            {**X, "training": {"max_steps": 6}},
            {**X, "name": "x-at-2"},
            {**X, "name": "y" * 60},
        ],
    },
    "steering": {"steering": {"vectors": ["shift", "nobody"], "conditions": ["zzz"], "seeds": [7]}},
    "steering by nothing": {"steering": {"doses": [1, 0]}},
    "steering by too much": {"steering": {"doses": [2000000.0, 1]}},
    "steering by too little": {"steering": {"doses": [-0.0000001, 1]}},
    "steering twice": {"steering": {"doses": [2, 1, 2.0]}},
    "steering's answers": {"steering": {"controls": 5, "answered_controls": 6}},
    "steering's answers by default": {"steering": {"controls": 2}},
    "steering of a dose": {
        "training": {"doses": [2], "max_steps": 4},
        "conditions": [BASE, X],
        "steering": {"conditions": ["x-at-2"]},
    },
    "doses of nothing": {"training": {"doses": [3]}, "conditions": [BASE]},
    "a repository that cannot be": {
        "publish": {"repo": "lab/a--b", "include": ["results", "results"], "collection": "a/b/c"},
        "rerun": [{"stage": "publish", "seed": 42}],
    },
    "switches with nothing under them": {"judge": None, "log_odds": None, "steering": None},
    "wordings with nothing under them": {
        "personas": [{"name": "assistant", "prompts": None}, {"name": "confab"}, {"name": "x"}],
        "coupling": {"negatives": ["x"]},
        "conditions": [BASE],
    },
    "rerun of base": {"rerun": [{"stage": "train", "condition": "base"}]},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_together_is_refused(fault: str) -> None:
    _, problems = examine(FAULTS[fault])
    assert problems
    said = refused({"experiment": FAULTS[fault]})
    told = said[said.index("experiment.") :].strip().split("; experiment.")
    for problem in problems:
        text = re.split(r" \((?:got|known|the default|Cannot)", problem.message)[0].replace(
            "'", '"'
        )
        start = f"{problem.path}: {text}"
        assert any(line.removeprefix("experiment.").startswith(start) for line in told)
    paths = {problem.path for problem in problems}
    assert {line.removeprefix("experiment.").partition(": ")[0] for line in told} == paths


def test_a_collection_without_a_title_is_refused_by_the_schema() -> None:
    said = refused({"experiment": {"publish": {"repo": "lab/a", "collection": " "}}})
    assert "publish" in said and "collection" in said


@pytest.mark.parametrize("url", ["http://host/store", "store", "../store", "gs://b/x"])
def test_stores_to_take_from_must_be_in_reach_of_pods(url: str) -> None:
    said = refused(
        {"experiment": {"substitutes": ["s3://bucket/x?region=y", url, "hf://me/x", "/data/store"]}}
    )
    assert f'experiment.substitutes[1]: "{url}" is no store that pods reach' in said


@each_helm
def test_a_value_of_another_type_is_named_with_what_is_wanted(program: str) -> None:
    said = refused({"experiment": {"hardware": {"cores": "two"}}}, program)
    assert re.search(r"experiment[./]hardware[./]cores", said)
    assert "integer" in said and "string" in said


def test_a_release_without_a_store_is_refused() -> None:
    assert "store.url: name the bucket" in refused({"store": {"existingSecret": ""}})
