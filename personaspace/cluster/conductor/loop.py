"""The conductor: lets each pod start when its inputs are complete, and ends what cannot run.

It has no state of its own. What it knows it reads from the API and the store when it starts, every
patch it sends may be sent twice, and so it may die at any moment or run beside another one.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace import interrupt
from personaspace.cluster import names
from personaspace.cluster.api import Cluster, message_of
from personaspace.cluster.conductor import actions
from personaspace.cluster.conductor.artifact_checks import Checker
from personaspace.cluster.conductor.missing_jobs import Absence, without_pod
from personaspace.cluster.conductor.plan import Plan
from personaspace.cluster.conductor.reconcile import Decision, decide
from personaspace.cluster.conductor.watch import Feed
from personaspace.cluster.views import JobView, PodView, job_view, pod_view, without_title
from personaspace.errors import UserError
from personaspace.store import Store

#: A patch that failed is sent again after so many seconds; the same for a Job that does not end.
AGAIN_SECONDS = 5.0
SUMMARY_SECONDS = 60.0
#: A Job without any pod for so long is one whose pod is refused, as by a quota.
PODLESS_SECONDS = 30.0
#: News that come within so many seconds are decided on together.
COALESCE_SECONDS = 0.02


@dataclass
class World:
    """What is known of the cluster, from the feeds."""

    jobs: dict[str, JobView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    synced: set[str] = field(default_factory=set)
    last_words: dict[str, str] = field(default_factory=dict)

    def apply(self, kind: str, change: str, what: Any) -> None:
        """Take in what a feed says."""
        mine: dict[str, Any] = self.jobs if kind == "jobs" else self.pods
        if change == "reset":
            mine.clear()
            mine.update(what)
            self.synced.add(kind)
        elif change == "drop":
            mine.pop(what, None)
        else:
            mine[what.name] = what
        if kind == "pods" and change != "drop":
            for pod in what.values() if change == "reset" else (what,):
                if pod.why:
                    self.last_words[pod.job] = pod.why

    def started(self) -> set[str]:
        """Jobs with a pod that is past the gate and has not ended."""
        return {pod.job for pod in self.pods.values() if pod.live and not pod.gated}


class Conductor:
    """Runs one study's Jobs in order.

    Args:
        cluster: Namespace of the release.
        release: Its name.
        plan: The study.
        store: Where artifacts are.
        say: Takes lines for the log.
        queue_name: LocalQueue of Kueue; empty: none.
        queue_gate: `annotation` or `label`.
        patience: Seconds for which the store may be wrong, or a Job absent.
        pod: The conductor's own, where events go; empty: none.
    """

    def __init__(
        self,
        cluster: Cluster,
        release: str,
        plan: Plan,
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
        self.inbox: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.world = World()
        self.verified: set[str] = set()
        self.refused: dict[str, str] = {}
        self.patches = 0
        self.decision = Decision()
        self._checker = Checker(store, plan.artifacts, self.inbox)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="patch")
        self._sent: dict[str, float] = {}
        self._absence = Absence(plan, patience)
        self._podless = 0, 0.0
        self._told: dict[str, float] = {}
        self._reported: dict[str, str] = {}
        selector = names.selector(release)
        self.feeds = [
            Feed(cluster, "jobs", selector, job_view, self.inbox),
            Feed(cluster, "pods", selector, pod_view, self.inbox),
        ]

    def run(self) -> Decision:
        """Work until nothing will happen any more.

        Raises:
            UserError: The API forbids what the conductor must do.
            Interrupted: Asked to stop.
        """
        for feed in self.feeds:
            feed.start()
        said = time.monotonic()
        try:
            while True:
                self._take_in()
                interrupt.check()
                if self.world.synced < {"jobs", "pods"}:
                    continue
                self.decision = self._decide()
                if self.decision.finished:
                    return self.decision
                self._act(self.decision)
                self._look_for_what_lacks()
                if time.monotonic() - said >= SUMMARY_SECONDS:
                    said = time.monotonic()
                    self.say(self.summary(), event="progress")
        finally:
            self._checker.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    def summary(self) -> str:
        """One line on where the study is."""
        found, total = self.decision, len(self.plan.jobs)
        started = self.world.started() & set(self.plan.jobs)
        waiting = len(found.waiting) + len(set(found.release) - started)
        lost = len(found.failed) + len(found.end)
        return (
            f"{len(found.done)} of {total} Jobs done, {len(started)} run or queue, {waiting} wait "
            f"for inputs, {lost} failed or not run"
        )

    # --- what comes in ------------------------------------------------------------------------

    def _take_in(self) -> None:
        """Wait for news, then take all there is."""
        try:
            news = self.inbox.get(timeout=1.0)
        except queue.Empty:
            return
        time.sleep(COALESCE_SECONDS)
        while True:
            self._apply(news)
            try:
                news = self.inbox.get_nowait()
            except queue.Empty:
                return

    def _apply(self, news: tuple[Any, ...]) -> None:
        kind = news[0]
        if kind == "node":
            self._checker.pending.discard(news[1])
            if news[2] is None:
                self.verified.add(news[1])
                self.refused.pop(news[1], None)
            else:
                self.refused[news[1]] = news[2]
        elif kind == "store":
            _, node, text, since = news
            self._checker.pending.discard(node)
            self._tell("store", f"cannot read the store, trying again: {text}")
            if since > self.patience:
                self.refused[node] = text
        elif kind == "patched":
            _, key, error = news
            self._sent[key] = time.monotonic() - (AGAIN_SECONDS - 1.0 if error else 0.0)
            if error:
                self._tell("patch", f"cannot patch {key}, trying again: {error}")
        elif news[1] == "fatal":
            raise UserError(f"cannot watch {kind}: {news[2]}")
        elif news[1] == "trouble":
            self._tell(kind, f"the Kubernetes API does not answer, trying again: {news[2]}")
        else:
            self._forget_faults(kind, news)
            self.world.apply(*news)

    def _forget_faults(self, kind: str, news: tuple[Any, ...]) -> None:
        """A Job that came, went or ended is judged anew."""
        if kind != "jobs":
            return
        _, change, what = news
        if change == "reset":
            after = {name: what.get(name) for name in self.plan.jobs}
        else:
            after = {what: None} if change == "drop" else {what.name: what}
        for name, job in after.items():
            before = self.world.jobs.get(name)
            if before and not job:
                self._absence.left.add(name)
            if (job and job.state) != (before and before.state):
                for node in self.plan.jobs.get(name, ()):
                    self.refused.pop(node, None)
                    self.verified.discard(node)

    def _tell(self, topic: str, text: str) -> None:
        """Say it, but the same trouble only once a minute."""
        if time.monotonic() - self._told.get(topic, -SUMMARY_SECONDS) >= SUMMARY_SECONDS:
            self._told[topic] = time.monotonic()
            self.say(text, event="trouble")
            if self.pod and topic == "store":
                with suppress(Exception):  # the log has it already
                    actions.tell_event(self.cluster, self.pod, "StoreTrouble", text, _now())

    # --- what goes out ------------------------------------------------------------------------

    def _decide(self) -> Decision:
        absent = self._absence.for_good(self.world.jobs, time.monotonic())
        found = decide(
            self.plan,
            self.world.jobs,
            self.verified,
            self.refused,
            self.world.started(),
            absent,
        )
        for name in found.done:
            self._report(name, "complete")
        for name, why in found.failed.items():
            self._report(name, self.fate(name, why))
        return found

    def fate(self, job: str, why: str) -> str:
        """How a Job ended that did not end well, and why: if it can, in its last pod's words."""
        if why.startswith(f"{names.NOT_RUN}: "):
            return why.removeprefix(f"{names.NOT_RUN}: ")
        said = self.world.last_words.get(job) or why
        return f"FAILED: {without_title(said, self.plan.title(job))}"

    def _report(self, job: str, text: str) -> None:
        if self._reported.get(job) != text:
            self._reported[job] = text
            self.say(f"{self.plan.title(job)}: {text}", node=self.plan.title(job))

    def _act(self, decision: Decision) -> None:
        for node in decision.check:
            self._checker.ask(node)
        for name, why in decision.end.items():
            self._end(name, why)
        ready = set(decision.release)
        if self.queue_name:
            for name in ready:
                job = self.world.jobs.get(name)
                if job is not None and job.held:
                    self._send(name, self._release_job, job)
        for pod in list(self.world.pods.values()):
            if pod.gated and pod.live and pod.job in ready:
                self._send(pod.name, self._release_pod, pod)

    def _look_for_what_lacks(self) -> None:
        """Say what only a person can mend: Jobs that are not there, Jobs that get no pod."""
        now = time.monotonic()
        missing = self._absence.missing(self.world.jobs, self.refused, now)
        if missing:
            self._tell("missing", missing)
        count, podless = without_pod(self.plan, self.world.jobs, self.world.pods.values())
        if count != self._podless[0]:
            self._podless = count, now  # while pods are still being made, nothing is wrong
        elif count and now - self._podless[1] >= PODLESS_SECONDS:
            self._tell("podless", podless)

    def _send(self, key: str, action: Callable[..., None], *arguments: Any) -> None:
        """Send a patch, unless it is under way or its effect is still to be seen."""
        if time.monotonic() - self._sent.get(key, -AGAIN_SECONDS) < AGAIN_SECONDS:
            return
        # Until it is answered: where the API is slow, copies would wait in line before what is new.
        self._sent[key] = math.inf
        self.patches += 1

        def work() -> None:
            fault = ""
            try:
                action(*arguments)
            except Exception as error:  # whatever it is, it is tried again and told
                text = message_of(error) if isinstance(error, ApiException) else str(error)
                fault = text.splitlines()[0] if text else type(error).__name__
            self.inbox.put(("patched", key, fault))

        self._pool.submit(work)

    def _release_pod(self, pod: PodView) -> None:
        actions.lift_gate(self.cluster, pod)
        title = self.plan.title(pod.job)
        self.say(f"{title}: inputs complete, released pod {pod.name}", node=title)

    def _release_job(self, job: JobView) -> None:
        actions.lift_kueue_gate(self.cluster, job, self.queue_name, self.queue_gate)
        title = self.plan.title(job.name)
        self.say(f"{title}: inputs complete, handed to queue {self.queue_name}", node=title)

    def _end(self, name: str, why: str) -> None:
        # The Job controller tells the event that goes with it.
        self._send(name, actions.end_job, self.cluster, self.world.jobs[name], why, _now())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
