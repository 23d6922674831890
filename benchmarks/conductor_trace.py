"""Where the time goes between a Job's completion and the release of what waits for it.

`conductor_scale.py` runs its conductors under `child`, beside `probe` and `Processors`, and prints
`table`. All times are seconds of the machine's monotonic clock, which its processes share.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from personaspace.cli.guard import as_job
from personaspace.cluster.api import TIMEOUT, Cluster, connect
from personaspace.cluster.conductor.plan import JobPlan
from personaspace.cluster.states import JobPhase
from personaspace.cluster.views import JobView, job_view

#: Seconds of a line of the table.
WINDOW = 20.0
#: What lies between two notes of a release, in order: who takes that time.
LEGS = {
    "watched": "the API server tells our watch of the last input's completion",
    "applied": "the loop takes it in",
    "checked": "its artifact is looked for, and the answer taken in",
    "decided": "the loop decides",
    "sent": "the patch stands in line",
    "answered": "the API server takes the patch",
    "seen": "the benchmark's watch sees the pod without its gate",
}
#: What takes processor time, by the kernel's 15 letters.
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller", "kube-scheduler")


@dataclass
class Notes:
    """When what happened first in a conductor: by leg of `LEGS`, then by Job, node or pod.

    Attributes:
        at: Seconds, monotonic.
        rounds: Each round of deciding: when it ended, how long it took.
    """

    at: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    rounds: list[tuple[float, float]] = field(default_factory=list)

    def note(self, what: str, name: str) -> None:
        """It has happened now; only the first time counts."""
        self.at[what].setdefault(name, time.monotonic())


def child(release: str, namespace: str, folder: str, out: str) -> None:
    """One conductor; its end writes calls, notes and its largest resident set to `out`."""
    from kubernetes.client.rest import RESTClientObject

    from personaspace.cluster.conductor.process import Settings, conduct

    calls: Counter[str] = Counter()
    original = RESTClientObject.request

    def counted(self: Any, method: str, url: str, query_params: Any = None, **rest: Any) -> Any:
        watch = any(name == "watch" for name, _ in query_params or [])
        calls["WATCH" if watch else method] += 1
        return original(self, method, url, query_params=query_params, **rest)

    RESTClientObject.request = counted
    notes = Notes()
    listen(notes)
    where = Path(folder)
    try:
        as_job(conduct)(
            Settings(
                release, where / "jobs.json", where / "study.yaml", str(where / "store"), namespace
            )
        )
    finally:
        used = resource.getrusage(resource.RUSAGE_SELF)
        said = {
            "calls": calls,
            "MiB": peak_mib(),
            "seconds": used.ru_utime + used.ru_stime,
            "at": notes.at,
            "rounds": notes.rounds,
        }
        Path(out).write_text(json.dumps(said), encoding="utf-8")


def listen(notes: Notes) -> None:
    """Have this process's conductor note what it does, by hooks around its own methods."""
    from personaspace.cluster.conductor import actions
    from personaspace.cluster.conductor.loop import Conductor
    from personaspace.cluster.conductor.news import Changed, Checked
    from personaspace.cluster.conductor.patches import Patches
    from personaspace.cluster.conductor.watch import Watcher

    def before(owner: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(owner, name)

        def hooked(*given: Any, **named: Any) -> Any:
            note(*given)
            return original(*given, **named)

        setattr(owner, name, hooked)

    def watched(watcher: Watcher, event: dict[str, Any]) -> None:
        if watcher.kind == "jobs" and event["type"] == "MODIFIED":
            job = job_view(event["object"])
            if job.phase is JobPhase.SUCCEEDED:
                notes.note("watched", job.name)

    def applied(_: Conductor, news: object) -> None:
        match news:
            case Changed(view=JobView(phase=JobPhase.SUCCEEDED) as job):
                notes.note("applied", job.name)
            case Checked(node, None):
                notes.note("checked", node)

    before(Watcher, "_event", watched)
    before(Conductor, "_apply", applied)
    before(Patches, "send", lambda _, key, *rest: notes.note("decided", key))
    lift, decide, act = actions.lift_gate, Conductor._reconcile, Conductor._act

    def lifted(cluster: Cluster, pod: Any) -> None:
        notes.note("sent", pod.name)
        lift(cluster, pod)
        notes.note("answered", pod.name)

    def decided(self: Conductor) -> Any:
        notes.rounds.append((time.monotonic(), 0.0))
        return decide(self)

    def acted(self: Conductor, decision: Any) -> None:
        act(self, decision)
        began = notes.rounds.pop()[0]
        notes.rounds.append((began, time.monotonic() - began))

    actions.lift_gate = lifted
    Conductor._reconcile = decided  # type: ignore[method-assign]
    Conductor._act = acted  # type: ignore[method-assign]


def peak_mib() -> float:
    """This program's largest resident set.

    Not `ru_maxrss`: that survives exec, and so is the parent's where the parent was larger.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def probe(namespace: str, out: str) -> None:
    """Patch one ConfigMap twice a second until the file `out` is gone; a line there for each.

    What that takes is the API server's and etcd's own, and the machine's: nothing of ours.
    """
    cluster = connect(namespace)
    name = "probe"
    cluster.core.create_namespaced_config_map(namespace, {"metadata": {"name": name}})
    where = Path(out)
    number = 0
    while where.exists():
        number += 1
        began = time.monotonic()
        answer = cluster.core.patch_namespaced_config_map(
            name,
            namespace,
            {"data": {"n": str(number)}},
            _preload_content=False,
            _request_timeout=TIMEOUT,
        )
        answer.drain_conn()
        answer.release_conn()
        took = time.monotonic() - began
        with where.open("a", encoding="ascii") as file:
            file.write(f"{began} {took}\n")
        time.sleep(0.5)


class Processors(threading.Thread):
    """Notes every five seconds how much processor time the programs have taken.

    Args:
        own: Programs of the benchmark: process by what it is called.
    """

    def __init__(self, own: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self.own = own
        self.seen: list[tuple[float, dict[str, float]]] = []

    def run(self) -> None:
        """Until the program ends."""
        while True:
            self.seen.append((time.monotonic(), self.now()))
            time.sleep(5)

    def now(self) -> dict[str, float]:
        """Seconds of processor time so far, by program."""
        tick = os.sysconf("SC_CLK_TCK")
        mine = {process: name for name, process in self.own.items()}
        found: dict[str, float] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = stat.read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            head, _, rest = text.rpartition(")")
            process, _, name = head.partition(" (")
            name = mine.get(int(process)) or (name if name in PROGRAMS else "")
            if name:
                user, system = rest.split()[11:13]
                found[name] = (int(user) + int(system)) / tick
        return found

    def cores(self, begin: float, end: float) -> dict[str, float]:
        """Cores that each program took, on average, between two times."""
        inside = [entry for entry in self.seen if begin - 5 <= entry[0] <= end]
        if len(inside) < 2:
            return {}
        (first, before), (last, after) = inside[0], inside[-1]
        return {name: (after[name] - before.get(name, 0.0)) / (last - first) for name in after}


@dataclass
class Way:
    """One pod's release.

    Attributes:
        began: When its last input was complete (and it was there).
        legs: Seconds of each of `LEGS`.
    """

    began: float
    legs: dict[str, float]

    @property
    def total(self) -> float:
        """From the completion to the gate that is gone."""
        return sum(self.legs.values())


def way_of(
    pod: str, began: float, seen: float, nodes: Iterable[str], plan: JobPlan, at: Any
) -> Way:
    """The legs of a release; what happened before the former leg's end took no time.

    Args:
        pod: Its name.
        began: When its last input was complete.
        seen: When the gate was seen to be gone.
        nodes: Its inputs.
        plan: The study.
        at: The conductor's notes, as `child` wrote them.
    """

    def last(what: str, of: Iterable[str]) -> float:
        return max((at[what].get(name, 0.0) for name in of), default=0.0)

    nodes = list(nodes)
    jobs = [plan.job_of[node] for node in nodes]
    ends = {
        "watched": last("watched", jobs),
        "applied": last("applied", jobs),
        "checked": last("checked", nodes),
        **{what: at[what].get(pod, 0.0) for what in ("decided", "sent", "answered")},
        "seen": seen,
    }
    legs, now = {}, began
    for what in LEGS:
        # The benchmark's watch may be behind the conductor's, or before the patch's answer.
        legs[what] = max(0.0, min(ends[what], seen) - now)
        now = max(now, min(ends[what], seen))
    return Way(began, legs)


def table(
    ways: list[Way], started: float, processors: Processors, probes: Path, rounds: list[Any]
) -> None:
    """Print by windows of time what was slow, and who worked; then the slow ones' legs."""
    asked = [tuple(map(float, line.split())) for line in probes.read_text().splitlines()]
    print("from  n    p50   p99  | bare patch p50 p99 | a round p50 p99 | cores")
    end = max(way.began + way.total for way in ways)
    begin = started
    while begin < end:
        until = begin + WINDOW
        mine = [way.total for way in ways if begin <= way.began < until]
        bare = [took for at, took in asked if begin <= at < until]
        turns = [took for at, took in rounds if begin <= at < until]
        cores = processors.cores(begin, until)
        print(
            f"{begin - started:4.0f} {len(mine):4d} {_two(mine)} | {_two(bare)} | {_two(turns)} | "
            + ", ".join(f"{name} {share:.2f}" for name, share in sorted(cores.items()))
        )
        begin = until
    slow = [way for way in ways if way.total >= np.percentile([w.total for w in ways], 98)]
    for name, some in (("all", ways), ("the slowest 2 %", slow)):
        print(f"{name} ({len(some)}), mean seconds of each leg:")
        for what, text in LEGS.items():
            print(f"  {np.mean([way.legs[what] for way in some]):6.3f}  {text}")


def _two(values: list[float]) -> str:
    if not values:
        return "    –     –"
    p50, p99 = np.percentile(values, [50, 99])
    return f"{p50:5.2f} {p99:5.2f}"


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "child":
        child(*given)
    else:
        probe(*given)
