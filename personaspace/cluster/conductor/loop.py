"""The conductor: lets each pod start when its inputs are complete, and ends what cannot run.

It has no state of its own. What it knows it reads from the API and the store when it starts, every
patch it sends may be sent twice, and so it may die at any moment or run beside another one.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from personaspace import interrupt
from personaspace.cluster import names
from personaspace.cluster.api import Cluster
from personaspace.cluster.conductor import actions
from personaspace.cluster.conductor.artifact_checks import ArtifactChecker
from personaspace.cluster.conductor.missing_jobs import MissingJobs, WithoutPod, without_pod
from personaspace.cluster.conductor.news import (
    Changed,
    Checked,
    Deleted,
    FromWatch,
    Inbox,
    Listed,
    News,
    Patched,
    StoreTrouble,
    WatchRefused,
    WatchTrouble,
)
from personaspace.cluster.conductor.patches import Patches, Urgency
from personaspace.cluster.conductor.plan import JobPlan
from personaspace.cluster.conductor.reconcile import Decision, reconcile
from personaspace.cluster.conductor.watch import Watcher
from personaspace.cluster.conductor.world import World
from personaspace.cluster.log_lines import Trouble
from personaspace.cluster.states import NOT_RUN, Cause, JobState, Reason, count_of_jobs, told
from personaspace.cluster.views import JobView, PodView, job_view, pod_view
from personaspace.errors import UserError
from personaspace.logs import RunEvent
from personaspace.store import Store

SUMMARY_SECONDS = 60.0
#: A Job without any pod for so long is one whose pod is refused, as by a quota.
PODLESS_SECONDS = 30.0
#: News that come within so many seconds are taken in together, and within twice the time that the
#: last round of deciding took: thousands of Jobs leave the processor to others.
COALESCE_SECONDS = 0.02
#: What is missing is looked for so often.
LOOK_SECONDS = 1.0


class Conductor:
    """Runs one study's Jobs in order.

    Args:
        cluster: Namespace of the release.
        release: Its name.
        plan: The study.
        store: Where artifacts are.
        say: Takes lines for the log: text, event, and the fields of its JSON object.
        queue_name: LocalQueue of Kueue; empty: none.
        queue_gate: `annotation` or `label`.
        patience: Seconds for which the store may be wrong, or a Job absent.
        pod: The conductor's own, where events go; empty: none.
    """

    def __init__(
        self,
        cluster: Cluster,
        release: str,
        plan: JobPlan,
        store: Store,
        say: Callable[..., None],
        queue_name: str = "",
        queue_gate: str = "annotation",
        patience: float = 600.0,
        pod: str = "",
    ) -> None:
        self.cluster, self.release, self.plan, self.say = cluster, release, plan, say
        self.queue_name, self.queue_gate, self.patience = queue_name, queue_gate, patience
        self.pod = pod
        self.inbox: Inbox = queue.Queue()
        self.world = World()
        self.verified: set[str] = set()
        self.refused: dict[str, Cause] = {}
        self.decision = Decision()
        self._checker = ArtifactChecker(store, plan.artifacts, self.inbox)
        self._patches = Patches(self.inbox)
        self._depths = plan.depths()
        self._pause, self._looked = COALESCE_SECONDS, 0.0
        self._missing_jobs = MissingJobs(plan, patience)
        self._podless_since = 0, 0.0
        self._told: dict[Trouble, float] = {}
        self._reported: dict[str, tuple[JobState, Cause | None]] = {}
        selector = names.selector(release)
        self.watchers = [
            Watcher(cluster, "jobs", selector, job_view, self.inbox),
            Watcher(cluster, "pods", selector, pod_view, self.inbox),
        ]

    def run(self) -> Decision:
        """Work until nothing will happen any more.

        Raises:
            UserError: The API forbids what the conductor must do.
            Interrupted: Asked to stop.
        """
        for watcher in self.watchers:
            watcher.start()
        said = time.monotonic()
        try:
            while True:
                self._take_in()
                interrupt.check()
                if self.world.synced < {"jobs", "pods"}:
                    continue
                began = time.monotonic()
                self.decision = self._reconcile()
                if self.decision.finished:
                    return self.decision
                self._act(self.decision)
                if began - self._looked >= LOOK_SECONDS:
                    self._looked = began
                    self._look_for_what_is_missing()
                self._pause = max(COALESCE_SECONDS, 2 * (time.monotonic() - began))
                if time.monotonic() - said >= SUMMARY_SECONDS:
                    said = time.monotonic()
                    self.say(self.summary(), event=RunEvent.PROGRESS)
        finally:
            self._checker.close()
            self._patches.close()

    def summary(self) -> str:
        """One line on where the study is."""
        found, total = self.decision, len(self.plan.jobs)
        started = self.world.started() & set(self.plan.jobs)
        waiting = len(found.waiting) + len(set(found.release) - started)
        lost = len(found.failed) + len(found.end)
        return (
            f"{len(found.done)} of {total} Jobs done, {len(started)} running or queued, {waiting} "
            f"waiting for inputs, {lost} failed or not run"
        )

    @property
    def patches(self) -> int:
        """How many patches were sent."""
        return self._patches.count

    # --- what comes in ------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Wait for news, then take all there is."""
        try:
            news = self.inbox.get(timeout=1.0)
        except queue.Empty:
            return
        time.sleep(self._pause)
        while True:
            self._apply(news)
            try:
                news = self.inbox.get_nowait()
            except queue.Empty:
                return

    def _apply(self, news: News) -> None:
        match news:
            case Checked(node, fault):
                self._checker.pending.discard(node)
                if fault is None:
                    self.verified.add(node)
                    self.refused.pop(node, None)
                else:
                    self.refused[node] = fault
            case StoreTrouble(node, text, seconds):
                self._checker.pending.discard(node)
                self._tell(Trouble.STORE, f"cannot read the store, trying again: {text}")
                if seconds > self.patience:
                    self.refused[node] = Cause(Reason.STORE, text, node)
            case Patched(name, error):
                self._patches.answered(name, bool(error))
                if error:
                    self._tell(Trouble.PATCH, f"cannot patch {name}, trying again: {error}")
            case _:
                self._apply_watched(news)

    def _apply_watched(self, news: FromWatch) -> None:
        match news:
            case WatchRefused(kind, text):
                raise UserError(f"cannot watch {kind}: {text}")
            case WatchTrouble(kind, text):
                said = f"the Kubernetes API does not answer, trying again: {text}"
                self._tell(Trouble(kind), said)
            case _:
                if news.kind == "jobs":
                    self._forget_faults(news)
                self.world.apply(news)
                match news:
                    case Changed():
                        self._patches.seen(news.view.name)
                    case Listed():
                        for name in news.views:
                            self._patches.seen(name)
                    case Deleted():
                        self._patches.forget(news.name)

    def _forget_faults(self, news: Listed | Changed | Deleted) -> None:
        """A Job that came, went or ended is judged anew."""
        match news:
            case Listed():
                after = {name: news.views.get(name) for name in self.plan.jobs}
            case Changed():
                after = {news.view.name: news.view}
            case Deleted():
                after = {news.name: None}
        for name, job in after.items():
            before = self.world.jobs.get(name)
            if before and not job:
                self._missing_jobs.left.add(name)
            now = job.phase if isinstance(job, JobView) else None
            if now != (before.phase if before else None):
                for node in self.plan.jobs.get(name, ()):
                    self.refused.pop(node, None)
                    self.verified.discard(node)

    def _tell(self, trouble: Trouble, text: str, **fields: Any) -> None:
        """Say it, but the same trouble only once a minute."""
        if time.monotonic() - self._told.get(trouble, -SUMMARY_SECONDS) >= SUMMARY_SECONDS:
            self._told[trouble] = time.monotonic()
            self.say(text, event=RunEvent.TROUBLE, trouble=trouble, **fields)
            if self.pod and trouble is Trouble.STORE:
                with suppress(Exception):  # the log has it already
                    actions.tell_event(self.cluster, self.pod, "StoreTrouble", text, _now())

    # --- what goes out ------------------------------------------------------------------------

    def _reconcile(self) -> Decision:
        absent = self._missing_jobs.for_good(self.world.jobs, time.monotonic())
        found = reconcile(
            self.plan,
            self.world.jobs,
            self.verified,
            self.refused,
            self.world.started(),
            absent,
        )
        for name in found.done:
            self._report(name, JobState.DONE, None)
        for name, cause in found.failed.items():
            self._report(name, *self.fate(name, cause))
        return found

    def fate(self, job: str, cause: Cause) -> tuple[JobState, Cause]:
        """How a Job ended that did not end well, and why: if it can, in its last pod's words."""
        if cause.reason in NOT_RUN:
            return JobState.NOT_RUN, cause
        # What names a node was found here, whatever became of earlier pods.
        said = None if cause.node else self.world.last_failure.get(job)
        return JobState.FAILED, said or cause

    def _report(self, job: str, state: JobState, cause: Cause | None) -> None:
        if self._reported.get(job) != (state, cause):
            self._reported[job] = state, cause
            self.tell_end(job, state, cause)

    def tell_end(self, job: str, state: JobState, cause: Cause | None) -> None:
        """A Job's end as a line of the log; `nodes` of those that are complete read `status`."""
        title = self.plan.title(job)
        text = told(state, cause.text) if cause else "complete"
        more: dict[str, Any] = {"reason": cause.reason} if cause else {}
        nodes = self.plan.jobs[job]
        self.say(
            f"{title}: {text}", event=RunEvent.END, node=title, nodes=nodes, state=state, **more
        )

    def _act(self, decision: Decision) -> None:
        for node in decision.check:
            self._checker.ask(node)
        for name, cause in decision.end.items():
            self._end(name, cause)
        for name in decision.release:
            urgency = Urgency.FOLLOWS if self.plan.needs[name] else Urgency.BEGINS
            depth = self._depths[name]
            job = self.world.jobs.get(name) if self.queue_name else None
            if job is not None and job.held:
                self._patches.send(name, urgency, depth, self._release_job, job)
            for pod in self.world.gated(name):
                self._patches.send(pod.name, urgency, depth, self._release_pod, pod)

    def _look_for_what_is_missing(self) -> None:
        """Say what only a person can fix: Jobs that are not there, Jobs that get no pod."""
        now = time.monotonic()
        missing = self._missing_jobs.waited_for(self.world.jobs, self.refused, now)
        if missing:
            titles = [self.plan.title(name) for name in missing]
            text = (
                f"waiting for {count_of_jobs(len(titles))} not in the cluster, such as "
                f"{titles[0]}: if an upgrade was cut off, `helm upgrade` creates them"
            )
            self._tell(Trouble.MISSING_JOBS, text, jobs=titles)
        found = without_pod(self.plan, self.world.jobs, self.world.pods.values())
        count = len(found.jobs) if found else 0
        if count != self._podless_since[0]:
            self._podless_since = count, now  # while pods are still being made, nothing is wrong
        elif found and now - self._podless_since[1] >= PODLESS_SECONDS:
            self._tell_podless(found)

    def _tell_podless(self, found: WithoutPod) -> None:
        titles = [self.plan.title(name) for name in found.jobs]
        few = {name: n for name, n in found.need.items() if not name.startswith("limits.")}
        text = (
            f"no pod could be created for {count_of_jobs(len(titles))}, such as {titles[0]}: a "
            "ResourceQuota counts waiting pods too, and this release needs "
            + ", ".join(f"{name}={amount}" for name, amount in few.items())
            + " at once"
            + ("" if found.running else "; nothing is running that would make room")
            + "; `personaspace status` shows what the API server says"
        )
        self._tell(Trouble.MISSING_PODS, text, jobs=titles, need=found.need)

    def _release_pod(self, pod: PodView) -> None:
        actions.lift_gate(self.cluster, pod)
        title = self.plan.title(pod.job)
        text = f"{title}: inputs complete, released pod {pod.name}"
        self.say(text, event=RunEvent.RELEASED, node=title, pod=pod.name)

    def _release_job(self, job: JobView) -> None:
        actions.lift_kueue_gate(self.cluster, job, self.queue_name, self.queue_gate)
        title = self.plan.title(job.name)
        text = f"{title}: inputs complete, handed to queue {self.queue_name}"
        self.say(text, event=RunEvent.RELEASED, node=title, queue=self.queue_name)

    def _end(self, name: str, cause: Cause) -> None:
        # The Job controller tells the event that goes with it.
        job = self.world.jobs[name]
        self._patches.send(name, Urgency.ENDS, 0, actions.end_job, self.cluster, job, cause, _now())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
