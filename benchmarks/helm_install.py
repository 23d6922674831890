"""What Helm itself takes for a study of thousands of Jobs: seconds, memory, its record's size.

    KUBECONFIG=… python benchmarks/helm_install.py --jobs 5000 .tools/helm3 .tools/helm4

Needs an API server with its controllers, but no node (see `conductor_scale.py`). Each Helm installs
the study, upgrades it to the same, and removes it, in a namespace of its own. Kubernetes takes no
object over 1 MiB: the record that Helm keeps of a release in a Secret has to stay below.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

from benchmarks.common import cost_of
from benchmarks.conductor_scale import ROOT, a_study, values_of
from personaspace.cluster.api import connect

CHART = ROOT / "charts/experiment"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("helm", type=Path, nargs="+", help="programs of Helm")
    parser.add_argument("--jobs", type=int, default=5000)
    options = parser.parse_args()
    core = connect().core
    for number, helm in enumerate(options.helm):
        namespace = f"helm-{os.getpid()}-{number}"
        core.create_namespace({"metadata": {"name": namespace}})
        try:
            with tempfile.TemporaryDirectory() as folder:
                values = Path(folder) / "values.yaml"
                study = a_study(Path(folder), options.jobs)
                values.write_text(yaml.safe_dump(values_of(study)), encoding="utf-8")
                one(helm.resolve(), namespace, values)
        finally:
            core.delete_namespace(namespace)


def one(helm: Path, namespace: str, values: Path) -> None:
    """Install, upgrade, remove with one Helm; print what each took."""
    api = connect()
    version = subprocess.check_output([helm, "version", "--short"], text=True).strip()
    print(f"{version}:", flush=True)
    for verb in ("install", "upgrade", "uninstall"):
        what = [] if verb == "uninstall" else [str(CHART), "-f", str(values)]
        command = [str(helm), verb, "big", *what, "-n", namespace, "--timeout", "30m"]
        took = cost_of(command, stderr=None)
        print(
            f"  {verb}: exit {took['exit code']}, {took['seconds']:.0f} s, "
            f"{took['processor s']:.0f} s of CPU, {took['GiB'] * 1024:.0f} MiB"
        )
        jobs = api.batch.list_namespaced_job(namespace, limit=1)
        there = len(jobs.items) + (jobs.metadata.remaining_item_count or 0)
        records = [
            len(json.dumps(api.core.api_client.sanitize_for_serialization(secret)))
            for secret in api.core.list_namespaced_secret(namespace).items
            if secret.type == "helm.sh/release.v1"
        ]
        print(f"    {there} Jobs; Helm's records: {[f'{size / 1e3:.0f} kB' for size in records]}")


if __name__ == "__main__":
    main()
