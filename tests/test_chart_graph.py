"""The Jobs that the chart renders are the graph that the stages of personaspace make.

The chart says in Go what each `Stage` says of itself (docs/decisions/0008-one-stage.md); here the
two are held equal.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_charts import CHART, by_node, names_of, needs_helm, nodes_of, of_kind, stage_jobs
from helm_charts import render as render_values

from personaspace.errors import UserError
from personaspace.pipeline import graph
from personaspace.pipeline.stage import Scope
from personaspace.pipeline.stages import STAGES
from personaspace.study.load import load_study, resolve
from personaspace.study.spec import Experiment
from personaspace.study.validate import examine

pytestmark = needs_helm

TINY = yaml.safe_load((CHART / "values-tiny.yaml").read_text(encoding="utf-8"))["experiment"]
ADAPTER = str(Path(__file__).parent / "golden" / "adapter")
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
    "log-odds": {**TINY, "seeds": [7, 0], "log_odds": {}},
    "steered": {
        **TINY,
        "seeds": [7, 0],
        "steering": {"vectors": ["shift", "villain"], "conditions": ["base", "e4-villain"]},
    },
    "steered-coupled-first": {
        **TINY,
        "seeds": [7, 0],
        "coupling": {**TINY["coupling"], "order": "before"},
        "steering": {"vectors": ["villain"], "modes": ["add"]},
    },
    "coupled-first": {**TINY, "seeds": [7, 0], "coupling": {**TINY["coupling"], "order": "before"}},
    "judged": {**TINY, "seeds": [7, 0], "judge": {"model": "judge", "url": "http://judge/v1"}},
    "published-adapter": {
        **TINY,
        "seeds": [7, 0],
        "conditions": [
            *TINY["conditions"][:2],
            {
                "name": "published",
                "adapter": ADAPTER,
            },
        ],
        "log_odds": {},
    },
    "unequal-seeds": {
        **TINY,
        "seeds": [42, 137, 256],
        "conditions": [
            {**TINY["conditions"][0], "seeds": [256, 137]},
            {**TINY["conditions"][1], "seeds": [42]},
            *TINY["conditions"][2:],
        ],
        "judge": {"model": "judge", "url": "http://judge/v1"},
    },
    "own-training": {
        **TINY,
        "conditions": [
            *TINY["conditions"][:2],
            {**TINY["conditions"][2], "training": {"rank": 2, "max_steps": None}},
            *TINY["conditions"][3:],
        ],
    },
    "doses": {
        **TINY,
        "seeds": [7, 0],
        "training": {
            **TINY["training"],
            "max_steps": 9,
            "doses": [2, 5],
            "doses_in": ["extract", "evaluate"],
        },
        "conditions": [
            *TINY["conditions"][:2],
            {**TINY["conditions"][2], "training": {"max_steps": 5}},
            *TINY["conditions"][3:],
        ],
        "rerun": [{"stage": "train", "condition": TINY["conditions"][3]["name"], "nonce": "a"}],
        "substitutes": ["s3://lab/runs"],
        "tracking": ["tensorboard"],
        "publish": {"repo": "lab/tiny"},
    },
    "sent": {**TINY, "publish": {"repo": "lab/tiny"}},
    "doses-coupled-first": {
        **TINY,
        "seeds": [7, 0],
        "training": {**TINY["training"], "max_steps": 9, "doses": [2]},
        "coupling": {**TINY["coupling"], "order": "before"},
        "judge": {"model": "judge", "url": "http://judge/v1"},
        "log_odds": {},
    },
    "judged-coupled-first": {
        **TINY,
        "seeds": [7, 0],
        "coupling": {**TINY["coupling"], "order": "before"},
        "judge": {"model": "judge", "url": "http://judge/v1"},
    },
}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The chart's objects, with the token that a study that is published needs."""
    token = (
        {"publishToken": {"existingSecret": "hub"}} if values["experiment"].get("publish") else {}
    )
    return render_values({**token, **values})


