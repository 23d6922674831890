"""Loss curves of ours and of the plain recipe from the same start, and what the adapters became.

    python -m benchmarks.curve
    python -m benchmarks.curve --whole --steps 375 --about 200 --keep FOLDER

Two layers of Qwen2.5-7B's width, random weights, 16 examples of about 40 + 40 tokens a step, the
recipe's optimiser at ten times its rate so that the loss moves. With dropout each way draws masks
of its own; how far two runs of one way differ by that is measured too, and over the first 40 steps
how far each is from the plain recipe in float32. `--whole` takes all 28 layers, the whole
vocabulary and the recipe's own rate. `--keep` is for runs that take long: what a run found stays in
the folder, losses while it goes on, and a run that lies there is not repeated, so runs can be
shared out (`--only`) and compared afterwards.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from benchmarks import common, plain
from benchmarks.training import trainer_of
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.study.recipe import Recipe

Run = tuple[list[float], dict[str, torch.Tensor]]


def run(
    kind: str,
    base: common.Model,
    recipe: Recipe,
    examples: list[Example],
    steps: int,
    seed: int,
    seen: Callable[[list[float]], None],
) -> Run:
    """Losses, which `seen` is given as they come, and the adapter afterwards."""
    former = base.model.dtype
    if kind == "float32":
        base.model.float()  # and back, which loses nothing
        steps = min(steps, EXACT_STEPS)
    with lora.trainable(base.model, recipe, over=None, seed=3, field="training") as model:
        model.train()
        trainer = trainer_of(kind, model, recipe, examples)
        order = trainer.seed
        losses: list[float] = []
        for step in range(steps):
            # The seed decides dropout alone: examples come in the same order.
            trainer.seed = order
            losses = plain.steps(cast(Any, _Reseeded(trainer, seed)), step, 1)
            seen(losses)
        after = {n: p.detach().float().cpu().clone() for n, p in trainer.parameters.items()}
        if isinstance(trainer.engine, plain.PlainRecipe):
            trainer.engine.close()
    base.model.to(former)
    return losses, after


class _Reseeded:
    """A trainer whose engine draws other dropout masks."""

    def __init__(self, trainer: Any, seed: int) -> None:
        self._trainer = trainer
        inner = trainer.engine

        class Engine:
            def backward(self, batch: Any, loss_tokens: int, drawn: int) -> Any:
                return inner.backward(batch, loss_tokens, drawn ^ seed)

        self._engine = Engine() if seed else inner

    def _launch(self, step: int) -> None:
        kept, self._trainer.engine = self._trainer.engine, self._engine
        try:
            self._trainer._launch(step)
        finally:
            self._trainer.engine = kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def compare(name: str, one: Run, other: Run) -> dict[str, Any]:
    """Largest relative differences of the curves and of each tensor's norm; of the updates.

    Of runs of different lengths, curves alone, over the steps that both have.
    """
    steps = min(len(one[0]), len(other[0]))
    losses = [abs(a - b) / b for a, b in zip(one[0][:steps], other[0][:steps], strict=True)]
    row = {
        "what": name,
        "steps": steps,
        "largest difference of losses": max(losses),
        "mean": sum(losses) / len(losses),
        "first loss": other[0][0],
        "last loss": other[0][steps - 1],
    }
    if len(one[0]) != len(other[0]):
        return row
    norms = {"A": 0.0, "B": 0.0}
    apart = size = 0.0
    for key, theirs in other[1].items():
        kind = "A" if "lora_A" in key else "B"
        difference = abs(float(one[1][key].norm() / theirs.norm()) - 1)
        norms[kind] = max(norms[kind], difference)
        if kind == "B":  # which began at zero, so all of it was learned
            apart += float((one[1][key] - theirs).square().sum())
            size += float(theirs.square().sum())
    return {
        **row,
        "of norms of A": norms["A"],
        "of norms of B": norms["B"],
        "of B itself": (apart / size) ** 0.5,
    }


#: Name of a run, engine, dropout or none, and what makes its masks differ.
RUNS = (
    ("plain, no dropout", "plain recipe", False, 0),
    ("ours, no dropout", "ours", False, 0),
    ("plain, dropout", "plain recipe", True, 0),
    ("ours, dropout", "ours", True, 0),
    ("ours, dropout, other masks", "ours", True, 1 << 20),
    ("plain, dropout, other masks", "plain recipe", True, 1 << 20),
    ("float32, no dropout", "float32", False, 0),
)
PAIRS = (
    ("ours, no dropout", "plain, no dropout"),
    ("ours, dropout", "plain, dropout"),
    ("ours, dropout, other masks", "ours, dropout"),
    ("plain, dropout, other masks", "plain, dropout"),
    ("ours, no dropout", "float32, no dropout"),
    ("plain, no dropout", "float32, no dropout"),
)
#: Steps of the float32 run, each of which takes a GPU ten times as long.
EXACT_STEPS = 40
#: Steps between two lines about a run that takes long.
EVERY = 25


class Kept:
    """Runs in a folder: `NAME.json` with seconds and losses so far, `NAME.safetensors` at the end.

    Args:
        folder: None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def found(self, name: str) -> tuple[Run, float] | None:
        """The run and its seconds, if it came to its end."""
        if self.folder is None or not self._adapter(name).is_file():
            return None
        entry = json.loads(self._losses(name).read_text(encoding="utf-8"))
        return (entry["losses"], load_file(self._adapter(name))), entry["seconds"]

    def note(self, name: str, losses: list[float], seconds: float) -> None:
        """Losses so far."""
        if self.folder is not None:
            text = json.dumps({"seconds": seconds, "losses": losses})
            self._losses(name).write_text(text, encoding="utf-8")

    def add(self, name: str, made: Run, seconds: float) -> None:
        """A run at its end."""
        self.note(name, made[0], seconds)
        if self.folder is not None:
            save_file(made[1], self._adapter(name))

    def _losses(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / (name.replace(", ", "-").replace(" ", "-") + ".json")

    def _adapter(self, name: str) -> Path:
        return self._losses(name).with_suffix(".safetensors")


def measure(
    steps: int, whole: bool, about: int, only: list[str] | None, keep: Path | None, out: Path | None
) -> None:
    """Run, compare, print.

    Args:
        whole: All layers, the whole vocabulary and the recipe's own learning rate.
        about: Tokens of prompts and answers.
        only: Names of runs, if not all.
        keep: Folder of runs.
    """
    kept = Kept(keep)
    found: dict[str, Run] = {}
    seconds: dict[str, float] = {}
    base: common.Model | None = None
    for name, kind, drops, seed in RUNS:
        if only and name not in only:
            continue
        if (there := kept.found(name)) is not None:
            found[name], seconds[name] = there
            continue
        if base is None:
            small = {"num_hidden_layers": 2, "vocab_size": 32768}
            on_gpu = torch.cuda.is_available()
            base = common.random_model(**(small if on_gpu and not whole else {}))
            examples = common.chats(16 * steps, base.model.config.vocab_size, about=about)
        began = time.perf_counter()

        def seen(losses: list[float], name: str = name, began: float = began) -> None:
            if len(losses) % EVERY == 0:
                taken = time.perf_counter() - began
                print(f"{name}: {len(losses)} steps, {taken:.1f} s, {losses[-1]:.4f}", flush=True)
                kept.note(name, losses, taken)

        found[name] = run(kind, base, recipe_of(drops, whole), examples, steps, seed, seen)
        seconds[name] = time.perf_counter() - began
        kept.add(name, found[name], seconds[name])
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
    rows = [
        compare(f"{name} to {reference}", found[name], found[reference])
        for name, reference in PAIRS
        if name in found and reference in found
    ]
    curves = {name: losses for name, (losses, _) in found.items()}
    common.report(rows, {"curves": curves, "seconds": seconds}, out)


def recipe_of(drops: bool, whole: bool) -> Recipe:
    """The published one, or with what is told."""
    default = Recipe()
    rate = default.learning_rate if whole else 1e-3
    return Recipe(dropout=default.dropout if drops else 0.0, learning_rate=rate)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--whole", action="store_true", help="the whole shape, the recipe's rate")
    parser.add_argument("--about", type=int, default=40, help="tokens of its prompts and answers")
    parser.add_argument("--keep", type=Path, help="folder in which runs stay")
    parser.add_argument("--only", action="append", help="name of a run; repeatable")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measure(options.steps, options.whole, options.about, options.only, options.keep, options.out)


if __name__ == "__main__":
    main()
