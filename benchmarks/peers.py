"""LoRA training beside TRL's SFTTrainer, Liger's kernels and Unsloth, on the same model and chats.

    pip install trl==1.16.0 liger-kernel==0.8.5   # not among the project's dependencies
    python -m benchmarks.peers                    # Qwen2.5-7B's shape on a GPU
    python -m benchmarks.peers --only "trl packed" --steps 2   # tiny on a CPU
    python -m benchmarks.peers --shape Qwen3-8B --only ours --only "unsloth packed" --tokenizer T

Unsloth (see `benchmarks.peers_unsloth`) allows no TRL after 1.15.0. It reads a model and a
tokenizer from a folder: the random model is written to one, in memory, beside the files of T.

Every way runs in a process of its own, since Liger replaces classes of transformers. Examples,
adapter, count of FLOPs and ceiling are those of `benchmarks.training`; tokens are real ones, and
the first steps are not timed. TRL packs the chats itself (best fit decreasing, no padding) into
rows that hold as many tokens a step as 16 chats have on average; it is given token ids and labels,
so that its tokenizer, of two words, has nothing to do. "attends across" says whether a change of a
row's first example changed the log-probabilities of its last. Where memory does not suffice, a way
is tried again with shorter rows, as many tokens a step; one that fails has a row that says why.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, training
from benchmarks.peers_unsloth import UNSLOTH
from benchmarks.shapes import SHAPES
from personaspace.models import lora
from personaspace.models.chat import Example
from personaspace.study.recipe import PUBLISHED_TARGETS


@dataclass(frozen=True)
class Setting:
    """How TRL trains.

    Attributes:
        rows: Rows a step, each a forward pass; the next number where memory does not suffice.
        changed: Fields of TRL's SFTConfig.
    """

    rows: Sequence[int]
    changed: dict[str, Any] = field(default_factory=dict)


_KEPT = {"gradient_checkpointing": False}
_SELECTIVE = {"gradient_checkpointing_kwargs": {"selective": True}}
_LIGER = {"use_liger_kernel": True}
#: TRL computes every layer again by default; all but its attention, where selective.
TRL = {
    "trl packed": Setting((1, 2, 4)),
    "trl packed, selective checkpointing": Setting((1, 2, 4), _SELECTIVE),
    "trl packed, no checkpointing": Setting((2, 4), _KEPT),
    "trl packed + liger": Setting((1, 2, 4), _LIGER),
    "trl packed + liger, no checkpointing": Setting((2, 4), _LIGER | _KEPT),
}
LIGER = "liger in plain recipe"
KINDS = ["plain recipe", LIGER, *TRL, *UNSLOTH, "ours"]
#: Where a model is written for Unsloth: memory, where there is such a folder.
MEMORY = Path("/dev/shm")


def trl_trainer(model: Any, examples: Sequence[Example], config: Any, callback: Any) -> Any:
    """TRL's trainer with the published adapter, on token ids and labels."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import SFTTrainer

    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    columns = {
        "input_ids": [list(one.ids) for one in examples],
        "labels": [
            [i if on else -100 for i, on in zip(one.ids, one.loss, strict=True)] for one in examples
        ],
    }
    return SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
        ),
        peft_config=lora.lora_config(training.RECIPE, PUBLISHED_TARGETS),
        callbacks=[callback],
    )


def measure_trl(kind: str, shape: str, rows: int, count: int) -> dict[str, Any]:
    """Steps of TRL's trainer with packing, so many rows a step; warm-up apart."""
    import trl
    from transformers import TrainerCallback

    ends: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        """Notes when each step was done, and the tokens till then."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            common.wait()
            ends.append((time.perf_counter(), trainer._total_train_tokens))

    recipe, on_gpu = training.RECIPE, common.device().type == "cuda"
    base = common.random_model(shape)
    # More chats than the steps need, so that best fit finds some that fill its rows.
    examples = common.chats(64 * (training.WARM + count), base.model.config.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        config = trl.SFTConfig(
            output_dir=scratch,
            packing=True,
            max_length=training.STEP_TOKENS // rows,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=rows,
            max_steps=training.WARM + count,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip_norm,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **TRL[kind].changed,
        )
        trainer = trl_trainer(base.model, examples, config, Clock())
        common.peak_gib()
        began = time.perf_counter()
        trainer.train()
    seconds, tokens = (
        end - start for end, start in zip(ends[-1], ends[training.WARM - 1], strict=True)
    )
    row = training.rates(kind, base, int(tokens), seconds, count, ends[0][0] - began)
    row["plan"] = f"{rows} × {training.STEP_TOKENS // rows} tokens"
    return {**row, "attends across": attends_across(trainer)}


@torch.no_grad()
def attends_across(trainer: Any) -> bool:
    """Whether a row's last example sees its first one."""
    batch = trainer.data_collator([trainer.train_dataset[0]])
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    assert len(starts) > 1, "the row has one example"
    other = batch["input_ids"].clone()
    other[:, : starts[1]] = other[:, : starts[1]].flip(1)
    device = common.device()
    trainer.model.eval()
    seen = []
    for ids in (batch["input_ids"], other):
        inputs = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in {**batch, "input_ids": ids}.items()
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            output = trainer.model(**inputs, use_cache=False, fused_lm_head=True)
        seen.append(output.log_probs[:, starts[-1] :].float())
    return bool((seen[0] - seen[1]).abs().max() > 1e-3)


