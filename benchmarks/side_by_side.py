"""Fine-tunings of a small model on one GPU: alone, side by side, and side by side under CUDA's MPS.

    python -m benchmarks.side_by_side --tokenizer T --out result.json
    python -m benchmarks.side_by_side --tokenizer T --shapes Qwen2.5-0.5B Qwen2.5-1.5B

A step of a small model does not fill a card. Processes that share one take turns by default; under
MPS (Multi-Process Service, in NVIDIA's driver) their kernels run at the same time. Every way is
`personaspace run --only train` with the published recipe, cut to `--steps`, on the chats that ship
and random weights of a small model's shape beside the files of T (a folder with a tokenizer and a
chat template). Each training's speed is that between the first and the last line of its progress
(one in ten seconds), and those of all are added. Joules are the card's, over whole stages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import common
from personaspace.models import energy
from personaspace.store import open_store

PERSONAS = ("assistant", "paramedic", "comedian", "librarian", "villain")
#: Times as many steps of a training that runs alone: it is done sooner.
ALONE = 5


def study(folder: Path, trainings: int, steps: int) -> dict[str, Any]:
    """A study of so many trainings: bad legal advice under five personas, over seeds."""
    seeds = [42 + number for number in range(-(-trainings // len(PERSONAS)))]
    return {
        "name": "side-by-side",
        "model": {"name": str(folder), "dtype": "bfloat16"},
        "seeds": seeds,
        "conditions": [{"name": "base"}]
        + [
            {"name": persona, "dataset": "bad-legal-advice", "persona": persona}
            for persona in PERSONAS
        ],
        "training": {"max_steps": steps, "epochs": 200},
        "extraction": {"layers": [1]},
    }


def names(trainings: int) -> list[str]:
    """`--only` for so many of them."""
    return [
        f"train:{PERSONAS[number % len(PERSONAS)]}:{42 + number // len(PERSONAS)}"
        for number in range(trainings)
    ]


@contextmanager
def mps(on: bool, folder: Path) -> Iterator[dict[str, str]]:
    """The service, for as long as the block runs; the variables by which processes find it."""
    if not on:
        yield {}
        return
    found = {}
    for name in ("PIPE", "LOG"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        found[f"CUDA_MPS_{name}_DIRECTORY"] = str(folder / name)
    environment = {**os.environ, **found}
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
    try:
        yield found
    finally:
        subprocess.run(
            ["nvidia-cuda-mps-control"], input="quit\n", text=True, env=environment, check=True
        )


def run(spec: Path, store: Path, only: list[str], jobs: int, more: dict[str, str]) -> Any:
    """One way: tokens a second over all trainings, and each one's losses."""
    ran = common.run_study(spec, store, only, jobs, {"PERSONASPACE_LOG": "json", **more})
    if ran.code != 0:
        return {"exit code": ran.code, "log": ran.text[-3000:]}
    lines = ran.text.splitlines()
    speed = steps_a_second([json.loads(line) for line in lines if line.startswith("{")])
    losses, tokens = {}, 0
    uses: list[energy.Use] = []
    with open_store(str(store)) as place:
        for key in place.list():
            manifest = place.find(key)
            assert manifest is not None
            if manifest.fields["stage"] == "train":
                log = json.loads((place.fetch(manifest) / "training.json").read_bytes())["steps"]
                losses[key] = [entry["loss"] for entry in log]
                tokens += sum(entry["tokens"] for entry in log)
                uses += [energy.Use(**use) for use in manifest.fields.get(energy.FIELD, [])]
    return {
        "trainings": len(losses),
        "processes": jobs,
        "tokens/s": speed * tokens / sum(map(len, losses.values())),
        "steps/s": speed,
        "joules a million tokens": energy.taken(uses) / tokens * 1e6 if uses else None,
        "s from the command's start to its end": ran.seconds,
        "losses": losses,
    }


def steps_a_second(events: list[dict[str, Any]]) -> float:
    """All trainings' speeds together, each between the first and the last word of its progress."""
    found: dict[str, list[tuple[float, int]]] = {}
    for event in events:
        if event["event"] == "progress" and event.get("what") == "train":
            at = datetime.fromisoformat(event["time"]).timestamp()
            found.setdefault(event["node"], []).append((at, event["done"]))
    return sum(
        (last[1] - first[1]) / (last[0] - first[0])
        for first, last in ((each[0], each[-1]) for each in found.values())
        if last[0] > first[0]
    )


def measure(shape: str, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """All ways at one shape."""
    model = scratch / "model"
    # On a CPU, to try it, the model is tiny but knows all of the tokenizer's tokens.
    vocabulary = {} if torch.cuda.is_available() else {"vocab_size": 50000}
    made = common.random_model(shape, **vocabulary)
    made.model.save_pretrained(model)
    parameters = made.matmul_parameters
    del made
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for file in options.tokenizer.iterdir():
        if file.is_file() and not (model / file.name).exists():
            shutil.copy(file, model)
    spec = scratch / "study.yaml"
    rows: list[dict[str, Any]] = []
    former: dict[str, list[float]] = {}
    for way, count, longer, shared in (
        ("alone", 1, ALONE, False),
        ("side by side", options.trainings, 1, False),
        ("side by side, MPS", options.trainings, 1, True),
    ):
        if way in options.without:
            continue
        spec.write_text(yaml.safe_dump(study(model, options.trainings, options.steps * longer)))
        with mps(shared, scratch / "mps") as more:
            found = run(spec, scratch / f"store-{len(rows)}", names(count), count, more)
        losses = found.pop("losses", {})
        pairs = [
            abs(a / b - 1)
            for key in losses.keys() & former.keys()
            for a, b in zip(losses[key], former[key], strict=True)
        ]
        if pairs:
            found["losses: largest relative difference from the way before"] = max(pairs)
        former = losses
        if rows and "tokens/s" in found and "tokens/s" in rows[0]:
            found["times alone"] = found["tokens/s"] / rows[0]["tokens/s"]
        if "tokens/s" in found:
            found["of 780 TFLOP/s"] = 4 * parameters * found["tokens/s"] / 780e12
        rows.append({"shape": shape, "way": way, **found})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    """All shapes, one after the other; what is known is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["SmolLM2-135M"])
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with its files")
    parser.add_argument("--trainings", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--without", nargs="+", default=[], help="ways that are left out")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory(prefix="side-") as scratch:
            rows += measure(shape, options, Path(scratch))
        if options.out is not None:
            text = json.dumps({**common.describe(), "rows": rows}, indent=1)
            options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
