"""Jobs that the cluster does not have, and Jobs that have no pod."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from personaspace.cluster.conductor.plan import JobPlan
from personaspace.cluster.quota import needed
from personaspace.cluster.states import JobPhase
from personaspace.cluster.views import JobView, PodView

#: While Helm makes them, Jobs may lack for a while without a word.
QUIET_SECONDS = 30.0


class MissingJobs:
    """Tells a Job that will not come (back) from one that an upgrade has still to make.

    A Job that went while somebody looked, and stays away, is lost. One that was never seen may be
    of an upgrade that broke off: `helm upgrade` makes it, so it is waited for without end. Only
    where Jobs are removed after they ended (`ttlSecondsAfterFinished`) may it have failed long ago;
    then nothing that needs it waits any more, as whatever needed it was ended at once.

    Attributes:
        left: Jobs that were seen to go.
    """

    def __init__(self, plan: JobPlan, patience: float) -> None:
        self.plan, self.patience = plan, patience
        self.left: set[str] = set()
        self._since: dict[str, float] = {}

    def for_good(self, jobs: Mapping[str, JobView], now: float) -> set[str]:
        """Jobs that have been away for longer than patience lasts, and will not come."""
        if self.plan.jobs.keys() <= jobs.keys():
            self._since.clear()
            self.left.clear()
            return set()
        expire = any(job.expires for job in jobs.values())
        needed_jobs = {
            self.plan.job_of[node]
            for name, job in jobs.items()
            if job.phase is JobPhase.ACTIVE
            and name in self.plan.jobs
            and not self.plan.is_tolerant(name)
            for node in self.plan.needs[name]
        }
        found = set()
        for name in self.plan.jobs:
            if name in jobs:
                self._since.pop(name, None)
                self.left.discard(name)
                continue
            over = now - self._since.setdefault(name, now) > self.patience
            if over and (name in self.left or (expire and name not in needed_jobs)):
                found.add(name)
        return found

    def waited_for(
        self, jobs: Mapping[str, JobView], refused: Collection[str], now: float
    ) -> list[str]:
        """Jobs that have been away for a while, and whose artifacts are not there either."""
        return [
            name
            for name, since in self._since.items()
            if now - since >= QUIET_SECONDS
            and name not in jobs
            and any(node in refused for node in self.plan.jobs[name])
        ]


@dataclass(frozen=True)
class WithoutPod:
    """Jobs that have begun and never had a pod.

    Attributes:
        jobs: Their names.
        need: What the release's pods need at once, as a quota counts it.
        running: Whether something runs that will make room.
    """

    jobs: list[str]
    need: dict[str, str]
    running: bool


def without_pod(
    plan: JobPlan, jobs: Mapping[str, JobView], pods: Iterable[PodView]
) -> WithoutPod | None:
    """Jobs that have begun and never had a pod, as when a quota is full. None: there are none."""
    live, ever = set(), set()
    running = False
    for pod in pods:
        ever.add(pod.job)
        if pod.live:
            live.add(pod.job)
            running = running or (not pod.gated and pod.job in plan.jobs)
    mine = {n: job for n, job in jobs.items() if job.phase is JobPhase.ACTIVE and job.begun}
    lacking = [name for name in plan.jobs if name in mine and name not in ever]
    if not lacking:
        return None
    need = needed(job.asks for name, job in mine.items() if name in live or name in lacking)
    return WithoutPod(lacking, need, running)
