"""What is known of the cluster, from what is watched, by the questions that are asked of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from personaspace.cluster.conductor.news import Changed, Deleted, Listed, View
from personaspace.cluster.states import Cause
from personaspace.cluster.views import JobView, PodView


@dataclass
class World:
    """Jobs and pods as they were last told of.

    Attributes:
        jobs: Jobs by name.
        pods: Pods by name.
        synced: Kinds that were listed.
        last_failure: Why the newest failed pod of a Job failed.
    """

    jobs: dict[str, JobView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    synced: set[str] = field(default_factory=set)
    last_failure: dict[str, Cause] = field(default_factory=dict)
    #: Pods by Job: those at the gate, and those past it that have not ended.
    _gated: dict[str, dict[str, PodView]] = field(default_factory=dict)
    _past: dict[str, dict[str, PodView]] = field(default_factory=dict)

    def apply(self, news: Listed | Changed | Deleted) -> None:
        """Take in what a watcher tells."""
        match news:
            case Listed():
                self._replace(news.kind, news.views)
                self.synced.add(news.kind)
            case Changed():
                self._put(news.view)
            case Deleted(kind="jobs"):
                self.jobs.pop(news.name, None)
            case Deleted():
                self._drop(news.name)

    def started(self) -> set[str]:
        """Jobs with a pod that is past the gate and has not ended."""
        return set(self._past)

    def gated(self, job: str) -> Iterable[PodView]:
        """Pods of a Job that wait at the gate."""
        return list(self._gated.get(job, {}).values())

    def _replace(self, kind: str, views: Mapping[str, View]) -> None:
        if kind == "jobs":
            self.jobs.clear()
        else:
            for table in (self.pods, self._gated, self._past):
                table.clear()
        for view in views.values():
            self._put(view)

    def _put(self, view: View) -> None:
        if isinstance(view, JobView):
            self.jobs[view.name] = view
            return
        self._drop(view.name)
        self.pods[view.name] = view
        if view.live:
            (self._gated if view.gated else self._past).setdefault(view.job, {})[view.name] = view
        if view.cause:
            self.last_failure[view.job] = view.cause

    def _drop(self, name: str) -> None:
        before = self.pods.pop(name, None)
        for table in (self._gated, self._past):
            mine = table.get(before.job) if before else None
            if mine and mine.pop(name, None) and not mine and before:
                del table[before.job]
