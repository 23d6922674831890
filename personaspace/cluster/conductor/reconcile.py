"""What to do next, from what is known: a pure function, so that any conductor comes to the same.

It looks at the whole study each time: there is no state that could be wrong after a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from personaspace.cluster.conductor.plan import Plan
from personaspace.cluster.views import JobView


@dataclass
class Decision:
    """What to do.

    Attributes:
        release: Jobs whose inputs are complete.
        end: Jobs that can no longer run, with the reason.
        check: Nodes whose manifests must be read.
        waiting: Jobs that wait, with the number of inputs they wait for.
        failed: Jobs that failed for good, with the reason.
        done: Jobs that are complete.
        finished: Whether nothing will happen any more.
    """

    release: list[str] = field(default_factory=list)
    end: dict[str, str] = field(default_factory=dict)
    check: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    finished: bool = False


def decide(
    plan: Plan,
    jobs: Mapping[str, JobView],
    verified: Collection[str],
    refused: Mapping[str, str],
    started: Collection[str] = (),
    absent: Collection[str] = (),
) -> Decision:
    """Decide.

    Args:
        plan: The study.
        jobs: What the cluster has.
        verified: Nodes whose manifest carries the expected fingerprint.
        refused: Nodes whose Job succeeded without such a manifest, with what is wrong.
        started: Jobs with a pod that has passed the gate and not ended: left alone.
        absent: Jobs that the cluster has not had for so long that they will not come.
    """
    decision = Decision()
    lost: dict[str, str] = {}
    complete: set[str] = set()
    going = False
    for name, nodes in plan.jobs.items():
        job = jobs.get(name)
        title = plan.title(name)
        if job is None or job.state == "succeeded":
            complete.update(node for node in nodes if node in verified)
            rest = {node: refused.get(node) for node in nodes if node not in verified}
            decision.check += [node for node, fault in rest.items() if fault is None]
            if not rest:
                decision.done.append(name)
            elif None in rest.values() or (job is None and name not in absent):
                going = True
            else:
                gone = f"{title}: its Job is gone, and so is its artifact"
                faults = [fault for fault in rest.values() if fault]
                decision.failed[name] = gone if job is None else faults[0]
                lost.update(dict.fromkeys(rest, decision.failed[name]))
            continue
        if job.state == "failed":
            decision.failed[name] = job.why
            lost.update(dict.fromkeys(nodes, f"{title} failed"))
            continue
        going = True
        reason = _blocked(plan, name, complete, lost)
        if reason and name not in started:
            decision.end[name] = reason
            # Whatever first failed is the reason for all that follows from it.
            lost.update(dict.fromkeys(nodes, reason))
            continue
        open_needs = sum(n not in complete and n not in lost for n in plan.needs[name])
        if open_needs:
            decision.waiting[name] = open_needs
        elif not reason:
            decision.release.append(name)
    decision.finished = not going
    return decision


def _blocked(plan: Plan, name: str, complete: set[str], lost: dict[str, str]) -> str:
    """Why the Job cannot run any more; empty: it can, or may yet."""
    needs = plan.needs[name]
    gone = [node for node in needs if node in lost]
    if not gone:
        return ""
    if plan.is_tolerant(name) and (
        any(n in complete for n in needs) or any(n not in lost for n in needs)
    ):
        return ""
    return lost[gone[0]]
