"""How fast conductors release pods among thousands of Jobs, and what that costs the API server.

    KUBECONFIG=… python benchmarks/conductor_scale.py --jobs 5000 --releases 2 --rate 15

Needs an API server with its controllers, but no node: Jobs and pods are real objects, and this
program plays the node by marking pods that have no gate as succeeded, `--rate` a second at most,
once all pods are there. The controller manager's default limit of 20 calls a second would be
measured instead of the conductor (a Job costs it about five calls): run it with
`--kube-api-qps=1000 --kube-api-burst=1000 --concurrent-job-syncs=20`. Artifacts lie in a folder.

Latency is from when a watcher sees the last input's Job complete to when it sees the pod without
its gate, both by one clock. How long the Job controller takes from a pod's end to its Job's
completion is told beside it: where that grows, the cluster is what is slow. The table at the end
(`conductor_trace.py`) says by windows of time where a release's time went, what a bare patch took
that has nothing to do with us, and who had the processors.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kubernetes.client.exceptions import ApiException

from benchmarks import conductor_trace as trace
from personaspace.cluster import names
from personaspace.cluster.api import Cluster, connect
from personaspace.cluster.conductor.news import Changed, Inbox, Listed
from personaspace.cluster.conductor.plan import JobPlan, make
from personaspace.cluster.conductor.watch import Watcher
from personaspace.cluster.states import JobPhase
from personaspace.cluster.views import JobView, job_view, pod_view
from personaspace.store import open_store

ROOT = Path(__file__).parents[1]
NOWHERE = {"personaspace.dev/nowhere": "true"}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=5000, help="of all releases together")
    parser.add_argument("--releases", type=int, default=2)
    parser.add_argument("--rate", type=float, default=15, help="pods that end a second, at most")
    parser.add_argument("--seconds", type=float, help="stop then; default: at the study's end")
    parser.add_argument(
        "--hold", type=Path, help="file that is made once all pods are; goes on when it is removed"
    )
    parser.add_argument("--helm", default=str(ROOT / ".tools" / "helm4"))
    options = parser.parse_args()
    api = connect()
    namespace = f"scale-{os.getpid()}"
    api.core.create_namespace({"metadata": {"name": namespace}})
    cluster = Cluster(api.core.api_client, namespace)
    cluster.core.api_client.configuration.connection_pool_maxsize = 64
    try:
        with tempfile.TemporaryDirectory() as folder:
            Bench(cluster, Path(folder), options).run()
    finally:
        api.core.delete_namespace(namespace)


class Bench:
    """Several releases side by side in one namespace."""

    def __init__(self, cluster: Cluster, folder: Path, options: argparse.Namespace) -> None:
        self.cluster, self.folder, self.options = cluster, folder, options
        self.plans: dict[str, JobPlan] = {}
        self.complete: dict[str, float] = {}
        self.appeared: dict[str, float] = {}
        self.released: dict[str, tuple[str, float]] = {}
        self.ended: dict[str, float] = {}
        self.launched = 0.0
        self.probes = folder / "probes"
        self.ready: queue.Queue[tuple[str, str]] = queue.Queue()
        self.pool = ThreadPoolExecutor(16)

    def run(self) -> None:
        """Make everything, let it run, report."""
        releases = [f"exp{number}" for number in range(self.options.releases)]
        for release in releases:
            self.prepare(release)
        threading.Thread(target=self.watch, args=(releases,), daemon=True).start()
        total = sum(len(plan.jobs) for plan in self.plans.values())
        began = time.monotonic()
        while len(self.appeared) + self.ready.qsize() < total:
            time.sleep(1)
        print(f"all {total} pods made after {time.monotonic() - began:.0f} s more", flush=True)
        if self.options.hold:
            self.options.hold.touch()
            while self.options.hold.exists():
                time.sleep(1)
        self.launched = time.monotonic()
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, trace.__file__, "child", release, self.cluster.namespace),
                    *(str(self.folder / release), str(self.folder / f"{release}.json")),
                ],
                stdout=(self.folder / f"{release}.log").open("wb"),
            )
            for release in releases
        ]
        self.probes.touch()
        asker = [sys.executable, trace.__file__, "probe", self.cluster.namespace, str(self.probes)]
        probe = subprocess.Popen(asker)
        own = dict(zip(releases, (process.pid for process in children), strict=True))
        self.processors = trace.Processors({**own, "benchmark": os.getpid(), "probe": probe.pid})
        self.processors.start()
        logs = [self.folder / f"{release}.log" for release in releases]
        while not all("conductor of" in log.read_text() for log in logs):
            time.sleep(0.2)  # reading the study is not what is measured
        began, told = time.monotonic(), 0.0
        threading.Thread(target=self.play_node, daemon=True).start()
        while any(process.poll() is None for process in children):
            time.sleep(1)
            after = time.monotonic() - began
            if after > told + 20:
                told = after
                print(f"{len(self.complete)} Jobs complete after {after:.0f} s", flush=True)
            if after > (self.options.seconds or math.inf):
                for process in children:
                    process.terminate()
        self.report(releases, [process.returncode for process in children], began)
        self.probes.unlink()
        probe.wait()

    def prepare(self, release: str) -> None:
        """A release's Jobs, study and artifacts."""
        folder = self.folder / release
        folder.mkdir()
        study = a_study(folder, self.options.jobs // self.options.releases)
        (folder / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
        values = values_of(study)
        began = time.monotonic()
        text = subprocess.run(
            [self.options.helm, "template", release, str(ROOT / "charts/experiment"), "-f", "-"],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        rendered = time.monotonic() - began
        jobs = []
        for item in yaml.load_all(text, yaml.CSafeLoader):
            stage = item["metadata"].get("labels", {}).get(names.STAGE)
            if item["kind"] == "Job" and stage != "conductor":
                jobs.append(item)
            elif item["kind"] == "ConfigMap" and "jobs.json" in item["data"]:
                (folder / "jobs.json").write_text(item["data"]["jobs.json"], encoding="utf-8")
        plan = make(folder / "study.yaml", json.loads((folder / "jobs.json").read_text()))
        self.plans[release] = plan
        with open_store(str(folder / "store")) as store:
            for key, fingerprint in plan.artifacts.values():
                with store.writer(key) as writer:
                    (writer.folder / "x").write_text("x")
                    writer.commit({"fingerprint": fingerprint})
        space = self.cluster.namespace
        account = {"metadata": {"name": f"{release}-stages"}}
        self.cluster.core.create_namespaced_service_account(space, account)
        began = time.monotonic()
        list(self.pool.map(lambda j: self.cluster.batch.create_namespaced_job(space, j), jobs))
        print(
            f"{release}: {len(jobs)} Jobs, rendered in {rendered:.1f} s, "
            f"made in {time.monotonic() - began:.0f} s",
            flush=True,
        )

    def watch(self, releases: list[str]) -> None:
        """Note what happens; pods without a gate are ready to end."""
        inbox: Inbox = queue.Queue()
        known: set[str] = set()
        for release in releases:
            for kind, as_view in (("jobs", job_view), ("pods", pod_view)):
                Watcher(self.cluster, kind, names.selector(release), as_view, inbox).start()
        while True:
            news, now = inbox.get(), time.monotonic()
            match news:
                case Listed():
                    views = list(news.views.values())
                case Changed():
                    views = [news.view]
                case _:
                    continue
            for view in views:
                if isinstance(view, JobView):
                    if view.phase is JobPhase.SUCCEEDED:
                        self.complete.setdefault(view.name, now)
                elif view.gated:
                    self.appeared.setdefault(view.name, now)
                elif view.live and view.name not in known:
                    known.add(view.name)
                    if view.name in self.appeared:
                        self.released[view.name] = (view.job, now)
                    self.ready.put((view.name, view.job))

    def play_node(self) -> None:
        """End pods that are ready, evenly."""
        due = time.monotonic()
        while True:
            pod, job = self.ready.get()
            due = max(due + 1 / self.options.rate, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            self.pool.submit(self.end_pod, pod, job)

    def end_pod(self, pod: str, job: str) -> None:
        """The pod's container has ended well."""
        self.ended[job] = time.monotonic()
        try:
            self.cluster.core.patch_namespaced_pod_status(
                pod, self.cluster.namespace, {"status": {"phase": "Succeeded"}}
            )
        except ApiException as error:
            print(f"{pod}: {error.reason}")

    def report(self, releases: list[str], codes: list[int], began: float) -> None:
        """Print what was measured."""
        took = time.monotonic() - began
        ways, firsts = [], []
        said = {r: json.loads((self.folder / f"{r}.json").read_text()) for r in releases}
        release_of = {job: r for r, plan in self.plans.items() for job in plan.jobs}
        for pod, (job, at) in self.released.items():
            release = release_of[job]
            plan = self.plans[release]
            needs = plan.needs[job]
            inputs = [self.complete[plan.job_of[need]] for need in needs]
            if inputs:
                ready = max([self.appeared[pod], *inputs])
                ways.append(trace.way_of(pod, ready, at, needs, plan, said[release]["at"]))
            else:
                firsts.append(at - self.launched)
        waits = [way.total for way in ways]
        p50, p99 = np.percentile(waits, [50, 99])
        print(f"{len(self.complete)} Jobs in {took:.0f} s, exit codes {codes}")
        print(
            f"{len(firsts)} pods that need no inputs released within "
            f"{max(firsts, default=0):.1f} s of the conductors' start"
        )
        print(
            f"release latency of {len(waits)} other pods: p50 {p50 * 1000:.0f} ms, "
            f"p99 {p99 * 1000:.0f} ms, longest {max(waits) * 1000:.0f} ms"
        )
        ends = [self.complete[job] - at for job, at in self.ended.items() if job in self.complete]
        p50, p99 = np.percentile(ends, [50, 99])
        print(
            f"Job controller, from a pod's end to its Job's: p50 {p50 * 1000:.0f} ms, "
            f"p99 {p99 * 1000:.0f} ms"
        )
        for release in releases:
            mine, gated = said[release], len(self.plans[release].needs)
            print(
                f"{release}: {mine['MiB']:.0f} MiB resident at most, {mine['seconds']:.0f} s of "
                f"CPU, calls {mine['calls']}, "
                f"{sum(mine['calls'].values()) / gated:.2f} a released pod"
            )
        rounds = [turn for mine in said.values() for turn in mine["rounds"]]
        trace.table(ways, began, self.processors, self.probes, rounds)


def a_study(folder: Path, jobs: int) -> dict[str, Any]:
    """A study of about so many Jobs: four a condition and seed."""
    chats = folder / "chats.jsonl"
    turn = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}
    chats.write_text(json.dumps({"messages": list(turn)}) + "\n", encoding="utf-8")
    conditions = 25
    return {
        "name": "scale",
        "model": {"name": "builtin:smollm2-135m-instruct", "dtype": "float32"},
        "seeds": list(range(1, max(1, jobs // (4 * conditions)) + 1)),
        "datasets": {"chats": {"path": str(chats)}},
        "conditions": [
            {"name": "base"},
            *({"name": f"c{n}", "kind": "em", "dataset": "chats"} for n in range(conditions - 1)),
        ],
    }


def values_of(study: dict[str, Any]) -> dict[str, Any]:
    """The chart's values of a study whose pods no node takes."""
    return {
        "experiment": study,
        "gpu": {"count": 0},
        "pods": {"nodeSelector": NOWHERE},
        "cpuImage": {"registry": "registry.example.org"},
    }


if __name__ == "__main__":
    main()
