"""Aggregate of a full-size study: time, memory, and the ratio to a plain loop.

    python benchmarks/aggregate.py --layers 1 --questions 24 --hidden 256 --loop-draws 200
    python benchmarks/aggregate.py --json results.json

Writes activation files and scores with a planted truth to a temporary folder (1.5 GB at full size;
their pages are then in memory, as after a download), and measures, each in a process of its own:

- `published`: the published tests alone, files to rows;
- `everything`: published and recommended, files to rows, and the leakage tests;
- `loop`: the published tests as loops over pairs, personas and draws, one cell, with `--loop-draws`
  of the draws, scaled to all draws and cells. Only its means are vectorised.
- `resampling`: M1's hierarchical bootstrap as a loop that draws personas and questions and computes
  vectors and cosines anew, one cell, `--resamples` draws, scaled likewise. It is a part of what
  `everything` reports.

Times are wall-clock and CPU seconds (user and system, all threads); memory is the peak resident
set.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from simulate import CONDITIONS, PERSONAS, SOURCE, Arm, Leakage

from personaspace.activations.files import find_activations, open_activations, write_activations

SEED = 42
ARMS = {
    "base": Arm(),
    "benign": Arm(0.6, 0.3),
    "e0-assistant": Arm(0.3, 1.0),
    "e1-paramedic": Arm(0.3, 1.0),
    "e2-kindergarten-teacher": Arm(0.3, 1.0),
    "e3-french-person": Arm(0.25, 1.0),
    "e4-villain": Arm(0.35, 1.0),
}


def write_study(folder: Path, options: argparse.Namespace) -> int:
    """Writes all files; returns their bytes."""
    personas, questions, hidden = options.personas, options.questions, options.hidden
    layers = list(range(options.layers))
    names = [*PERSONAS, *(f"persona_{i}" for i in range(personas))][:personas]
    for method in ("a", "b")[: options.methods]:
        world = np.random.default_rng(1)
        mean = world.normal(0, 3, (options.layers, hidden)).astype(np.float32)
        axis = world.normal(0, 0.5, (options.layers, hidden)).astype(np.float32)
        different = world.normal(0, 0.7, (personas, 1, hidden)).astype(np.float32)
        shared = world.normal(0, 0.6, (questions, 1, hidden)).astype(np.float32)
        runs = [
            (index, name, number)
            for index, name in enumerate(ARMS)
            for number in range(options.seeds if index else 1)  # base is not trained
        ]
        for index, condition, number in runs:
            arm = ARMS[condition]
            rng = np.random.default_rng([2, index, ord(method), *([number] if number else [])])
            vectors = mean + arm.spread * different + arm.shift * axis
            vectors = vectors + rng.normal(0, 0.1, vectors.shape).astype(np.float32)
            states = np.empty((personas, questions, options.layers, hidden), dtype=np.float16)
            for persona in range(personas):
                noise = rng.standard_normal((questions, options.layers, hidden), dtype=np.float32)
                states[persona] = vectors[persona] + shared + noise
            write_activations(
                folder / f"{condition}.seed-{SEED + number}.{method}.safetensors",
                states,
                np.ones((personas, questions), dtype=bool),
                personas=names,
                questions=[f"question {q}" for q in range(questions)],
                layers=layers,
                condition=condition,
                seed=SEED + number,
                method=method,
            )
    return sum(path.stat().st_size for path in folder.iterdir())


def _pairs(vectors: np.ndarray) -> list[float]:
    found = []
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            lengths = math.sqrt(float(vectors[i] @ vectors[i]) * float(vectors[j] @ vectors[j]))
            found.append(float(vectors[i] @ vectors[j]) / lengths)
    return found


def _sign_flips(differences: list[float], draws: int, rng: random.Random) -> float:
    observed, reached = abs(sum(differences) / len(differences)), 0
    for _ in range(draws):
        flipped = sum(d if rng.random() < 0.5 else -d for d in differences)
        reached += abs(flipped / len(differences)) >= observed
    return reached / draws


def _resampled(values: list[float], draws: int, rng: random.Random) -> tuple[float, float]:
    means = []
    for _ in range(draws):
        means.append(sum(rng.choices(values, k=len(values))) / len(values))
    means.sort()
    return means[int(0.025 * draws)], means[int(0.975 * draws)]


def _relabelled(before: list[float], after: list[float], draws: int, rng: random.Random) -> float:
    n, everything = len(before), before + after
    observed, reached = sum(after) / n - sum(before) / n, 0
    for _ in range(draws):
        rng.shuffle(everything)
        reached += sum(everything[n:]) / n - sum(everything[:n]) / n >= observed
    return reached / draws


def _on_axis(vectors: np.ndarray, axis: np.ndarray, skip: int) -> list[float]:
    found = []
    for index, vector in enumerate(vectors):
        if index != skip:
            lengths = math.sqrt(float(vector @ vector) * float(axis @ axis))
            found.append(abs(float(vector @ axis)) / lengths)
    return found


def loop_cell(
    folder: Path, method: str, layer: int, permutations: int, bootstrap: int
) -> dict[str, float]:
    """The published M1 and M2 of one method and layer, in plain loops; seconds of its parts."""
    started = time.perf_counter(), time.process_time()
    rng, vectors = random.Random(1), {}
    for condition in ARMS:
        file = open_activations(folder / f"{condition}.seed-{SEED}.{method}.safetensors")
        states = file.read_layer(layer).astype(np.float64)
        vectors[condition] = np.stack([persona.mean(axis=0) for persona in states])
    skip = file.personas.index("assistant")
    axis = vectors["e0-assistant"][skip] - vectors["base"][skip]
    base, benign = _pairs(vectors["base"]), _pairs(vectors["benign"])
    before = _on_axis(vectors["base"], axis, skip)
    read = time.perf_counter(), time.process_time()
    for condition in list(ARMS)[1:]:
        mine = _pairs(vectors[condition])
        _sign_flips([a - b for a, b in zip(mine, base, strict=True)], permutations, rng)
        _resampled(mine, bootstrap, rng)
        if condition != "benign":
            _sign_flips([a - b for a, b in zip(mine, benign, strict=True)], permutations, rng)
        _relabelled(before, _on_axis(vectors[condition], axis, skip), permutations, rng)
    done = time.perf_counter(), time.process_time()
    return {
        "read_wall": read[0] - started[0],
        "read_cpu": read[1] - started[1],
        "draws_wall": done[0] - read[0],
        "draws_cpu": done[1] - read[1],
    }


def resampling_cell(folder: Path, method: str, layer: int, draws: int) -> dict[str, float]:
    """M1's bootstrap over personas and questions in a plain loop; seconds of its parts."""
    started = time.perf_counter(), time.process_time()
    rng, states = np.random.default_rng(1), {}
    for condition in ARMS:
        file = open_activations(folder / f"{condition}.seed-{SEED}.{method}.safetensors")
        states[condition] = file.read_layer(layer)
    personas, questions = len(file.personas), len(file.questions)
    read = time.perf_counter(), time.process_time()
    for _ in range(draws):
        chosen = rng.integers(0, personas, personas)
        asked = rng.integers(0, questions, questions)
        means = {}
        for condition, values in states.items():
            vectors = np.stack([values[persona][asked].mean(axis=0) for persona in chosen])
            means[condition] = sum(_pairs(vectors)) / (personas * (personas - 1) / 2)
    done = time.perf_counter(), time.process_time()
    return {
        "read_wall": read[0] - started[0],
        "read_cpu": read[1] - started[1],
        "draws_wall": done[0] - read[0],
        "draws_cpu": done[1] - read[1],
    }


