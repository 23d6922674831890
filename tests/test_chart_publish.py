"""The Job that publishes a study: alone with the token that may write, after the report."""

from __future__ import annotations

from typing import Any

import pytest
from chart_matrix import SMALL
from helm_charts import by_node, needs_helm, of_kind, refused, render

pytestmark = needs_helm

SENT: dict[str, Any] = {"experiment": {**SMALL, "publish": {"repo": "lab/small"}}}
WRITER = {"publishToken": {"existingSecret": "writer", "key": "token"}}


def pods(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod's spec of each Job, by its stage."""
    jobs = of_kind(render(values), "Job").values()
    return {
        job["metadata"]["labels"]["personaspace.dev/stage"]: job["spec"]["template"]["spec"]
        for job in jobs
        if "personaspace.dev/stage" in job["metadata"]["labels"]
    }


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return {entry["name"]: entry.get("valueFrom", entry.get("value")) for entry in container["env"]}


def test_without_the_field_there_is_no_such_job() -> None:
    assert "publish" not in pods({"experiment": SMALL, **WRITER})
    assert "writer" not in str(render({"experiment": SMALL, **WRITER}))


def test_only_its_pod_has_the_token_that_may_write() -> None:
    cache = {"modelCache": {"type": "pvc", "claim": "models", "offline": True}}
    found = pods({**SENT, **WRITER, "hubToken": {"existingSecret": "reader"}, **cache})
    tokens = {stage: environment(pod)["HF_TOKEN"]["secretKeyRef"] for stage, pod in found.items()}
    assert tokens.pop("publish") == {"name": "writer", "key": "token"}
    assert set(tokens) == {"train", "extract", "couple", "evaluate", "aggregate", "conductor"}
    assert {ref["name"] for ref in tokens.values()} == {"reader"}
    # Where models come from a cache alone, the Hub is still asked by whoever publishes there.
    offline = {stage for stage, pod in found.items() if "HF_HUB_OFFLINE" in environment(pod)}
    assert offline == set(tokens)
    (container,) = found["publish"]["containers"]
    assert container["args"] == ["publish"] and "nvidia" not in str(container["resources"])
    assert container["image"].startswith("registry.example.org/lab/personaspace/cpu:")
    assert found["publish"]["schedulingGates"] == [{"name": "personaspace.dev/inputs"}]
    assert not found["publish"]["automountServiceAccountToken"]


def test_it_changes_no_other_job_that_has_a_gpu() -> None:
    before, after = by_node(render({"experiment": SMALL})), by_node(render({**SENT, **WRITER}))
    assert {node for node in after if after[node] != before.get(node)} == {
        "aggregate",  # is given the whole study, and finds its artifact complete
        "report",
        "publish",
    }


def test_a_token_is_named_before_anything_runs() -> None:
    assert "publishToken.existingSecret: name the secret with a token that may write" in refused(
        SENT
    )
    token = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "t"}}}
    for given in (
        WRITER,
        {"hubToken": {"existingSecret": "hub"}},
        {"stages": {"publish": {"extraEnv": [token]}}},
        {"pods": {"extraEnvFrom": [{"secretRef": {"name": "mine"}}]}},
    ):
        assert "publish" in pods({**SENT, **given})
    by_hub = environment(pods({**SENT, "hubToken": {"existingSecret": "hub"}})["publish"])
    assert by_hub["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "HF_TOKEN"}}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"repo": "small"}, "repo"),
        ({}, "repo"),
        ({"repo": "lab/small", "include": ["everything"]}, "include"),
        ({"repo": "lab/small", "token": "hf_canary"}, "token"),
    ],
)
def test_a_target_that_cannot_be_is_refused_by_the_schema(
    target: dict[str, Any], said: str
) -> None:
    assert said in refused({**WRITER, "experiment": {**SMALL, "publish": target}})
