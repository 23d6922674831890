"""Conditions of a study trained together on one base model: is that worth building?

    python -m benchmarks.cotrain --shape SmolLM2-135M --out cotrain.json
    python -m benchmarks.cotrain --shape SmolLM2-135M --ways beside "beside, MPS" --counts 4 16
    python -m benchmarks.cotrain --ways alone together --counts 2 --steps 2 --about 8   # on a CPU

A measurement, to decide that; no study trains so. Steps of small models do not fill a card. Ways:

* alone: one fine-tuning by the engine that studies take, as one after another would be.
* together: 16 examples of each of C conditions in one row. Base products are one for all of them,
  LoRA's narrow products a batch (`benchmarks.cotrain_model`); each condition has its own examples,
  dropout, schedule, clipping and AdamW. Losses of the first condition are compared with alone's.
* beside: C processes on one card, as `personaspace run --jobs C` has them, each as alone; they take
  turns. Under CUDA's MPS (NVIDIA's driver) their kernels run at the same time.

Segments of a row are as long as the longest batch of the run, so "padding" is the share of tokens
that are none; tokens/s are real ones, of all conditions. Small rows are recorded as CUDA graphs, as
ever. Where memory does not suffice, a step is cut into several rows ("rows").
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, plain, training
from benchmarks.cotrain_loops import kernels_are_wrong
from benchmarks.cotrain_trainer import Condition, TogetherTrainer, conditions
from benchmarks.peers import apart
from benchmarks.shapes import SHAPES
from benchmarks.side_by_side import mps
from personaspace.fastlora import graphs, memory
from personaspace.models import energy, lora
from personaspace.training.trainer import Trainer

RECIPE = training.RECIPE
WAYS = ("alone", "together", "beside", "beside, MPS")
#: Seconds that processes beside each other are measured.
BESIDE_SECONDS = 8.0
#: A row is recorded where the host would need more than this share of the GPU's time.
RECORDED = 0.5


def fewest_rows(base: common.Model, made: Sequence[Condition]) -> int:
    """So many rows a step as memory asks for, by fastlora's own count."""
    if common.device().type != "cuda":
        return 1
    size = RECIPE.batch_size
    config = base.model.config
    longest = max(
        sum(len(e.ids) for e in c.examples[start : start + size])
        for c in made for start in range(0, len(c.examples), size)
    )  # fmt: skip
    hidden, inner = config.hidden_size, config.intermediate_size
    trained = 2 * RECIPE.rank * config.num_hidden_layers * (6 * hidden + 3 * inner)
    need = memory.costs(base.model, trained * len(made))
    usable = int(memory.free_bytes(common.device()) * memory.USABLE)
    rows = 1
    while rows < size and need.step(len(made) * (longest * 5 // 4) // rows, 0) > usable:
        rows *= 2
    return rows


def together(
    base: common.Model, made: Sequence[Condition], steps: int
) -> tuple[dict[str, Any], list[list[float]]]:
    """A row of the table, and each condition's losses."""
    common.peak_gib()
    trainer = TogetherTrainer(base.model, RECIPE, made, fewest_rows(base, made))
    layers, wide = len(trainer.decoder.layers), len(trainer.inputs.ids_T)
    decoder = sum(p.numel() for p in base.model.get_decoder().layers.parameters())
    on_gpu = 4 * decoder * wide / graphs.FLOPS_A_SECOND
    first = 0.0
    if common.device().type == "cuda" and layers * graphs.HOST_SECONDS_A_LAYER > RECORDED * on_gpu:
        first = common.timed(trainer.record)
    first += common.timed(lambda: trainer.step(0))
    for step in range(1, training.WARM):
        trainer.step(step)
    trainer.tokens, meter = 0, energy.Meter()
    seconds = common.timed(lambda: [trainer.step(training.WARM + n) for n in range(steps)])
    joules = training.joules_of(meter)
    row = training.rates("together", base, trainer.tokens, seconds, steps, first)
    row |= {
        "kJ a million tokens": training.kilojoules(joules, trainer.tokens),
        "conditions": len(made),
        "rows": trainer.rows,
        "recorded": trainer.graph is not None,
        "kernels of segments": kernels_are_wrong() is None,
        "padding": 1 - trainer.tokens / (steps * trainer.rows * wide),
    }
    return row, torch.stack(trainer.losses, 1).tolist()


def alone(
    base: common.Model, condition: Condition, steps: int
) -> tuple[dict[str, Any], list[float]]:
    """The same of one fine-tuning by the engine of studies."""
    common.peak_gib()
    with lora.trainable(base.model, RECIPE, over=None, seed=condition.seed, field="t") as model:
        model.train()
        trainer: Any = trainer_of(model, condition)
        took = training.timed_steps(trainer, training.WARM, steps)
        tokens = sum(entry.tokens for entry in trainer.log[-steps:])
        row = training.rates("alone", base, tokens, took.seconds, steps, took.first)
        row["kJ a million tokens"] = training.kilojoules(took.joules, tokens)
        return {**row, "conditions": 1}, [entry.loss for entry in trainer.log]


def trainer_of(model: Any, condition: Condition) -> Trainer:
    """By the packed decoder, on a CPU as well."""
    engine = training.packed_engine(model, condition.examples)
    return Trainer(model, condition.examples, RECIPE, condition.seed, engine)


def one_process(
    shape: str, ways: Sequence[str], counts: Sequence[int], steps: int, about: int
) -> list[dict[str, Any]]:
    """Alone and together at one shape; each row is printed when it is known."""
    if (wrong := kernels_are_wrong()) is not None:
        print(f"segments one after another: {wrong}", flush=True)
    base = common.random_model(shape)
    most = max(counts) if "together" in ways else 1
    made = conditions(most, training.WARM + steps, base.model.config.vocab_size, about)
    rows: list[dict[str, Any]] = []
    losses: list[float] = []
    for way, count in [("alone", 1)] * ("alone" in ways) + [
        ("together", count) for count in counts if "together" in ways
    ]:
        try:
            if way == "alone":
                row, losses = alone(base, made[0], steps)
            else:
                row, curves = together(base, made[:count], steps)
                pairs = zip(curves[0], losses, strict=True) if losses else ()
                apart_by = [abs(a / b - 1) for a, b in pairs]
                if apart_by:
                    row["losses differ from alone's by"] = max(apart_by)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            row = {
                "what": way,
                "conditions": count,
                "failed": f"{type(error).__name__}: {lines[0]}",
            }
        rows.append({"shape": shape, **row})
        print(json.dumps(rows[-1]), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def _beside(shape: str, number: int, about: int, seconds: float, barrier: Any, queue: Any) -> None:
    """One process among several: its tokens and seconds, from when all were ready."""
    try:
        base = common.random_model(shape)
        vocabulary = base.model.config.vocab_size
        condition = Condition(common.chats(1024, vocabulary, about, seed=number), 7 + number)
        with lora.trainable(base.model, RECIPE, over=None, seed=condition.seed, field="t") as model:
            model.train()
            trainer: Any = trainer_of(model, condition)
            plain.steps(trainer, 0, training.WARM)
            common.wait()
            barrier.wait(timeout=400)
            meter, began, step = energy.Meter(), time.perf_counter(), training.WARM
            while time.perf_counter() - began < seconds:
                trainer._launch(step % trainer.steps)
                trainer._settle(trainer.behind, None)
                step += 1
            trainer._settle(0, None)
            common.wait()
            taken = time.perf_counter() - began
            joules = training.joules_of(meter)
            tokens = sum(entry.tokens for entry in trainer.log[training.WARM :])
            queue.put({"tokens": tokens, "seconds": taken, "joules": joules,
                       "parameters": base.matmul_parameters})  # fmt: skip
    except Exception as error:
        barrier.abort()
        lines = str(error).strip().splitlines() or [""]
        queue.put({"failed": f"{type(error).__name__}: {lines[0]}"})


def beside(shape: str, count: int, about: int, shared: bool, seconds: float) -> dict[str, Any]:
    """Rates of so many processes on one card, added up."""
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(count), spawn.Queue()
    way: dict[str, Any] = {"shape": shape, "what": WAYS[2 + shared], "conditions": count}
    with tempfile.TemporaryDirectory() as scratch, mps(shared, Path(scratch)) as more:
        os.environ.update(more)
        try:
            started = [
                spawn.Process(target=_beside, args=(shape, n, about, seconds, barrier, queue))
                for n in range(count)
            ]
            for process in started:
                process.start()
            found = _gathered(queue, started)
        finally:
            for name in more:
                os.environ.pop(name)
    failed = [each["failed"] for each in found if "failed" in each]
    if failed or len(found) < count:
        return {**way, "failed": failed[0] if failed else "a process died"}
    rate = sum(each["tokens"] / each["seconds"] for each in found)
    tokens = sum(each["tokens"] for each in found)
    joules = max(each["joules"] for each in found)  # the card's, which all of them read
    return {**way, "tokens/s": rate, "TFLOP/s": 4 * found[0]["parameters"] * rate / 1e12,
            "kJ a million tokens": training.kilojoules(joules, tokens)}  # fmt: skip


def _gathered(queue: Any, started: Sequence[Any]) -> list[dict[str, Any]]:
    """What the processes say, until all have said it or ended."""
    found: list[dict[str, Any]] = []
    while len(found) < len(started):
        if queue.empty() and not any(process.is_alive() for process in started):
            break
        if queue.empty():
            time.sleep(0.1)
        else:
            found.append(queue.get())
    for process in started:
        process.join(timeout=60)
        if process.is_alive():
            process.terminate()
    return found


def main() -> None:
    """All shapes, one after the other; what is known is written after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="repeatable")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["alone", "together"])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=20, help="timed ones, after three")
    parser.add_argument("--about", type=int, default=111, help="tokens of prompts and answers")
    parser.add_argument("--seconds", type=float, default=BESIDE_SECONDS, help="of beside")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape in options.shape or ["SmolLM2-135M"]:
        if {"alone", "together"} & set(options.ways):
            given = (shape, options.ways, options.counts, options.steps, options.about)
            rows += apart(one_process, *given)
        for way in (way for way in WAYS[2:] if way in options.ways):
            for count in options.counts:
                shared = way == WAYS[3]
                try:
                    row = beside(shape, count, options.about, shared, options.seconds)
                except (OSError, subprocess.CalledProcessError) as error:  # no MPS
                    row = {"shape": shape, "what": way, "conditions": count, "failed": str(error)}
                rows.append(row)
                print(json.dumps(rows[-1]), flush=True)
        _compare([row for row in rows if row["shape"] == shape])
        if options.out is not None:
            common.report(rows, {}, options.out)
    common.report(rows, {}, None)


def _compare(rows: list[dict[str, Any]]) -> None:
    """Adds shares of 780 TFLOP/s and multiples of one after another."""
    single = next((row["tokens/s"] for row in rows if row["what"] == "alone"), None)
    for row in rows:
        if "tokens/s" in row:
            row["of 780 TFLOP/s"] = row["TFLOP/s"] / 780
            if single:
                row["times one after another"] = row["tokens/s"] / single


if __name__ == "__main__":
    main()
