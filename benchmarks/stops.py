"""What a stop costs: seconds from SIGTERM to the exit, and processor seconds of work done again.

    python benchmarks/stops.py study.yaml --out /tmp/stops

Runs the study undisturbed, with each number of `--jobs`; then again and again, stopped once at a
moment drawn between its start and its end, and run to its end. The signal goes to the process
alone or to it and its group, as `timeout` (GNU coreutils) sends it without and with one. Lost are
the processor seconds of both parts less those of the undisturbed run and of a run that finds all
complete: what was computed and not kept, and the loading of libraries and model once more.
"""

from __future__ import annotations

import random
import shutil
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import cost_of, report

TARGETS = {"process": ["--foreground"], "process and group": []}
STOPPED = 75


def _run(spec: Path, store: Path, jobs: int, before: list[str]) -> dict[str, Any]:
    program = [sys.executable, "-m", "personaspace", "run", spec, "--store", store, "--jobs", jobs]
    return cost_of([*before, *program], start_new_session=True)


def _finished(spec: Path, store: Path, jobs: int) -> dict[str, Any]:
    found = _run(spec, store, jobs, [])
    if found["exit code"]:
        raise SystemExit(f"the study ended with exit code {found['exit code']}")
    return found


def _stopped(
    spec: Path, store: Path, jobs: int, target: str, after: float
) -> tuple[float, int, float]:
    """Seconds to the exit, its code, and processor seconds of both parts."""
    before = ["timeout", "--preserve-status", *TARGETS[target], f"{after:.2f}"]
    first = _run(spec, store, jobs, before)
    second = _finished(spec, store, jobs)
    return (
        first["seconds"] - after,
        first["exit code"],
        sum(part["processor s"] for part in (first, second)),
    )


def main(
    spec: Annotated[Path, typer.Argument(help="A study that takes a minute or so.")],
    out: Annotated[Path, typer.Option(help="Folder for stores and figures.")],
    stops: Annotated[int, typer.Option(min=1, help="For each target and number of jobs.")] = 5,
    jobs: Annotated[list[int] | None, typer.Option(help="1 and 2 are the default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Measure, and write the table."""
    out.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for count in jobs or [1, 2]:
        store = out / f"undisturbed-{count}"
        shutil.rmtree(store, ignore_errors=True)
        whole = _finished(spec, store, count)
        start = _finished(spec, store, count)["processor s"]
        for target in TARGETS:
            took, lost, codes = [], [], []
            for number in range(stops):
                store = out / f"stopped-{count}-{number}"
                shutil.rmtree(store, ignore_errors=True)
                after = chance.uniform(0, whole["seconds"])
                seconds, code, used = _stopped(spec, store, count, target, after)
                codes.append(code)
                if code:  # else it was at its end before
                    took.append(seconds)
                    lost.append(used - whole["processor s"] - start)
            if took:
                rows.append(
                    {
                        "SIGTERM to": target,
                        "jobs": count,
                        "stops": len(took),
                        f"exit {STOPPED}": sum(code == STOPPED for code in codes),
                        "s to exit, median": statistics.median(took),
                        "s to exit, most": max(took),
                        "processor s lost, median": statistics.median(lost),
                        "processor s lost, most": max(lost),
                        "undisturbed, processor s": whole["processor s"],
                        "of a start": start,
                    }
                )
            report(rows, {"stops": stops, "seed": seed}, out / "stops.json")


if __name__ == "__main__":
    typer.run(main)
