"""LoRA training shared out to several GPUs against one: tokens a second, and the same losses.

    python -m benchmarks.parallel --folder /tmp/random-7b            # all GPUs that are visible
    python -m benchmarks.parallel --folder /tmp/tiny --steps 4       # two processes on a CPU

Writes random weights of Qwen2.5-7B's shape (`--layers` of it) to the folder if there are none. Each
run trains as a stage does (`training.data_parallel`), 16 examples of about 200 + 200 tokens a step;
the clock runs from the end of the step `--warm` to that of the last one. Without dropout the runs
must learn alike, so losses are compared without it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from personaspace.models.load import load_model
from personaspace.models.team import gpus
from personaspace.study.inputs import Model
from personaspace.study.recipe import Recipe
from personaspace.training import data_parallel
from personaspace.training.trainer import StepLog


def measure(base: Any, folder: Path, devices: list[str], warm: int, steps: int) -> dict[str, Any]:
    """One run on the devices."""
    job = data_parallel.Job(
        model=Model(name=str(folder), dtype=str(base.dtype).removeprefix("torch.")),  # type: ignore[arg-type]
        examples=common.chats(16 * (warm + steps), base.config.vocab_size),
        recipe=Recipe(dropout=0.0, checkpoint_every=10**6),
        over=None,
        adapter_seed=3,
        run_seed=7,
        field="training",
        checkpoint=None,
    )
    ends: list[float] = []

    def advance(entry: StepLog) -> None:
        ends.append(time.perf_counter())

    common.peak_gib()
    started = time.perf_counter()
    with data_parallel.leading(job, devices) as team, data_parallel.adapter(job, base) as model:
        log = data_parallel.trainer(job, model, team).run(advance=advance)
    seconds = ends[-1] - ends[warm - 1]
    return {
        "GPUs": len(devices),
        "tokens/s": sum(entry.tokens for entry in log[warm:]) / seconds,
        "s/step": seconds / steps,
        "to the first step's end, s": ends[0] - started,
        "peak GiB of the first": common.peak_gib(),
        "losses": [entry.loss for entry in log],
        "gradient norms": [entry.gradient_norm for entry in log],
    }


def main() -> None:
    """Write the model, run on one and on all, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not (options.folder / "config.json").exists():
        on_gpu = common.device().type == "cuda"
        made = common.random_model(**({"num_hidden_layers": options.layers} if on_gpu else {}))
        made.model.save_pretrained(options.folder)
        del made
    base = load_model(
        Model(
            name=str(options.folder), dtype="bfloat16" if torch.cuda.is_available() else "float32"
        )
    )
    everything = gpus(64) or ["", ""]
    counts = [1]
    while counts[-1] * 2 <= len(everything):
        counts.append(counts[-1] * 2)
    rows = [
        measure(base, options.folder, everything[:count], options.warm, options.steps)
        for count in counts
    ]
    alone = rows[0]
    for row in rows:
        row["times one"] = row["tokens/s"] / alone["tokens/s"]
        for name in ("losses", "gradient norms"):
            pairs = zip(
                row.pop(name) if row is not alone else alone[name], alone[name], strict=True
            )
            row[f"{name}: largest relative difference"] = max(abs(a / b - 1) for a, b in pairs)
    facts = {name: alone.pop(name) for name in ("losses", "gradient norms")}
    common.report(rows, {"layers": base.config.num_hidden_layers, **facts}, options.out)


if __name__ == "__main__":
    main()
