"""A small study on the GPUs of one host: trainings shared out by them, conditions side by side.

    python -m benchmarks.several_gpus --out result.json        # all GPUs that are visible
    python -m benchmarks.several_gpus --small --out tiny.json  # two processes on a CPU, to try it

Both parts go through `personaspace run`, as a user's study does:

- `shared`: base, benign and E0 with `gpus: 1` and with `gpus: N`, without dropout. Artifacts must
  be the same, with the same fingerprints; how far adapters and hidden states differ is said.
- `beside`: fine-tuning and hidden states of seven conditions, on one card and on all, as many
  processes on each card: wall time from the command's start to its end.

SmolLM2-135M-Instruct, seed 42. Stages by themselves: `benchmarks.parallel`, `benchmarks.sharded`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

from benchmarks import common
from personaspace.models.team import gpus
from personaspace.store import open_store

EM: dict[str, str | None] = {
    "e0-assistant": None,
    "e1-paramedic": "paramedic",
    "e2-kindergarten-teacher": "kindergarten_teacher",
    "e3-french-person": "french_person",
    "e4-villain": "villain",
}
#: Steps of fine-tuning, questions of extraction, where everything is to be tried on a CPU.
SMALL = (2, 2)
#: Processes on a card.
EACH = 4


def study(steps: int, questions: int, names: list[str], cards: int, dropout: float) -> Any:
    """A study's fields: base, benign and the named EM conditions."""
    trained: list[dict[str, str | None]] = [
        {"name": "benign", "kind": "benign", "dataset": "instructions"}
    ]
    trained += [{"name": n, "dataset": "bad-legal-advice", "persona": EM[n]} for n in names]
    return {
        "name": "several-gpus",
        "model": {
            "name": "builtin:smollm2-135m-instruct",
            "dtype": "bfloat16" if gpus(1) else "float32",
        },
        "seeds": [42],
        "conditions": [{"name": "base"}, *({**each, "gpus": cards} for each in trained)],
        "training": {
            "max_steps": steps,
            "epochs": 24,
            "dropout": dropout,
            **({} if gpus(1) else {"batch_size": 2, "max_tokens": 96, "row_tokens": 128}),
        },
        "extraction": {
            "layers": [9, 20],
            "limit": questions,
            "max_new_tokens": 32 if gpus(1) else 4,
        },
    }


def run(spec: Any, folder: Path, jobs: int, visible: str | None) -> dict[str, Any]:
    """`personaspace run --only train --only extract` of it; wall time and how it ended."""
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    chosen = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    only = ("train", "extract")
    ran = common.run_study(folder / "study.yaml", folder / "store", only, jobs, chosen)
    found = {"exit code": ran.code, "seconds": ran.seconds}
    return found if ran.code == 0 else found | {"log": ran.text[-3000:]}


def artifacts(folder: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Fingerprint and arrays of each artifact, by its key."""
    found = {}
    with open_store(str(folder / "store")) as place:
        for key in place.list():
            manifest = place.find(key)
            assert manifest is not None
            arrays: dict[str, Any] = {}
            for path in sorted(place.fetch(manifest).rglob("*.safetensors")):
                arrays |= {f"{path.name}/{name}": a for name, a in load_file(path).items()}
            found[key] = (str(manifest.fields["fingerprint"]), arrays)
    return found


def compared(one: Path, several: Path) -> dict[str, Any]:
    """Whether both hold the same artifacts; the largest gap of an array, as a share of its norm."""
    left, right = artifacts(one), artifacts(several)
    gaps: dict[str, float] = {}
    for key in sorted(left.keys() & right.keys()):
        for name, a in left[key][1].items():
            x, y = a.astype(np.float64), right[key][1][name].astype(np.float64)
            # Method B's are means over a model's own answers, which part at a close call.
            kind = f"{key.split('/')[-2]} {name.split('/')[0]}"
            gap = float(np.linalg.norm(x - y)) / max(float(np.linalg.norm(x)), 1e-30)
            gaps[kind] = max(gap, gaps.get(kind, 0.0))
    return {
        "artifacts": len(left),
        "same keys": sorted(left) == sorted(right),
        "same fingerprints": [f for f, _ in left.values()] == [f for f, _ in right.values()],
        "largest gap": gaps,
    }


def shared(root: Path, cards: int, steps: int, questions: int) -> dict[str, Any]:
    """A training on one card against one that several share."""
    rows = {}
    for count in (1, cards):
        spec = study(steps, questions, ["e0-assistant"], count, 0.0)
        rows[f"gpus: {count}"] = run(spec, root / f"shared-{count}", 1, None)
    return {**rows, **compared(root / "shared-1", root / f"shared-{cards}")}


def beside(root: Path, cards: int, steps: int, questions: int) -> dict[str, Any]:
    """Seven conditions, on one card and on all of them."""
    spec = study(steps, questions, list(EM), 1, 0.05)
    on_gpu = bool(gpus(1))
    rows: dict[str, dict[str, Any]] = {}
    for count in (1, cards):
        jobs = count * (EACH if on_gpu else 1)
        visible = ",".join(gpus(64)[:count]) if on_gpu else None
        rows[f"cards: {count}, --jobs {jobs}"] = run(spec, root / f"beside-{count}", jobs, visible)
    first, last = (row["seconds"] for row in rows.values())
    return {**rows, "times as fast": first / last}


def main() -> None:
    """Both parts, one after the other; what is known is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("shared", "beside"))
    parser.add_argument("--small", action="store_true", help="few steps and questions")
    parser.add_argument("--steps", type=int, default=375)
    parser.add_argument("--questions", type=int, default=240)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    steps, questions = SMALL if options.small else (options.steps, options.questions)
    cards = len(gpus(64)) or 2
    if cards < 2:
        parser.error("one GPU is visible; this compares several with one")
    found: dict[str, Any] = {**common.describe(), "cards": cards}
    with tempfile.TemporaryDirectory(prefix="several-") as scratch:
        for name in options.parts or ("shared", "beside"):
            part = {"shared": shared, "beside": beside}[name]
            found[name] = part(Path(scratch), cards, steps, questions)
            print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