def expected(values: dict[str, Any]) -> tuple[graph.Graph, dict[str, str]]:
    loaded = resolve(Experiment.model_validate(values), Path("/nowhere"))
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
        # What has no inputs waits for the conductor to have read the study.
        gates = job["spec"]["template"]["spec"]["schedulingGates"]
        assert gates == [{"name": "personaspace.dev/inputs"}]
        labels = job["metadata"]["labels"]
        if nodes[0].condition:
            assert labels["personaspace.dev/condition"] == nodes[0].condition
            assert labels["personaspace.dev/seed"] == str(nodes[0].seed)
            assert {(n.condition, n.seed) for n in nodes} == {(nodes[0].condition, nodes[0].seed)}
        if fuse and nodes[0].condition:
            assert labels["personaspace.dev/stage"] == "condition"
        else:
            assert labels["personaspace.dev/stage"] == nodes[0].stage
    (conductor,) = (job for name, job in of_kind(objects, "Job").items() if name not in jobs)
    table = json.loads(mounted(objects, conductor)["jobs.json"])
    assert table == {name: nodes_of(job) for name, job in jobs.items()}


@pytest.mark.parametrize(
    "case", ["three-seeds", "log-odds", "judged", "judged-coupled-first", "steered", "sent"]
)
def test_every_stage_stands_in_the_chart_as_it_says_of_itself(case: str) -> None:
    """Stage by stage: which Jobs it has, in which order, and what each of them needs."""
    values = {**CASES[case], "seeds": [42, 137, 256]}
    spec = Experiment.model_validate(values)
    jobs = list(stage_jobs(render({"experiment": values})).values())
    stages = [job["metadata"]["labels"]["personaspace.dev/stage"] for job in jobs]
    ordered = [STAGES[name] for name in graph.stages_of(spec)]
    of_condition = [stage for stage in ordered if stage.scope is Scope.CONDITION]
    # What is computed of the whole study is one Job, which runs its stages one after another; who
    # tells others of it has a Job of its own.
    of_study = [stage for stage in ordered if stage.scope is Scope.STUDY]
    last = [[s.name for s in of_study if not s.outward], *([s.name] for s in of_study if s.outward)]
    assert [nodes_of(job) for job in jobs[-len(last) :]] == last
    assert list(dict.fromkeys(stages[: -len(last)])) == [stage.name for stage in of_condition]
    for stage in of_condition:
        wanted = {}
        for seed in spec.seeds:
            for condition in spec.conditions:
                node = stage.node(spec, condition, seed)
                if node is not None:
                    theirs = (
                        STAGES[n.stage].node(spec, condition, seed) for n in stage.needs_of(spec)
                    )
                    wanted[node.id] = [need.id for need in theirs if need is not None]
        found = {
            nodes_of(job)[0]: job["metadata"]["annotations"]["personaspace.dev/needs"]
            for job, name in zip(jobs, stages, strict=True)
            if name == stage.name
        }
        assert {node: said.split(",") if said else [] for node, said in found.items()} == wanted


