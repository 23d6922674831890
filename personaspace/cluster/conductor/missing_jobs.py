"""Jobs that the cluster does not have, and Jobs that have no pod: what a conductor makes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from personaspace.cluster.conductor.plan import Plan
from personaspace.cluster.quota import needed
from personaspace.cluster.views import JobView, PodView

#: While Helm makes them, Jobs may lack for a while without a word.
QUIET_SECONDS = 30.0


class Absence:
    """Tells a Job that will not come (back) from one that an upgrade has still to make.

    A Job that went while somebody looked, and stays away, is lost. One that was never seen may be
    of an upgrade that broke off: `helm upgrade` makes it, so it is waited for without end. Only
    where Jobs are removed after they ended (`ttlSecondsAfterFinished`) may it have failed long ago;
    then nothing that needs it waits any more, as whatever needed it was ended at once.

    Attributes:
        left: Jobs that were seen to go.
    """

    def __init__(self, plan: Plan, patience: float) -> None:
        self.plan, self.patience = plan, patience
        self.left: set[str] = set()
        self._since: dict[str, float] = {}

    def for_good(self, jobs: Mapping[str, JobView], now: float) -> set[str]:
        """Jobs that have been away for longer than patience lasts, and will not come."""
        expire = any(job.expires for job in jobs.values())
        needed_jobs = {
            self.plan.job_of[node]
            for name, job in jobs.items()
            if job.state == "active" and name in self.plan.jobs and not self.plan.is_tolerant(name)
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

    def missing(self, jobs: Mapping[str, JobView], refused: Collection[str], now: float) -> str:
        """A line on Jobs that are waited for; empty: there are none."""
        names = [
            name
            for name, since in self._since.items()
            if now - since >= QUIET_SECONDS
            and name not in jobs
            and any(node in refused for node in self.plan.jobs[name])
        ]
        if not names:
            return ""
        return (
            f"waiting for {len(names)} Jobs that are not in the cluster, such as "
            f"{self.plan.title(names[0])}: if an upgrade broke off, `helm upgrade` makes them"
        )


def without_pod(
    plan: Plan, jobs: Mapping[str, JobView], pods: Iterable[PodView]
) -> tuple[int, str]:
    """How many Jobs have begun and never had a pod, and a line on what that may mean."""
    live, ever = set(), set()
    running = False
    for pod in pods:
        ever.add(pod.job)
        if pod.live:
            live.add(pod.job)
            running = running or (not pod.gated and pod.job in plan.jobs)
    mine = {n: job for n, job in jobs.items() if job.state == "active" and job.begun}
    lacking = [name for name in plan.jobs if name in mine and name not in ever]
    if not lacking:
        return 0, ""
    need = needed(job.asks for name, job in mine.items() if name in live or name in lacking)
    few = {name: amount for name, amount in need.items() if not name.startswith("limits.")}
    return len(lacking), (
        f"no pod could be made for {len(lacking)} Jobs, such as {plan.title(lacking[0])}: a "
        "ResourceQuota counts waiting pods too, and at once this release needs "
        + ", ".join(f"{name}={amount}" for name, amount in few.items())
        + ("" if running else "; nothing runs that would make room")
        + "; `personaspace status` has the API server's words"
    )
