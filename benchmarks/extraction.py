"""Hidden states: prompts a second of ours, of one prompt at a time, and of the GPU's ceiling.

    python -m benchmarks.extraction

Random weights of Qwen2.5-7B's shape, 12 system prompts × 240 questions, 60 tokens a prompt, the
five published layers. FLOPs are counted as 2·N for every token of every prompt, shared or not.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from personaspace import fastlora
from personaspace.activations import extract
from personaspace.activations.extract import Passage

LAYERS = [7, 14, 20, 21, 27]


def prompts(vocabulary: int, tokens: int, shared: int) -> list[Passage]:
    """12 × 240 prompts of so many tokens, of which the first are the persona's."""
    dice = random.Random(0)
    made = []
    for _ in range(12):
        head = tuple(dice.randrange(3, vocabulary) for _ in range(shared))
        for _ in range(240):
            tail = tuple(dice.randrange(3, vocabulary) for _ in range(tokens - shared))
            made.append(Passage(head + tail))
    return made


def one_by_one(model: Any, passages: Sequence[Passage], layers: Sequence[int]) -> None:
    """The usual script: a prompt, `output_hidden_states`, one `.cpu()` a layer."""
    with torch.inference_mode():
        for passage in passages:
            ids = torch.tensor([passage.prompt], device=model.device)
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
            for layer in layers:
                states[layer + 1][0, -1].float().cpu()


def measure(
    base: common.Model, tokens: int, shared: int, repeats: int, singles: int
) -> list[dict[str, Any]]:
    """Times each way; a first run of each is apart.

    Args:
        tokens: Of a prompt.
        shared: Of them, tokens of the persona's beginning.
        repeats: Of ours.
        singles: Prompts that go one by one.
    """
    model, config = base.model, base.model.config
    layers = list(dict.fromkeys(min(layer, config.num_hidden_layers - 1) for layer in LAYERS))
    passages = prompts(config.vocab_size, tokens, shared)
    some = passages[: 2 * 240]

    def unshared() -> None:
        fastlora.hidden_states(model, passages, layers, share=False)

    ways: list[tuple[str, Callable[[], Any], int, int]] = [
        ("one by one", lambda: one_by_one(model, passages[:singles], layers), singles, 1),
        (
            "padded batches",
            lambda: extract.padded(model, some, layers, 8192, None),
            len(some),
            1,
        ),
        ("ours, nothing shared", unshared, len(passages), repeats),
        (
            "ours",
            lambda: extract.hidden_states(model, passages, layers),
            len(passages),
            repeats,
        ),
    ]
    rows: list[dict[str, Any]] = []
    for name, work, count, times in ways:
        first = common.timed(work)
        for _ in range(times):
            common.peak_gib()
            rate = count / common.timed(work)
            flops = 2 * base.matmul_parameters * tokens * rate / 1e12
            rows.append(
                {
                    "what": name,
                    "prompts/s": rate,
                    "times one by one": rate / rows[0]["prompts/s"] if rows else 1.0,
                    "TFLOP/s": flops,
                    "of 780 TFLOP/s": flops / 780,
                    "first run, s": first,
                    "peak GiB": common.peak_gib(),
                }
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--shared", type=int, default=30, help="tokens of the persona's beginning")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--singles", type=int, default=60, help="prompts one by one")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    base = common.random_model()
    rows = measure(base, options.tokens, options.shared, options.repeats, options.singles)
    common.report(rows, {"ceiling_tflops": common.ceiling(), "layers": LAYERS}, options.out)


if __name__ == "__main__":
    main()
