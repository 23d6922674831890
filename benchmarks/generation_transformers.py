"""The transformers engine against plain `generate` on a real model that ends its own answers.

Plain: batches of as many prompts in the order given, left-padded, sampled by the library, each
waiting for its longest answer. On a GPU also transformers' own continuous batching, which has no
seed of its own for each answer. All draw at temperature 1 from the same prompts and count the
tokens that they gave.

    python benchmarks/generation_transformers.py --questions 4 --batch 64 --json out.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from personaspace.generation import Prompt, Sampling
from personaspace.generation.transformers_engine import TransformersEngine
from personaspace.logs import quiet_libraries
from personaspace.models import chat
from personaspace.models.load import load_model, load_tokenizer
from personaspace.study import base_model, builtin
from personaspace.study.inputs import Model
from personaspace.study.spec import Experiment


def make_prompts(tokenizer: Any, questions: int) -> list[Prompt]:
    """The published twelve personas × the first evaluation questions."""
    import yaml

    spec = Experiment()
    asked = yaml.safe_load(builtin.resource("questions-evaluation").read_text(encoding="utf-8"))
    prompts = []
    for name in spec.grid():
        for question in asked[:questions]:
            system = spec.persona(name).prompt
            messages = chat.with_persona([{"role": "user", "content": question}], system)
            prompts.append(Prompt(f"{name}/{question}", chat.prompt_ids(tokenizer, messages)))
    return prompts


def plain(model: Any, tokenizer: Any, prompts: list[Prompt], ends: list[int], args: Any) -> int:
    """Tokens answered by `generate`, batch after batch."""
    rows = [prompt for prompt in prompts for _ in range(args.samples)]
    tokens = 0
    torch.manual_seed(0)
    for start in range(0, len(rows), args.batch):
        batch = rows[start : start + args.batch]
        width = max(len(prompt.token_ids) for prompt in batch)
        ids = torch.full((len(batch), width), ends[0], device=model.device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            mask[row, width - len(prompt.token_ids) :] = 1
        with torch.inference_mode():
            said = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=args.max_new_tokens,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                eos_token_id=ends,
                pad_token_id=ends[0],
            )[:, width:]
        for row in said.tolist():
            at = next((i for i, token in enumerate(row) if token in ends), len(row))
            tokens += at
            tokenizer.decode(row[:at])
    return tokens


def library_batching(
    model: Any, tokenizer: Any, prompts: list[Prompt], ends: list[int], args: Any
) -> int:
    """Tokens answered by transformers' continuous batching."""
    settings = GenerationConfig(
        max_new_tokens=args.max_new_tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=ends[0],
        pad_token_id=ends[0],
    )
    rows = [list(prompt.token_ids) for prompt in prompts for _ in range(args.samples)]
    outputs = model.generate_batch(inputs=rows, generation_config=settings, progress_bar=False)
    tokens = 0
    for output in outputs.values():
        said = [token for token in output.generated_tokens if token not in ends]
        tokens += len(said)
        tokenizer.decode(said)
    return tokens


def ours(model: Any, tokenizer: Any, prompts: list[Prompt], ends: list[int], args: Any) -> int:
    """Tokens answered by the engine."""
    engine = TransformersEngine(model, tokenizer, ends, args.batch)
    answers = engine.generate(prompts, Sampling(args.max_new_tokens, args.samples, 1.0, seed=42))
    return sum(len(answer.token_ids) for drawn in answers for answer in drawn)


def timed(way: Callable[..., int], *given: Any) -> dict[str, Any]:
    """Seconds and tokens of one run after a small one."""
    model, tokenizer, prompts, ends, args = given
    way(model, tokenizer, prompts[:4], ends, argparse.Namespace(**{**vars(args), "samples": 1}))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began, busy = time.perf_counter(), time.process_time()
    tokens = way(model, tokenizer, prompts, ends, args)
    seconds = time.perf_counter() - began
    answers = len(prompts) * args.samples
    return {
        "way": way.__name__,
        "seconds": round(seconds, 2),
        # On a busy machine the fairer measure; threads that wait must not spin (OMP_WAIT_POLICY).
        "cpu_seconds": round(time.process_time() - busy, 2),
        "answers": answers,
        "tokens": tokens,
        "answers_per_s": round(answers / seconds, 2),
        "tokens_per_s": round(tokens / seconds, 1),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--questions", type=int, default=4, help="of 28, for each of 12 personas")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--ways", default="plain,ours")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    quiet_libraries()
    gpu = torch.cuda.is_available()
    spec = Model(name=base_model.SMOLLM2, dtype="bfloat16" if gpu else "float32")
    tokenizer, model = load_tokenizer(spec), load_model(spec)
    ends = list(chat.end_token_ids(tokenizer))
    prompts = make_prompts(tokenizer, args.questions)
    ways = {"plain": plain, "ours": ours, "library_batching": library_batching}
    results = []
    for _ in range(args.repeats):
        for name in args.ways.split(","):
            # Plain answers on a CPU use the fused kernel, as the library would.
            result = timed(ways[name], model, tokenizer, prompts, ends, args)
            results.append(result)
            print(json.dumps(result), flush=True)
    device = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    if args.json:
        args.json.write_text(json.dumps({"device": device, "results": results}, indent=1))


if __name__ == "__main__":
    main()