def write_model(shape: str, folder: Path) -> int:
    """The random model in a folder; parameters that a token is multiplied with."""
    base = common.random_model(shape)
    base.model.save_pretrained(folder)
    return base.matmul_parameters


def measure_unsloth(kind: str, folder: Path, parameters: int, count: int) -> dict[str, Any]:
    """Steps of Unsloth's trainer, in a process that imports it first."""
    command = [sys.executable, "-m", "benchmarks.peers_unsloth", folder, kind, "--steps", count]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"what": kind, "failed": lines[-1]}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    tokens, seconds, first = (found.pop(name) for name in ("tokens", "seconds", "first"))
    row = training.rates(kind, common.Model(None, parameters), tokens, seconds, count, first)
    return {**row, **found}


def measure(kind: str, shape: str, rows: int, count: int) -> dict[str, Any]:
    """One row of the table, in a process that does nothing else afterwards."""
    if kind in TRL:
        return measure_trl(kind, shape, rows, count)
    if kind == LIGER:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2
    base = common.random_model(shape)
    if kind == LIGER:
        apply_liger_kernel_to_qwen2(model=base.model)
    engine, warm = ("ours", training.WARM) if kind == "ours" else ("plain recipe", 1)
    return {**training.measure(engine, base, warm, count), "what": kind}


def tried(kind: str, shape: str, rows: int, count: int) -> dict[str, Any]:
    """The row, or one with a line of what failed."""
    try:
        return measure(kind, shape, rows, count)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"what": kind, "failed": f"{type(error).__name__}: {lines[0]}"}


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """The work's result, from a fresh process.

    Raises:
        BrokenProcessPool: The process died.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *given).result()


def best(kind: str, shape: str, rows: Sequence[int], count: int) -> dict[str, Any]:
    """The row with the first number of rows a step that memory suffices for."""
    row: dict[str, Any] = {}
    for number in rows:
        try:
            row = apart(tried, kind, shape, number, count)
        except BrokenProcessPool as error:
            row = {"what": kind, "failed": f"its process died: {error}"}
        if not row.get("failed", "").startswith("OutOfMemoryError"):
            break
    return row


def versions() -> dict[str, str]:
    """Of what is measured beside ours."""
    found = {}
    for name in ("trl", "liger-kernel", "unsloth", "xformers", "peft", "accelerate"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=KINDS, help="repeatable")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--plain-steps", type=int, default=4, help="of the plain recipe")
    parser.add_argument("--rows", type=int, help="TRL's rows a step, and no other")
    parser.add_argument("--shape", choices=list(SHAPES), default="Qwen2.5-7B")
    parser.add_argument("--tokenizer", type=Path, help="folder with a tokenizer, for Unsloth")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wanted = options.only or [kind for kind in KINDS if kind not in UNSLOTH or options.tokenizer]
    if not options.tokenizer and any(kind in UNSLOTH for kind in wanted):
        parser.error("--tokenizer: Unsloth reads one from a folder")
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    limit = apart(common.ceiling)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        parameters = None
        for kind in wanted:
            count = options.plain_steps if kind in ("plain recipe", LIGER) else options.steps
            if kind in UNSLOTH:
                if parameters is None:
                    parameters = apart(write_model, options.shape, Path(scratch))
                    for file in options.tokenizer.glob("*.json"):
                        shutil.copy(file, scratch)
                rows.append(measure_unsloth(kind, Path(scratch), parameters, count))
            else:
                numbers = [options.rows] if options.rows else TRL[kind].rows if kind in TRL else [1]
                rows.append(best(kind, options.shape, numbers, count))
            done = rows[-1].get("failed") or f"{rows[-1]['tokens/s']:,.0f} tokens/s"
            print(f"{kind}: {done} ({time.perf_counter() - began:.0f} s)", flush=True)
            training.add_ratios([row for row in rows if "failed" not in row], limit)
            facts = {"shape": options.shape, "ceiling_tflops": limit, **versions()}
            facts["seconds"] = time.perf_counter() - began
            common.report(rows, facts, options.out)  # after each: the next may fail


if __name__ == "__main__":
    main()
