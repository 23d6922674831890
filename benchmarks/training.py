"""LoRA training: tokens a second of ours, of the plain recipe, and of the GPU's ceiling.

    python -m benchmarks.training                    # Qwen2.5-7B's shape on a GPU
    python -m benchmarks.training --only ours --steps 3   # tiny on a CPU
    python -m benchmarks.training --only ours --memory 24 # as on a card of 24 GiB
    python -m benchmarks.training --only coupling --only recomputed
    python -m benchmarks.training --whole 375             # a whole run, from start to saved adapter
    python -m benchmarks.training --whole 375 --profile   # and what the GPU did meanwhile

Random weights, 16 examples of about 200 + 200 tokens a step. FLOPs are counted as 4·N a token:
twice N forward, and twice N backward for the inputs' gradients, the base weights being frozen.
`coupling` is the second adapter over a frozen first one, on answers of 64 and of 200 tokens whose
last four carry loss; `recomputed` is ours with half of the layers computed again. `--whole` reads
from the driver in which share of the time a kernel ran; `--profile` traces kernels in four windows.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import busy, common, plain
from personaspace import fastlora
from personaspace.fastlora.memory import LONGEST_ROW, MemoryPlan
from personaspace.fastlora.training import PackedStep
from personaspace.models import energy, lora
from personaspace.study.measuring import Coupling
from personaspace.study.recipe import Recipe
from personaspace.training.checkpoints import Checkpoints
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import StepLog, Trainer, step_engine

RECIPE = Recipe()
#: Mean tokens of 16 of `common.chats`: prompts and answers have 200 each on average.
STEP_TOKENS = 16 * 400
#: Steps before the clock, of the peers.
WARM = 3


def trainer_of(kind: str, model: Any, recipe: Recipe, examples: Any) -> Trainer:
    """A trainer with the named engine."""
    if kind == "plain recipe":
        engine: Any = plain.PlainRecipe(model, recipe)
    elif kind == "float32":
        engine = plain.PlainRecipe(model, recipe, exact=True)
    elif kind == "model's own forward, packed":
        engine = PlainStep.planned(model, examples, recipe.row_tokens)
    elif kind == "recomputed":
        engine = PackedStep(model, MemoryPlan(LONGEST_ROW, model.config.num_hidden_layers // 2))
    else:
        engine = step_engine(model, examples, recipe)
    return Trainer(model, examples, recipe, 7, engine=engine)


@contextmanager
def adapted(kind: str, base: common.Model) -> Iterator[Any]:
    """The model with what is trained, over a random frozen adapter for `coupling`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = None
        if kind.startswith("coupling"):
            folder = Path(scratch)
            with lora.trainable(base.model, RECIPE, over=None, seed=5, field="training") as first:
                for name, parameter in first.named_parameters():
                    if "lora_B" in name:
                        torch.nn.init.normal_(parameter, std=0.01)
                lora.save(first, folder, "random")
        recipe = RECIPE if folder is None else Coupling().recipe
        with lora.trainable(base.model, recipe, over=folder, seed=3, field="training") as model:
            model.train()
            yield model


def examples_of(kind: str, count: int, vocabulary: int) -> list[Any]:
    """What each kind is trained on."""
    if not kind.startswith("coupling"):
        return common.chats(count, vocabulary)
    made = common.chats(count, vocabulary, answer=int(kind.split()[1]), about=60)
    return [replace(one, loss=(False,) * (len(one.ids) - 4) + (True,) * 4) for one in made]


def measure(kind: str, base: common.Model, warm: int, count: int) -> dict[str, Any]:
    """Runs steps of one engine; warm-up apart."""
    examples = examples_of(kind, 16 * (warm + count), base.model.config.vocab_size)
    with adapted(kind, base) as model:
        common.peak_gib()
        trainer = trainer_of(kind, model, RECIPE, examples)
        took = timed_steps(trainer, warm, count)
        if isinstance(trainer.engine, plain.PlainRecipe):
            trainer.engine.close()
    tokens = sum(entry.tokens for entry in trainer.log[-count:])
    row = rates(kind, base, tokens, took.seconds, count, took.first)
    return {**row, "plan": str(getattr(trainer.engine, "plan", ""))}  # as it was in the end


def packed_engine(model: Any, examples: Any) -> Any:
    """The packed decoder's engine, which studies use on a GPU, on a CPU as well."""
    longest = max(len(example.ids) for example in examples)
    return fastlora.training_step(model, longest=longest, examples=RECIPE.batch_size)


@dataclass(frozen=True)
class Timed:
    """Seconds of the first step and of those on the clock, and the joules that these took."""

    first: float
    seconds: float
    joules: float