@pytest.mark.long
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        "tiny-seeds",
        "one-trained",
        "judged",
        "log-odds",
        "steered",
        "coupled-first",
        "judged-coupled-first",
        "unequal-seeds",
        "own-training",
        "doses",
        "doses-coupled-first",
        "odd",
    ],
)
def test_a_job_reads_all_it_needs_and_nothing_else(case: str, fuse: bool, tmp_path: Path) -> None:
    """From its own part of the study a pod comes to the fingerprints of the whole study."""
    values = CASES.get(case) or {
        **TINY,
        "seeds": [3, 5],
        "datasets": {
            "bad-legal-advice": {"path": "builtin:chats-bad-legal-advice", "rows": ":7"},
            "instructions": {"path": "builtin:chats-instructions"},
        },
        "rerun": [
            {"stage": "train", "condition": "benign", "seed": 5, "nonce": "a"},
            {"stage": "couple", "nonce": "b"},
            {"stage": "extract", "seed": 3},
        ],
        "extraction": {**TINY["extraction"], "personas": ["librarian", "assistant"]},
        "evaluation": {**TINY["evaluation"], "personas": ["assistant", "confab", "librarian"]},
    }
    _, whole = expected(values)
    objects = render({"experiment": values, "fuse": fuse})
    maps = of_kind(objects, "ConfigMap")
    assert all(item["immutable"] for item in maps.values())
    used = set()
    for job in stage_jobs(objects).values():
        arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
        used |= set(configs(job))
        if arguments[0] in ("conclude", "publish"):  # the whole study
            continue
        path = tmp_path / "experiment.yaml"
        path.write_text(mounted(objects, job)["experiment.yaml"], encoding="utf-8")
        part = load_study(path, int(arguments[-1]))
        built = graph.build(part)
        prints = {node.id: p for node, p in graph.fingerprints(part, built).items()}
        assert set(nodes_of(job)) <= set(prints)
        assert all(whole[node] == found for node, found in prints.items())
        if arguments[0] == "condition":
            mine = [n.id for n in built.nodes if part.part and n.condition == part.part.condition]
            assert sorted(mine) == sorted(nodes_of(job)), "what `jobs condition` would run"
    assert len(set(maps) - used) == 1, "the table of Jobs is the conductor's"


def configs(job: dict[str, Any]) -> list[str]:
    """Names of the ConfigMaps that a Job's pods read."""
    volumes = job["spec"]["template"]["spec"]["volumes"]
    (sources,) = (v["projected"]["sources"] for v in volumes if v["name"] == "study")
    return [source["configMap"]["name"] for source in sources]


def mounted(objects: list[dict[str, Any]], job: dict[str, Any]) -> dict[str, str]:
    """The files that a Job's pods read."""
    maps = of_kind(objects, "ConfigMap")
    return {k: v for name in configs(job) for k, v in maps[name]["data"].items()}


def test_what_keeps_its_name_keeps_what_it_reads() -> None:
    """So an upgrade changes no Job, and no pod of a Job ever reads another study."""
    changes: list[dict[str, Any]] = [
        {"figures": {"title": "Another"}},
        {"coupling": {**TINY["coupling"], "positives": 7}},
        {"training": {**TINY["training"], "checkpoint_every": 2}},
        {"generation": {"gpu_memory": 0.5}},
        {"seeds": [42, 7]},
        {
            "seeds": [42, 7],
            "conditions": [*TINY["conditions"][:-1], {**TINY["conditions"][-1], "seeds": [7]}],
        },
        {"rerun": [{"stage": "couple", "condition": "benign"}]},
        {"personas": [*TINY["personas"], {"name": "pilot"}]},
    ]
    seen: dict[tuple[str, str], Any] = {}
    for change in ({}, *changes):
        for item in render({"experiment": {**TINY, **change}}):
            body = {"Job": item.get("spec"), "ConfigMap": item.get("data")}.get(item["kind"])
            if body is not None:
                key = (item["kind"], item["metadata"]["name"])
                assert seen.setdefault(key, body) == body, (change, key)


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
    if examine(found)[1]:
        return None
    try:
        expected(found)
    except UserError:
        return None
    return found


@pytest.mark.long
def test_whatever_changes_a_fingerprint_changes_the_job() -> None:
    """Every field of the study in turn; names may change more often than fingerprints, not less."""
    judged = {**TINY, "judge": CASES["judged"]["judge"], "log_odds": {"max_new_tokens": 9}}
    judged["steering"] = {"vectors": ["shift", "villain"], "layer": 14, "pairs": 4}
    start: dict[str, Any] = Experiment.model_validate(judged).model_dump(
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
