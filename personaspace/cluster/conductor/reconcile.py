"""What to do next, from what is known: a pure function, so that any conductor comes to the same.

It looks at the whole study each time: there is no state that could be wrong after a crash.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from personaspace.cluster.conductor.plan import JobPlan
from personaspace.cluster.states import Cause, JobPhase, Reason
from personaspace.cluster.views import JobView


@dataclass
class Decision:
    """What to do.

    Attributes:
        release: Jobs whose inputs are complete.
        end: Jobs that can no longer run, and why.
        check: Nodes whose manifests must be read.
        waiting: Jobs that wait, with the number of inputs they wait for.
        failed: Jobs that failed for good, and why.
        done: Jobs that are complete.
        finished: Whether nothing will happen any more.
    """

    release: list[str] = field(default_factory=list)
    end: dict[str, Cause] = field(default_factory=dict)
    check: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Cause] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    finished: bool = False


def reconcile(
    plan: JobPlan,
    jobs: Mapping[str, JobView],
    verified: Collection[str],
    refused: Mapping[str, Cause],
    started: Collection[str] = (),
    absent: Collection[str] = (),
) -> Decision:
    """Compare what the study needs with what the cluster has, and decide.

    Args:
        plan: The study.
        jobs: What the cluster has.
        verified: Nodes whose manifest carries the expected fingerprint.
        refused: Nodes whose Job succeeded without such a manifest, with what is wrong.
        started: Jobs with a pod that has passed the gate and not ended: left alone.
        absent: Jobs that the cluster has not had for so long that they will not come.
    """
    decision = Decision()
    lost: dict[str, Cause] = {}
    complete: set[str] = set()
    going = False
    for name, nodes in plan.jobs.items():
        job = jobs.get(name)
        if job is None or job.phase is JobPhase.SUCCEEDED:
            rest = {node: refused.get(node) for node in nodes if node not in verified}
            if not rest:
                complete.update(nodes)
                decision.done.append(name)
                continue
            title = plan.title(name)
            complete.update(node for node in nodes if node in verified)
            decision.check += [node for node, fault in rest.items() if fault is None]
            if None in rest.values() or (job is None and name not in absent):
                going = True
            else:
                gone = Cause(Reason.JOB_GONE, f"{title}: its Job and its artifact are gone", title)
                faults = [fault for fault in rest.values() if fault]
                cause = decision.failed[name] = gone if job is None else faults[0]
                lost.update(dict.fromkeys(rest, Cause(Reason.INPUTS_FAILED, cause.text, title)))
            continue
        if job.phase is JobPhase.FAILED:
            decision.failed[name] = job.cause or Cause(Reason.ERROR)
            title = plan.title(name)
            failed = Cause(Reason.INPUTS_FAILED, f"{title} failed", title)
            lost.update(dict.fromkeys(nodes, failed))
            continue
        going = True
        blocked = _blocked(plan, name, complete, lost) if lost else None
        if blocked and name not in started:
            decision.end[name] = blocked
            # Whatever first failed is the reason for all that follows from it.
            lost.update(dict.fromkeys(nodes, blocked))
            continue
        open_needs = sum(n not in complete and n not in lost for n in plan.needs[name])
        if open_needs:
            decision.waiting[name] = open_needs
        elif not blocked:
            decision.release.append(name)
    decision.finished = not going
    return decision


def _blocked(plan: JobPlan, name: str, complete: set[str], lost: dict[str, Cause]) -> Cause | None:
    """Why the Job cannot run any more; None: it can, or may yet."""
    needs = plan.needs[name]
    gone = [node for node in needs if node in lost]
    if not gone:
        return None
    if plan.is_tolerant(name) and (
        any(n in complete for n in needs) or any(n not in lost for n in needs)
    ):
        return None
    return lost[gone[0]]
