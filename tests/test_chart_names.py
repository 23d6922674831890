"""Names of Jobs: legal for any legal condition and release, never the same for two things."""

from __future__ import annotations

import re
from typing import Any

from helm_charts import by_node, needs_helm, of_kind, render
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytestmark = needs_helm

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
word = st.from_regex(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", fullmatch=True)
condition = word.filter(lambda name: len(name) <= 63) | st.builds(
    # Long ones that differ at the end alone, where names are cut.
    lambda start, end: (start * 63)[: 62 - len(end)] + "-" + end,
    st.sampled_from("abx"),
    st.sampled_from(["1", "2", "12", "z"]),
)
release = st.from_regex(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", fullmatch=True
).filter(lambda name: len(name) <= 53) | st.sampled_from(["a" * 53, "a.b", "a-b", "x" * 51 + ".y"])
slow = settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def study(names: list[str], seeds: list[int]) -> dict[str, Any]:
    trained = [{"name": name, "dataset": "instructions"} for name in names]
    return {
        "experiment": {
            "conditions": [{"name": "base"}, *trained],
            "seeds": seeds,
            "personas": [{"name": "assistant"}],
            "coupling": {"source": "assistant", "negatives": []},
        }
    }


@slow
@given(
    names=st.lists(
        condition.filter(lambda name: name != "base"), min_size=1, max_size=4, unique=True
    ),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=2, unique=True),
    name=release,
)
def test_names_are_legal_and_differ(names: list[str], seeds: list[int], name: str) -> None:
    objects = render(study(names, seeds), release=name)
    nodes = by_node(objects)
    jobs = of_kind(objects, "Job")
    # A dict by name would have lost one: every Job has its own nodes, and there is the conductor.
    count = sum(item["kind"] == "Job" for item in objects)
    assert len(jobs) == count == len(set(nodes.values())) + 1
    for job in jobs.values():
        assert len(job["metadata"]["name"]) <= 63 and LABEL.fullmatch(job["metadata"]["name"])
        for value in job["spec"]["template"]["metadata"]["labels"].values():
            assert len(value) <= 63 and VALUE.fullmatch(value), value
    for item in objects:
        assert len(item["metadata"]["name"]) <= 63 and LABEL.fullmatch(item["metadata"]["name"])
    assert nodes == by_node(render(study(names, seeds), release=name)), "same values, same names"


def test_two_releases_share_no_name() -> None:
    seen: set[tuple[str, str]] = set()
    for name in ("a.b", "a-b", "a" * 53, "a" * 52, "a" * 51 + "-b", "a" * 51 + ".b"):
        objects = render(study(["x"], [1]), release=name)
        mine = {(item["kind"], item["metadata"]["name"]) for item in objects}
        assert not mine & seen, name
        seen |= mine


def test_names_say_what_the_job_is_for() -> None:
    nodes = by_node(render({"experiment": {"seeds": [42]}}))
    assert re.fullmatch(r"em205-e4-villain-s42-train-[0-9a-f]{10}", nodes["train:e4-villain:42"])
    assert re.fullmatch(r"em205-aggregate-[0-9a-f]{10}", nodes["aggregate"])
    long = by_node(render(study(["c" * 63], [4294967295]), release="r" * 53))
    assert re.fullmatch(
        r"r{12}-c+-s4294967295-evaluate-[0-9a-f]{10}", long[f"evaluate:{'c' * 63}:4294967295"]
    )


def test_a_change_of_what_a_job_runs_on_is_a_new_job_and_what_follows_is_too() -> None:
    before = by_node(render())
    moved = by_node(render({"stages": {"couple": {"image": {"tag": "2"}}}}))
    changed = {node.partition(":")[0] for node in before if before[node] != moved[node]}
    assert changed == {"couple", "evaluate", "aggregate", "report"}
    # What is no part of the pod or the study touches nothing.
    other = {
        "networkPolicy": {"enabled": True},
        "serviceAccount": {"annotations": {"a": "b"}},
        "stages": {"conductor": {"resources": {"limits": {"memory": "3Gi"}}}},
        "pods": {"backoffLimit": 5, "ttlSecondsAfterFinished": 60},
    }
    assert by_node(render(other)) == before
