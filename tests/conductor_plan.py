"""A small plan of Jobs, as the tests of the conductor take it."""

from __future__ import annotations

from personaspace.cluster.conductor.plan import JobPlan
from personaspace.cluster.states import JobPhase
from personaspace.cluster.views import JobView

#: A diamond like a condition's, and what reads all of it.
NEEDS = {
    "train": [],
    "extract": ["train"],
    "couple": ["train"],
    "evaluate": ["train", "couple"],
    "aggregate": ["train", "extract", "couple", "evaluate"],
}


def a_plan(partial: bool = False) -> JobPlan:
    return JobPlan(
        jobs={f"job-{node}": [node] for node in NEEDS},
        needs={f"job-{node}": needs for node, needs in NEEDS.items()},
        artifacts={node: (f"{node}/0123456789abcdef", f"print-{node}") for node in NEEDS},
        partial=partial,
    )


def jobs(**states: str) -> dict[str, JobView]:
    found = {f"job-{node}": "active" for node in NEEDS}
    found |= {f"job-{node}": state for node, state in states.items()}
    return {
        name: JobView(name, f"uid-{name}", JobPhase(state))
        for name, state in found.items()
        if state != "missing"
    }
