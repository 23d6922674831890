"""Loss curves of ours and of the plain recipe from the same start, and what the adapters became.

    python -m benchmarks.curve

Two layers of Qwen2.5-7B's width, random weights, 16 examples of about 40 + 40 tokens a step, the
recipe's optimiser at ten times its rate so that the loss moves. With dropout each way draws masks
of its own; how far two runs of the plain recipe differ by that is measured too. `--whole` takes all
28 layers, the whole vocabulary and the recipe's own rate.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks import common, plain
from benchmarks.training import trainer_of
from personaspace import adapters
from personaspace.chat import Example
from personaspace.spec import Recipe

Run = tuple[list[float], dict[str, torch.Tensor]]


def run(
    kind: str, base: common.Model, recipe: Recipe, examples: list[Example], steps: int, seed: int
) -> Run:
    """Losses, and the adapter afterwards."""
    with adapters.trainable(base.model, recipe, over=None, seed=3, field="training") as model:
        model.train()
        trainer = trainer_of(kind, model, recipe, examples)
        order = trainer.seed
        losses: list[float] = []
        for step in range(steps):
            # The seed decides dropout alone: examples come in the same order.
            trainer.seed = order
            losses = plain.steps(cast(Any, _Reseeded(trainer, seed)), step, 1)
        after = {n: p.detach().float().cpu().clone() for n, p in trainer.parameters.items()}
        if isinstance(trainer.engine, plain.PlainRecipe):
            trainer.engine.close()
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
    """Largest relative differences of the curves and of each tensor's norm; of the updates."""
    losses = [abs(a - b) / b for a, b in zip(one[0], other[0], strict=True)]
    norms = {"A": 0.0, "B": 0.0}
    apart = size = 0.0
    for key, theirs in other[1].items():
        kind = "A" if "lora_A" in key else "B"
        difference = abs(float(one[1][key].norm() / theirs.norm()) - 1)
        norms[kind] = max(norms[kind], difference)
        if kind == "B":  # which began at nought, so all of it was learned
            apart += float((one[1][key] - theirs).square().sum())
            size += float(theirs.square().sum())
    return {
        "what": name,
        "largest difference of losses": max(losses),
        "mean": sum(losses) / len(losses),
        "first loss": other[0][0],
        "last loss": other[0][-1],
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
    ("plain, dropout, other masks", "plain recipe", True, 1 << 20),
)
PAIRS = (
    ("ours, no dropout", "plain, no dropout"),
    ("ours, dropout", "plain, dropout"),
    ("plain, dropout, other masks", "plain, dropout"),
)


def measure(steps: int, whole: bool, only: list[str] | None, out: Path | None) -> None:
    """Run, compare, print.

    Args:
        whole: All layers, the whole vocabulary and the recipe's own learning rate.
        only: Names of runs, if not all.
    """
    on_gpu = torch.cuda.is_available()
    small = {"num_hidden_layers": 2, "vocab_size": 32768} if on_gpu and not whole else {}
    base = common.random_model(**small)
    examples = common.chats(16 * steps, base.model.config.vocab_size, about=40)
    found: dict[str, Run] = {}
    seconds: dict[str, float] = {}
    default = Recipe()
    rate = default.learning_rate if whole else 1e-3
    for name, kind, drops, seed in RUNS:
        if only and name not in only:
            continue
        dropout = default.dropout if drops else 0.0
        recipe = Recipe(dropout=dropout, learning_rate=rate)
        began = time.perf_counter()
        found[name] = run(kind, base, recipe, examples, steps, seed)
        seconds[name] = time.perf_counter() - began
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
    rows = [
        compare(f"{name} to {reference}", found[name], found[reference])
        for name, reference in PAIRS
        if name in found and reference in found
    ]
    curves = {name: losses for name, (losses, _) in found.items()}
    common.report(rows, {"curves": curves, "seconds": seconds}, out)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--whole", action="store_true", help="the whole shape, the recipe's rate")
    parser.add_argument("--only", action="append", help="name of a run; repeatable")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measure(options.steps, options.whole, options.only, options.out)


if __name__ == "__main__":
    main()
