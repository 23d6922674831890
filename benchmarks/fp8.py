"""Frozen weights in FP8: what the packed decoder would gain, and what its numbers would lose.

    python -m benchmarks.fp8 --shape Qwen2.5-7B --shape Qwen3-8B --out fp8.json
    python -m benchmarks.fp8 --shape Qwen2.5-7B --steps 375 --ways bf16 "bf16, other masks" fp8
    python -m benchmarks.fp8 --steps 3 --about 8    # tiny on a CPU, which emulates FP8

An experiment, to decide whether `precision: fp8` is worth shipping; nothing of it does. Products
with frozen weights, forward and to the inputs' gradients, are made of float8_e4m3fn with a scale
for each row of both operands (`torch._scaled_mm`, sums in float32, output in bfloat16); adapters,
norms, attention and output layer are as ever. Weights have a copy for each direction, which take
together what they take in bfloat16. Those stay here, for comparison; "peak GiB without bf16
weights" counts them off.

In one process, from the same start and on the same chats: bf16; FP8 with Hopper's fast sums, which
keep fewer bits, and with exact ones; bf16 with other dropout masks, whose loss curve says how far
curves differ by chance. Then, on one step, each product's relative error against bf16's (relative
norm of the difference), and what it takes. What the device does is compared with an emulation
first: a kernel or an option that is not right is not used, and the result says so.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, curve, training
from benchmarks.fp8_products import Frozen8, How, checked, observed, product, quantise, swapped
from benchmarks.shapes import SHAPES
from personaspace.models import lora
from personaspace.training.trainer import Trainer

#: Name of a way, fast sums (None: no FP8), what makes its dropout masks differ.
WAYS: dict[str, tuple[bool | None, int]] = {
    "bf16": (None, 0),
    "fp8": (True, 0),
    "fp8, exact sums": (False, 0),
    "bf16, other masks": (None, 1 << 20),
}
NAMES = ("qkv", "o", "gate_up", "down")


def run(
    base: common.Model, examples: list[Any], way: str, how: How, count: int
) -> tuple[dict[str, Any], curve.Run]:
    """A row of the table; losses and adapters of the run."""
    fast, masks = WAYS[way]
    with (
        lora.trainable(base.model, training.RECIPE, over=None, seed=3, field="training") as model,
        nullcontext() if fast is None else swapped(replace(how, fast=fast)) as copies,
    ):
        model.train()
        common.peak_gib()
        trainer: Any = Trainer(
            model, examples, training.RECIPE, 7, training.packed_engine(model, examples)
        )
        driven = curve._Reseeded(trainer, masks) if masks else trainer
        took = training.timed_steps(driven, training.WARM, count)
        tokens = sum(entry.tokens for entry in trainer.log[-count:])
        row = training.rates(way, base, tokens, took.seconds, count, took.first)
        row["kJ a million tokens"] = training.kilojoules(took.joules, tokens)
        if copies is not None:
            row["FP8 weights, GiB"] = sum(each.bytes for each in copies.made.values()) / 2**30
            kept = sum(j.weight_OW.shape[0] * j.features * j.weight_OW.element_size()
                       for j in copies.made)  # fmt: skip
            row["peak GiB without bf16 weights"] = row["peak GiB"] - kept / 2**30
        losses = [entry.loss for entry in trainer.log]
        after = {n: p.detach().float().cpu().clone() for n, p in trainer.parameters.items()}
    row["first loss"], row["last loss"] = losses[0], losses[-1]
    return row, (losses, after)


def _milliseconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    return common.timed(lambda: [work() for _ in range(repeats)]) / repeats * 1e3


def products(
    base: common.Model, examples: list[Any], how: How, repeats: int
) -> list[dict[str, Any]]:
    """Error of each product over a step's layers, and what its parts take."""
    batch = examples[: training.RECIPE.batch_size]
    rows = []
    with lora.trainable(base.model, training.RECIPE, over=None, seed=3, field="t") as model:
        model.train()
        step = training.packed_engine(model, examples).step
        with observed(how) as errors:
            step.backward(batch, sum(one.loss_tokens for one in batch), 5)
        tokens = -(-sum(len(one.ids) for one in batch) // 128) * 128
        for name in NAMES:
            joints = [getattr(layer, name) for layer in step.decoder.layers]
            joint, features = joints[0], joints[0].features
            held, like = Frozen8(joint, how), joint.weight_OW
            for direction in ("forward", "backward"):
                seen = [e for j in joints for e in errors.get((id(j), direction), [])]
                ahead = direction == "forward"
                wide = features + joint.room if ahead else len(like)
                x = torch.randn(tokens, wide, device=like.device, dtype=like.dtype)
                inner = x[:, :features] if ahead else x
                weight = held.forward_OH if ahead else held.backward_HO
                quantised = quantise(inner, how)
                taken = {
                    "bf16 ms": (joint._product if ahead else joint._product_backward, (x,)),
                    "FP8 whole ms": (held.product if ahead else held.product_backward, (x,)),
                    "of it quantising": (quantise, (inner, how)),
                    "of it the product": (product, (quantised, weight, how, like.dtype)),
                }
                row = {"product": name, "direction": direction, "relative error": max(seen)}
                row["mean of layers"] = sum(seen) / len(seen)
                for what, (work, given) in taken.items():
                    row[what] = _milliseconds(lambda w=work, g=given: w(*g), repeats)
                rows.append(row)
    return rows


def measure(
    shape: str, ways: list[str], how: How, count: int, about: int, told: Callable[..., None]
) -> None:
    """All ways at one shape; each row is told when it is known."""
    base = common.random_model(shape)
    steps = training.WARM + count
    size = training.RECIPE.batch_size
    examples = common.chats(size * steps, base.model.config.vocab_size, about)
    reference: curve.Run | None = None
    for way in ways:
        try:
            row, made = run(base, examples, way, how, count)
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            told({"shape": shape, "what": way, "failed": f"{type(error).__name__}: {lines[0]}"}, [])
            continue
        if reference is not None:
            against = curve.compare(way, made, reference)
            row |= {name: against[name] for name in (
                "largest difference of losses", "mean", "of norms of A", "of norms of B",
                "of B itself")}  # fmt: skip
        reference = made if way == "bf16" else reference
        told({"shape": shape, **row}, made[0])
    try:
        for row in products(base, examples, how, 10 if common.device().type == "cuda" else 1):
            told({"shape": shape, **row}, [])
    except Exception as error:
        told({"shape": shape, "what": "products", "failed": f"{type(error).__name__}: {error}"}, [])


def main() -> None:
    """Measure and print; what is known is written after each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--shape", action="append", choices=list(SHAPES), help="repeatable")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--steps", type=int, default=20, help="timed ones, after three")
    parser.add_argument("--about", type=int, default=200, help="tokens of prompts and answers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.perf_counter()
    how, notes = checked()
    print("; ".join(notes) or "all as expected", flush=True)
    ways, sums = [], []
    curves: dict[str, list[float]] = {}

    def told(row: dict[str, Any], losses: list[float]) -> None:
        (sums if "product" in row else ways).append(row)
        if losses:
            curves[f"{row['shape']}, {row['what']}"] = losses
        print({name: row[name] for name in list(row)[:4]}, flush=True)
        facts = {"how": asdict(how), "notes": notes, "products": sums, "curves": curves,
                 "seconds": time.perf_counter() - began}  # fmt: skip
        if options.out is not None:
            common.report(ways, facts, options.out)

    for shape in options.shape or ["Qwen2.5-7B"]:
        measure(shape, options.ways, how, options.steps, options.about, told)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    common.report(ways, {"notes": notes}, None)
    common.report(sums, {}, None)


if __name__ == "__main__":
    main()