def measured(folder: Path, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """One of the three tasks; run in a process of its own."""
    start = time.perf_counter()
    extra: dict[str, Any] = {}
    if what == "loop":
        share = options.loop_draws / options.permutations
        bootstrap = max(1, round(options.bootstrap * share))
        extra |= loop_cell(folder, "a", 0, options.loop_draws, bootstrap)
        extra["share_of_draws"] = share
    elif what == "resampling":
        extra |= resampling_cell(folder, "a", 0, options.resamples)
        extra["share_of_draws"] = options.resamples / options.bootstrap
    else:
        from personaspace.analysis.geometry import analyse_geometry
        from personaspace.analysis.leakage import analyse_leakage

        extra["import_seconds"] = time.perf_counter() - start
        variants = ("published",) if what == "published" else ("published", "recommended")
        result = analyse_geometry(
            find_activations(folder)[0],
            permutations=options.permutations,
            bootstrap=options.bootstrap,
            variants=variants,
            processes=options.processes,
        )
        extra["rows"] = len(result.rows)
        if what == "everything":
            rows = analyse_leakage(
                Leakage().scores(np.random.default_rng(1)),
                CONDITIONS,
                source=SOURCE,
                negatives=("data_scientist", "police_officer"),
                unseen={f"question {q}" for q in range(8)},
                permutations=options.permutations,
                bootstrap=options.bootstrap,
            )
            extra["rows"] += len(rows)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "what": what,
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gib": usage.ru_maxrss / 2**20,
    } | extra


