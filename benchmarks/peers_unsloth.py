"""LoRA training by Unsloth, one way of it in this process; `benchmarks.peers` starts it.

    pip install unsloth==2026.10.9   # not among the project's dependencies
    python -m benchmarks.peers_unsloth FOLDER "unsloth packed" --steps 10

FOLDER holds a model and its tokenizer, as transformers saves them. Unsloth has to be imported
before transformers, which it rewrites, so nothing of ours is imported before it. It packs and
trains through TRL's trainer as its documentation has it, on token ids and labels; tokens are real
ones, and the first steps are not timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Way:
    """How Unsloth trains.

    Attributes:
        dropout: Of the adapter. Its own kernels for LoRA run without any.
        checkpointing: What its `use_gradient_checkpointing` is set to.
        equal: Rows of one chat, all of 400 tokens, instead of packed ones of 6,400: nothing padded.
    """

    dropout: float
    checkpointing: bool | str = False
    equal: bool = False


UNSLOTH = {
    "unsloth packed": Way(0.05),
    "unsloth packed, no dropout": Way(0.0),
    "unsloth equal rows": Way(0.05, equal=True),
    "unsloth equal rows, no dropout": Way(0.0, equal=True),
    "unsloth packed, its checkpointing": Way(0.0, "unsloth"),
}


def examples(way: Way, count: int, vocabulary: int) -> list[dict[str, list[int]]]:
    """Token ids and labels of the chats that the other ways have, cut to one length if equal."""
    from benchmarks import common

    rows = []
    for chat in common.chats(count, vocabulary, about=270 if way.equal else 200):
        ids, loss = chat.ids, chat.loss
        if way.equal:
            # Both lengths are three quarters of 270 at least; half prompt, half answer.
            first = loss.index(True)
            ids, loss = ids[first - 200 : first + 200], loss[first - 200 : first + 200]
        labels = [i if on else -100 for i, on in zip(ids, loss, strict=True)]
        rows.append({"input_ids": list(ids), "labels": labels})
    return rows


def measure(folder: Path, kind: str, count: int) -> dict[str, Any]:
    """Seconds and tokens of `count` steps after the first three, losses, memory."""
    import torch
    import unsloth
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastLanguageModel

    from benchmarks import common
    from benchmarks.training import RECIPE, STEP_TOKENS, WARM
    from personaspace.study.recipe import PUBLISHED_TARGETS

    way, on_gpu = UNSLOTH[kind], common.device().type == "cuda"
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=STEP_TOKENS,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        load_in_4bit=False,
        use_gradient_checkpointing=way.checkpointing,
    )
    vocabulary = model.config.vocab_size
    model = FastLanguageModel.get_peft_model(
        model,
        r=RECIPE.rank,
        lora_alpha=RECIPE.alpha,
        lora_dropout=way.dropout,
        target_modules=list(PUBLISHED_TARGETS),
        use_gradient_checkpointing=way.checkpointing,
    )
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when each step was done."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            common.wait()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(examples(way, 32 * (WARM + count), vocabulary)),
            args=SFTConfig(
                output_dir=scratch,
                packing=not way.equal,
                max_length=400 if way.equal else STEP_TOKENS,
                per_device_train_batch_size=16 if way.equal else 1,
                gradient_accumulation_steps=1,
                max_steps=WARM + count,
                learning_rate=RECIPE.learning_rate,
                weight_decay=RECIPE.weight_decay,
                max_grad_norm=RECIPE.clip_norm,
                optim="adamw_torch_fused",
                logging_steps=1,
                bf16=on_gpu,
                use_cpu=not on_gpu,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            callbacks=[Clock()],
        )
        shapes: list[tuple[int, ...]] = []
        tokens: list[int] = []
        collate = trainer.data_collator

        def counted(rows: Any) -> Any:
            batch = collate(rows)
            shapes.append(tuple(batch["input_ids"].shape))
            mask = batch.get("attention_mask")
            tokens.append(int(batch["input_ids"].numel() if mask is None else mask.sum()))
            return batch

        trainer.data_collator = counted
        common.peak_gib()
        began = time.perf_counter()
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tokens": sum(tokens[WARM : WARM + count]),
        "seconds": ends[-1] - ends[WARM - 1],
        "first": ends[0] - began,
        "peak GiB": common.peak_gib(),
        "plan": f"{shapes[WARM]}",
        "last loss": losses[-1],
        "unsloth": unsloth.__version__,
    }


def main() -> None:
    """Measure, and write one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=list(UNSLOTH))
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    print("\n" + json.dumps(measure(options.folder, options.kind, options.steps)))


if __name__ == "__main__":
    main()
