"""The Jobs that the chart renders are the stage graph of personaspace.graph."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_charts import CHART, by_node, names_of, needs_helm, nodes_of, of_kind, render, stage_jobs

from personaspace import graph, study
from personaspace.errors import UserError
from personaspace.spec import Experiment

pytestmark = needs_helm

TINY = yaml.safe_load((CHART / "values-tiny.yaml").read_text(encoding="utf-8"))["experiment"]
CASES: dict[str, dict[str, Any]] = {
    "published": {},
    "three-seeds": {"seeds": [42, 137, 256]},
    "tiny": TINY,
    "tiny-seeds": {**TINY, "seeds": [7, 0]},
    "base-alone": {"conditions": [{"name": "base"}]},
    "one-trained": {
        "conditions": [{"name": "x", "dataset": "instructions"}, {"name": "base"}],
        "seeds": [1, 2],
    },
    "partial": {"analysis": {"partial": True}},
}


def expected(values: dict[str, Any]) -> tuple[graph.Graph, dict[str, str]]:
    loaded = study.resolve(Experiment.model_validate(values), Path("/nowhere"))
    built = graph.build(loaded)
    return built, {n.id: p for n, p in graph.fingerprints(loaded, built).items()}


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_jobs_and_needs_are_those_of_the_graph(case: str, fuse: bool) -> None:
    built, _ = expected(CASES[case])
    objects = render({"experiment": CASES[case], "fuse": fuse})
    jobs = stage_jobs(objects)
    placed = by_node(objects)
    assert sorted(placed) == sorted(node.id for node in built.nodes)
    for job in jobs.values():
        nodes = [node for node in built.nodes if node.id in nodes_of(job)]
        wanted = {need.id for node in nodes for need in built.needs[node]} - set(nodes_of(job))
        said = job["metadata"]["annotations"]["personaspace.dev/needs"]
        found = {n for n in placed if placed[n] != placed[nodes[0].id]} if said == "*" else None
        if found is None:
            found = set(said.split(",")) - {""}
            assert found == wanted
        else:
            # Aggregate reads everything; what it needs by way of others is complete with them.
            assert wanted <= found
        gates = job["spec"]["template"]["spec"].get("schedulingGates")
        assert gates == ([{"name": "personaspace.dev/inputs"}] if wanted else None)
        labels = job["metadata"]["labels"]
        if nodes[0].condition:
            assert labels["personaspace.dev/condition"] == nodes[0].condition
            assert labels["personaspace.dev/seed"] == str(nodes[0].seed)
            assert {(n.condition, n.seed) for n in nodes} == {(nodes[0].condition, nodes[0].seed)}
        if fuse and nodes[0].condition:
            assert labels["personaspace.dev/stage"] == "condition"
        else:
            assert labels["personaspace.dev/stage"] == nodes[0].stage
    conductor = of_kind(objects, "ConfigMap")["em205-jobs"]["data"]["jobs.json"]
    assert yaml.safe_load(conductor) == {name: nodes_of(job) for name, job in jobs.items()}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [leaf for n, item in enumerate(value) for leaf in leaves(item, (*path, n))]
    return [path]


#: Other values that stay legal beside the rest of the study.
OTHER: dict[str, Any] = {
    "layers": [7, 14],
    "methods": ["a"],
    "negatives": ["librarian", "comedian"],
    "targets": ["q_proj"],
    "formats": ["svg"],
    "seeds": [42],
    "rerun": [{"stage": "evaluate", "condition": "benign"}],
    "engine": "transformers",
    "schedule": "constant",
    "dtype": "float16",
    "assistant": "librarian",
    "source": "police_officer",
    "persona": "comedian",
    "questions": [f"What is the number {n}?" for n in range(6)],
    "unseen_questions": ["What is dew?"],
}


def changed(values: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any] | None:
    """The study with another value at one place, if that is a legal study."""
    found = copy.deepcopy(values)
    parent = found
    for part in path[:-1]:
        parent = parent[part]
    name, old = path[-1], parent[path[-1]]
    if name in OTHER:
        parent[name] = OTHER[name]
    elif isinstance(old, bool):
        parent[name] = not old
    elif isinstance(old, int | float):
        parent[name] = old * 2 if old else 0.5
    elif name in ("prompt", "label", "title", "marker", "separator"):
        parent[name] = f"{old}!"
    else:
        return None
    try:
        expected(found)
    except (ValueError, UserError):
        return None
    return found


def test_whatever_changes_a_fingerprint_changes_the_job() -> None:
    """Every field of the study in turn; names may change more often than fingerprints, not less."""
    start: dict[str, Any] = Experiment.model_validate(TINY).model_dump(
        mode="json", exclude_none=True
    )
    start.pop("datasets")
    before, prints = names_of({"experiment": start}), expected(start)[1]
    tried, idle = 0, []
    for path in leaves(start):
        if path[0] in ("conditions", "personas") and path[1] not in (0, 2, 3):
            continue
        other = changed(start, path)
        if other is None:
            continue
        tried += 1
        after, now = names_of({"experiment": other}), expected(other)[1]
        new = {node for node in now if now[node] != prints.get(node)}
        moved = {node for node in after if after[node] != before.get(node)}
        assert new <= moved, f"{path}: {sorted(new - moved)} keep their Jobs"
        if moved - new and path[0] not in ("conditions", "personas"):
            idle.append((path, sorted(moved - new)))
    assert tried > 50
    # A changed display name or report setting restarts no pod that would need a GPU.
    for path, nodes in idle:
        if path[0] in ("figures", "analysis") and path[-1] != "assistant":
            assert set(nodes) <= {"aggregate", "report"}, path


def test_one_condition_changed_is_one_condition_renamed() -> None:
    start = {"experiment": TINY}
    other = copy.deepcopy(start)
    other["experiment"]["conditions"][3]["persona"] = "comedian"
    before, after = by_node(render(start)), by_node(render(other))
    moved = {node for node in after if before[node] != after[node]}
    assert {n for n in moved if ":" in n and "e4-villain" not in n} <= {
        "extract:base:42",  # reads the persona that others trained under
        *(f"evaluate:{c}:42" for c in ("base", "benign", "e0-assistant")),
    }
    assert moved >= {f"{s}:e4-villain:42" for s in ("train", "extract", "couple", "evaluate")}


@pytest.mark.parametrize(
    ("rerun", "moves"),
    [
        ({"stage": "evaluate", "condition": "benign"}, {"evaluate:benign:42"}),
        (
            {"stage": "couple", "condition": "benign", "seed": 42},
            {"couple:benign:42", "evaluate:benign:42"},
        ),
        ({"stage": "aggregate"}, set()),
    ],
)
def test_rerun_renames_the_stage_and_what_follows(rerun: dict[str, Any], moves: set[str]) -> None:
    start = {"experiment": TINY}
    other = {"experiment": {**TINY, "rerun": [rerun]}}
    before, after = by_node(render(start)), by_node(render(other))
    moved = {node for node in after if before[node] != after[node]}
    assert moved == moves | {"aggregate", "report"}
    prints, again = expected(TINY)[1], expected({**TINY, "rerun": [rerun]})[1]
    assert {node for node in again if again[node] != prints[node]} == moved
    once_more = {**TINY, "rerun": [{**rerun, "nonce": "2"}]}
    assert by_node(render({"experiment": once_more}))["aggregate"] != after["aggregate"]