def _in_own_process(folder: Path, what: str, arguments: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, *arguments, "--folder", str(folder), "--task", what]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _scaled(task: dict[str, Any], cells: int, clock: str) -> float:
    return cells * (task[f"read_{clock}"] + task[f"draws_{clock}"] / task["share_of_draws"])


def _ratio(loop: dict[str, Any], ours: dict[str, Any], cells: int) -> dict[str, float]:
    """A loop on all cells with all draws against ours."""
    found = {}
    for clock in ("wall", "cpu"):
        seconds = _scaled(loop, cells, clock)
        found |= {f"{clock}_seconds": seconds, f"{clock}_ratio": seconds / ours[f"{clock}_seconds"]}
    return found | {"share_of_draws": loop["share_of_draws"]}


def _table(found: dict[str, Any]) -> Iterator[str]:
    yield f"{'':12}{'wall s':>10}{'CPU s':>10}{'peak GiB':>10}"
    for task in found["tasks"]:
        yield (
            f"{task['what']:12}{task['wall_seconds']:10.1f}{task['cpu_seconds']:10.1f}"
            f"{task['peak_gib']:10.2f}"
        )
    for name, against in (("loop", "published"), ("resampling", "everything")):
        part = found[name]
        yield (
            f"{name} on all {found['cells']} cells (measured on one with "
            f"{part['share_of_draws']:.2%} of the draws, scaled): wall {part['wall_seconds']:.0f} "
            f"s, CPU {part['cpu_seconds']:.0f} s; ratio to {against}: wall "
            f"{part['wall_ratio']:.1f}, CPU {part['cpu_ratio']:.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", type=int, default=2, choices=(1, 2))
    parser.add_argument("--personas", type=int, default=12)
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--hidden", type=int, default=3584)
    parser.add_argument("--permutations", type=int, default=10_000)
    parser.add_argument("--bootstrap", type=int, default=2_000)
    parser.add_argument("--loop-draws", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    if options.task:
        print(json.dumps(measured(options.folder, options.task, options)))
        return
    arguments = [a for a in sys.argv[1:]]
    if options.json:
        at = arguments.index("--json")
        del arguments[at : at + 2]
    with tempfile.TemporaryDirectory() as name:
        size = write_study(Path(name), options)
        tasks = [
            _in_own_process(Path(name), what, arguments)
            for what in ("published", "everything", "loop", "resampling")
        ]
    cells = options.layers * options.methods * options.seeds
    published, everything, loop, resampling = tasks
    found = {
        "study": {k: v for k, v in vars(options).items() if k not in ("folder", "task", "json")},
        "bytes": size,
        "cells": cells,
        "tasks": tasks,
        "loop": _ratio(loop, published, cells),
        "resampling": _ratio(resampling, everything, cells),
    }
    print("\n".join(_table(found)))
    text = json.dumps(found, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