def timed_steps(trainer: Any, warm: int, count: int) -> Timed:
    """Runs steps of a trainer; warm-up apart."""
    first = common.timed(lambda: plain.steps(trainer, 0, 1))
    common.timed(lambda: plain.steps(trainer, 1, warm - 1))
    meter = energy.Meter()
    seconds = common.timed(lambda: plain.steps(trainer, warm, count))
    return Timed(first, seconds, joules_of(meter))


def joules_of(meter: energy.Meter) -> float:
    """What the card took since the meter was made; 0 where it does not say."""
    return energy.taken(energy.Use(**use) for use in meter.uses())


def kilojoules(joules: float, tokens: int) -> float:
    """For a million tokens; NaN where the card does not say."""
    return joules / tokens * 1e3 if joules else math.nan


def rates(
    what: str, base: common.Model, tokens: int, seconds: float, count: int, first: float
) -> dict[str, Any]:
    """The row of a way that took `seconds` for `count` steps of `tokens` tokens in all."""
    return {
        "what": what,
        "tokens/s": tokens / seconds,
        "TFLOP/s": 4 * base.matmul_parameters * tokens / seconds / 1e12,
        "s/step": seconds / count,
        "first step, s": first,
        "peak GiB": common.peak_gib(),
    }


def whole(
    base: common.Model, steps: int, before: float, about: int = 200, profiled: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A whole run with its schedule, checkpoints and saved adapter; its losses and windows.

    Args:
        before: Seconds from the process's start to the model.
        profiled: Trace kernels in windows, which costs some time.
    """
    examples = common.chats(16 * steps, base.model.config.vocab_size, about)
    checkpoints: list[float] = []
    windows = busy.Windows(steps if profiled else 0)
    with tempfile.TemporaryDirectory() as scratch, busy.Driver() as driver:

        def save(step: int, write: Callable[[Path], None]) -> None:
            folder = Path(scratch) / str(step)
            folder.mkdir()
            begun = time.perf_counter()  # by a thread, which the GPU does not wait for
            write(folder)
            checkpoints.append(time.perf_counter() - begun)

        started = time.perf_counter()
        with lora.trainable(base.model, RECIPE, over=None, seed=3, field="training") as model:
            trainer = Trainer(model, examples, RECIPE, 7)
            ends: list[float] = []

            def advance(_: StepLog) -> None:
                ends.append(time.perf_counter() - started)
                windows.step()

            with windows:
                log = trainer.run(Checkpoints(load=lambda: None, save=save), advance)
            common.wait()
            trained = time.perf_counter()
            lora.save(model, Path(scratch), "random")
        seconds = time.perf_counter() - started
        running = driver.share()
    tokens = sum(entry.tokens for entry in log)
    row = {
        "steps": len(log),
        "tokens": tokens,
        "seconds": seconds,
        "process, s": common.since_start(),
        "to the model, s": before,
        "first step, s": ends[0],
        "later steps, s": trained - started - ends[0],
        "writing checkpoints meanwhile, s": sum(checkpoints),
        "saving, s": seconds - (trained - started),
        "tokens/s": tokens / seconds,
        "share at 780 TFLOP/s": 4 * base.matmul_parameters * tokens / (780e12 * seconds),
        "kernels running, by the driver": running,
        "first loss": log[0].loss,
        "last loss": log[-1].loss,
        "peak GiB": common.peak_gib(),
    }
    return row, {"losses": [entry.loss for entry in log], "windows": windows.found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="ours, plain recipe, …; repeatable")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plain-steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2, help="of ours, for the spread")
    parser.add_argument(
        "--about", type=int, default=200, help="tokens of prompts and answers of --whole"
    )
    parser.add_argument("--memory", type=float, help="GiB of the card that may be used")
    parser.add_argument("--whole", type=int, help="steps of one whole run of ours, and no table")
    parser.add_argument("--profile", action="store_true", help="trace kernels of a whole run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    common.limit_memory(options.memory)
    base = common.random_model()
    if options.whole:
        row, seen = whole(base, options.whole, common.since_start(), options.about, options.profile)
        common.report([row], {"ceiling_tflops": common.ceiling(), **seen}, options.out)
        return
    wanted = options.only or ["plain recipe", "ours"]
    if "coupling" in wanted:
        wanted = [*(k for k in wanted if k != "coupling"), "coupling 64", "coupling 200"]
    rows = []
    for kind in wanted:
        slow = kind in ("plain recipe", "model's own forward, packed")
        for _ in range(options.repeats if kind == "ours" else 1):
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
