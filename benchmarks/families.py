"""LoRA training of the shapes of several families: how fast, and how near to float32.

    python -m benchmarks.families                         # all of benchmarks.shapes, on a GPU
    python -m benchmarks.families --only Qwen3-8B --before Qwen3-8B
    python -m benchmarks.families --exact                 # instead: how near to float32
    python -m benchmarks.families --steps 2               # tiny on a CPU, to try it

Speed is measured as in `benchmarks.training`: 16 examples of about 200 + 200 tokens a step, the
published recipe, FLOPs counted as 4·N a token. `--before SHAPE` adds the model's own forward pass
over packed rows, which `implementation: reference` is.

`--exact` takes two layers of each shape's width, with norms that are not one and an adapter that
does something: losses, the gradient of each tensor and hidden states in bfloat16, fused and by
transformers' own code, each against transformers' own code in float32 (relative norms), and the
losses of some steps of training, fused against plain, both in bfloat16.
"""

from __future__ import annotations

import argparse
import copy
import gc
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, training
from benchmarks.shapes import SHAPES
from personaspace import fastlora
from personaspace.activations.extract import Passage, hidden_states
from personaspace.fastlora.memory import MemoryPlan
from personaspace.fastlora.training import PackedStep
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.study.recipe import Recipe
from personaspace.training.plain import PlainStep
from personaspace.training.trainer import Trainer

PLAIN = "model's own forward, packed"
ROW = 4096
LAYERS = 2


def speeds(shape: str, steps: int, before: bool) -> list[dict[str, Any]]:
    """Rows of `benchmarks.training` for a shape."""
    base = common.random_model(shape)
    rows = [training.measure("ours", base, 3, steps)]
    if before:
        rows.append(training.measure(PLAIN, base, 1, 2))
    return [{"shape": shape, **row} for row in rows]


def computed(base: Any, kind: str, chats: list[Example]) -> dict[str, torch.Tensor]:
    """Loss, gradients and hidden states, on the host."""
    model = copy.deepcopy(base)
    if kind == "float32":
        model = model.float()
    recipe = Recipe(dropout=0.0)
    with lora.trainable(model, recipe, over=None, seed=3, field="training") as adapted:
        lively(adapted)
        trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
        loss_tokens = sum(chat.loss_tokens for chat in chats)
        loss = engine_of(kind, adapted).backward(chats, loss_tokens, 5)
        adapted.eval()
        passages = [
            Passage(chat.ids[: -chat.loss_tokens], chat.ids[-chat.loss_tokens :]) for chat in chats
        ]
        layers, within = list(range(LAYERS)), adapted.get_base_model()
        if kind == "fused":
            last, mean = fastlora.hidden_states(within, passages, layers)
        else:
            found = hidden_states(within, passages, layers, wanted="reference")
            last, mean = found.last_NLH, found.mean_NLH
        grads = {n: p.grad.cpu() for n, p in trained.items() if p.grad is not None}
        states = {"last": torch.from_numpy(last), "mean": torch.from_numpy(mean)}
        return {"loss": loss.cpu(), **states, **grads}


def engine_of(kind: str, adapted: Any) -> Any:
    """What computes the steps."""
    return PackedStep(adapted, MemoryPlan(ROW, 0)) if kind == "fused" else PlainStep(adapted, ROW)


def lively(adapted: Any) -> None:
    """An adapter whose B is not zero."""
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            parameter.data.normal_(0, 0.01)


def exact(shape: str, steps: int) -> dict[str, Any]:
    """How near to float32 the shape's width is, with two layers; and a short curve."""
    base = common.random_model(shape, num_hidden_layers=LAYERS).model
    for parameter in base.parameters():
        if parameter.ndim == 1:
            parameter.data.normal_(1, 0.3)
    chats = common.chats(8, base.config.vocab_size)
    right = computed(base, "float32", chats)
    row: dict[str, Any] = {"shape": shape}
    for kind in ("plain", "fused"):
        found = computed(base, kind, chats)
        off = {
            key: float((found[key] - right[key]).double().norm() / right[key].double().norm())
            for key in right
        }
        grads = [off[key] for key in off if "lora" in key]
        row |= {f"{kind}: {key}": off[key] for key in ("loss", "last", "mean")}
        row |= {f"{kind}: grads": sum(grads) / len(grads), f"{kind}: worst grad": max(grads)}
    few = common.chats(16 * steps, base.config.vocab_size, about=40)
    recipe = Recipe(dropout=0.0, learning_rate=1e-3)
    curves = []
    for kind in ("plain", "fused"):
        with lora.trainable(base, recipe, over=None, seed=3, field="training") as adapted:
            trainer = Trainer(adapted, few, recipe, 7, engine=engine_of(kind, adapted))
            curves.append([entry.loss for entry in trainer.run()])
    apart = [abs(ours / theirs - 1) for theirs, ours in zip(*curves, strict=True)]
    ends = {"first loss": curves[0][0], "last loss": curves[0][-1]}
    return {**row, "curve: most": max(apart), "curve: mean": sum(apart) / len(apart), **ends}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(SHAPES), help="repeatable")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--before", action="append", default=[], help="its own forward pass too")
    parser.add_argument("--exact", action="store_true", help="not how fast: how near to float32")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {} if options.exact else {"ceiling_tflops": common.ceiling()}
    for shape in options.only or SHAPES:
        if options.exact:
            rows.append(exact(shape, options.steps))
        else:
            rows += speeds(shape, options.steps, shape in options.before)
            training.add_ratios(rows, facts["ceiling_tflops"])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        common.report(rows, facts, options.out)


if __name__ == "__main__":
    main()
