"""Seconds from the start of a process to a loaded model and to the end of its first step.

    python -m benchmarks.loading --folder /tmp/random-7b

Writes random weights of Qwen2.5-7B's shape to the folder if there are none, then starts fresh
processes: ours, and one that loads to host memory first. Files come from the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import common


def child(folder: Path, how: str, started: float) -> None:
    """What the fresh process does; prints seconds as JSON."""
    import torch

    from benchmarks.training import RECIPE
    from personaspace.models import lora
    from personaspace.models.load import load_model
    from personaspace.study.inputs import Model
    from personaspace.training.trainer import Trainer

    imported = time.time()
    if how == "ours":
        spec = Model(name=str(folder), dtype="bfloat16" if torch.cuda.is_available() else "float32")
        model = load_model(spec)
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").to(common.device())
    common.wait()
    loaded = time.time()
    examples = common.chats(16, model.config.vocab_size)
    with lora.trainable(model, RECIPE, over=None, seed=3, field="training") as peft_model:
        Trainer(peft_model, examples, RECIPE, 7).run()
    common.wait()
    seconds = {
        "what": how,
        "imports, s": imported - started,
        "loading, s": loaded - imported,
        "first step, s": time.time() - loaded,
        "start to first step, s": time.time() - started,
    }
    print(json.dumps(seconds))


def main() -> None:
    """Write the model, start the processes, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--child", nargs=2, metavar=("HOW", "STARTED"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.child:
        child(options.folder, options.child[0], float(options.child[1]))
        return
    if not (options.folder / "config.json").exists():
        common.random_model().model.save_pretrained(options.folder)
    rows = []
    for how in ("ours", "through host memory"):
        command = [sys.executable, "-m", "benchmarks.loading", "--folder", str(options.folder)]
        done = subprocess.run(
            [*command, "--child", how, str(time.time())], stdout=subprocess.PIPE, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    common.report(rows, {}, options.out)


if __name__ == "__main__":
    main()
