"""LoRA training: tokens a second of ours, of the plain recipe, and of the GPU's ceiling.

    python -m benchmarks.training                    # Qwen2.5-7B's shape on a GPU
    python -m benchmarks.training --only ours --steps 3   # tiny on a CPU
    python -m benchmarks.training --only ours --memory 24 # as on a card of 24 GiB
    python -m benchmarks.training --whole 375             # a whole run, from start to saved adapter

Random weights, 16 examples of about 200 + 200 tokens a step. FLOPs are counted as 4·N a token:
twice N forward, and twice N backward for the inputs' gradients, the base weights being frozen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common, plain
from personaspace import adapters, training
from personaspace.spec import Recipe

RECIPE = Recipe()


def trainer_of(kind: str, model: Any, recipe: Recipe, examples: Any) -> training.Trainer:
    """A trainer with the named engine."""
    if kind == "plain recipe":
        engine: Any = plain.PlainRecipe(model, recipe)
    elif kind == "model's own forward, packed":
        engine = training.PlainStep(model, recipe.row_tokens or training.PLAIN_ROW_TOKENS)
    else:
        engine = training.step_engine(model, examples, recipe)
    return training.Trainer(model, examples, recipe, 7, engine=engine)


def measure(kind: str, base: common.Model, warm: int, count: int) -> dict[str, Any]:
    """Runs steps of one engine; warm-up apart."""
    vocabulary = base.model.config.vocab_size
    examples = common.chats(16 * (warm + count), vocabulary)
    with adapters.trainable(base.model, RECIPE, over=None, seed=3, field="training") as model:
        model.train()
        common.peak_gib()
        trainer = trainer_of(kind, model, RECIPE, examples)
        first = common.timed(lambda: plain.steps(trainer, 0, 1))
        common.timed(lambda: plain.steps(trainer, 1, warm - 1))
        seconds = common.timed(lambda: plain.steps(trainer, warm, count))
        if isinstance(trainer.engine, plain.PlainRecipe):
            trainer.engine.close()
    tokens = sum(entry.tokens for entry in trainer.log[-count:])
    rate = tokens / seconds
    return {
        "what": kind,
        "tokens/s": rate,
        "TFLOP/s": 4 * base.matmul_parameters * rate / 1e12,
        "s/step": seconds / count,
        "first step, s": first,
        "peak GiB": common.peak_gib(),
        "plan": str(getattr(trainer.engine, "plan", "")),
    }


def whole(base: common.Model, steps: int, before: float, about: int = 200) -> dict[str, Any]:
    """A whole run with its schedule, checkpoints and saved adapter; `before`: seconds to load."""
    examples = common.chats(16 * steps, base.model.config.vocab_size, about)
    checkpoints: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:

        def save(step: int, write: Callable[[Path], None]) -> None:
            folder = Path(scratch) / str(step)
            folder.mkdir()
            checkpoints.append(common.timed(lambda: write(folder)))

        started = time.perf_counter()
        with adapters.trainable(base.model, RECIPE, over=None, seed=3, field="training") as model:
            trainer = training.Trainer(model, examples, RECIPE, 7)
            first: list[float] = []
            log = trainer.run(
                training.Checkpoints(load=lambda: None, save=save),
                lambda _: first.append(time.perf_counter() - started) if not first else None,
            )
            common.wait()
            trained = time.perf_counter()
            adapters.save(model, Path(scratch), "random")
        seconds = time.perf_counter() - started
    tokens = sum(entry.tokens for entry in log)
    compute = 4 * base.matmul_parameters * tokens / (780e12 * seconds)
    return {
        "steps": len(log),
        "tokens": tokens,
        "seconds": seconds,
        "model, s": before,
        "first step, s": first[0],
        "checkpoints, s": sum(checkpoints),
        "saving, s": seconds - (trained - started),
        "tokens/s": tokens / seconds,
        "share at 780 TFLOP/s": compute,
        "first loss": log[0].loss,
        "last loss": log[-1].loss,
        "peak GiB": common.peak_gib(),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="ours, plain recipe, …; repeatable")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plain-steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="of ours, for the spread")
    parser.add_argument("--about", type=int, default=200, help="tokens of its prompts and answers")
    parser.add_argument("--memory", type=float, help="GiB of the card that may be used")
    parser.add_argument("--whole", type=int, help="steps of one whole run of ours, and no table")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    common.limit_memory(options.memory)
    base = common.random_model()
    if options.whole:
        rows = [whole(base, options.whole, time.perf_counter() - began, options.about)]
        common.report(rows, {"ceiling_tflops": common.ceiling()}, options.out)
        return
    wanted = options.only or ["plain recipe", "ours"]
    rows = []
    for kind in wanted:
        slow = kind != "ours"
        for _ in range(1 if slow else options.repeats):
            count = options.plain_steps if slow else options.steps
            rows.append(measure(kind, base, 1 if slow else 3, count))
    limit = common.ceiling()
    add_ratios(rows, limit)
    facts = {"ceiling_tflops": limit, "seconds": time.perf_counter() - began}
    common.report(rows, facts, options.out)


def add_ratios(rows: list[dict[str, Any]], limit: float) -> None:
    """Adds shares of the ceiling and multiples of the plain recipe."""
    slowest = next((row["tokens/s"] for row in rows if row["what"] == "plain recipe"), None)
    for row in rows:
        row["of ceiling"] = row["TFLOP/s"] / limit
        row["of 780 TFLOP/s"] = row["TFLOP/s"] / 780
        if slowest:
            row["times plain"] = row["tokens/s"] / slowest


if __name__ == "__main__":
    main()
