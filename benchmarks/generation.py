"""All answers of one condition with vLLM, from process start to the last one.

The published design asks a condition's model for 2,880 greedy answers (12 personas × 240 questions,
method B), 900 answers to couple on (3 × 20 × 15) and 3,360 to evaluate (12 × 28 × 10). Measured at
the shape of Qwen2.5-7B with random weights, which need no download and never end an answer by
themselves, so that lengths are set. Each way runs in a process of its own, whose start counts.

    python benchmarks/generation.py --tokens 200 --ways folded,request,published --json out.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a file, by itself too

from benchmarks.shapes import SHAPES as PUBLISHED

QWEN_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
#: For a look at the benchmark itself on a CPU.
TINY = {**QWEN_7B, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "dtype": "float32"}
SHAPES = {"qwen2.5-7b": QWEN_7B, "tiny": TINY}
#: As vLLM calls what `benchmarks.shapes` has by its type.
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}
for _name in ("Qwen2.5-32B", "Llama-3.3-70B"):
    _kind, _sizes = PUBLISHED[_name]
    SHAPES[_name.lower()] = {
        "architectures": [ARCHITECTURES[_kind]],
        "model_type": _kind,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        **_sizes,
    }
END = 151645
#: Multiplied with each token: all parameters but the input embedding.
MATMUL_PARAMETERS = 7.07e9
#: Dense bf16 product measured on an H100, for the ceiling.
TFLOPS = 780e12

#: name: (personas, questions, samples, temperature, adapter)
WORK = {
    "greedy": (12, 240, 1, 0.0, "own"),
    "couple": (3, 20, 15, 1.0, "own"),
    "evaluate": (12, 28, 10, 1.0, "composed"),
    # As many rows as the published way has in flight.
    "rows64": (4, 16, 1, 1.0, "composed"),
}
#: Engine settings of each way. `published` serves merged weights, one engine a stage.
WAYS: dict[str, dict[str, Any]] = {
    "folded": {},
    "folded-256": {"max_num_seqs": 256},
    "folded-1024": {"max_num_seqs": 1024},
    "piecewise": {"environment": {"VLLM_USE_BREAKABLE_CUDAGRAPH": "1"}},
    "first-runner": {"environment": {"VLLM_USE_V2_MODEL_RUNNER": "0"}},
    "eager": {"enforce_eager": True},
    "compiled": {"compiled": True},
    "request": {"adapters": "request"},
    "parallel-2": {"tensor_parallel_size": 2},
    "parallel-4": {"tensor_parallel_size": 4},
    "published": {
        "compiled": True,
        "graph_sizes": None,
        "max_num_seqs": 64,
        "max_lora_rank": 0,
        "kv_cache_bytes": None,
        "gpu_memory_utilization": 0.85,
        "environment": {"VLLM_USE_V2_MODEL_RUNNER": "0"},
    },
}


def write_shape(folder: Path, shape: dict[str, Any]) -> None:
    """A model folder without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))


def write_adapter(folder: Path, shape: dict[str, Any], rank: int) -> None:
    """A random LoRA adapter on all seven projections, float32 as training leaves it."""
    import torch
    from safetensors.torch import save_file

    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    head = shape.get("head_dim", hidden // shape["num_attention_heads"])
    wide, narrow = head * shape["num_attention_heads"], head * shape["num_key_value_heads"]
    shapes = {
        "self_attn.q_proj": (hidden, wide),
        "self_attn.k_proj": (hidden, narrow),
        "self_attn.v_proj": (hidden, narrow),
        "self_attn.o_proj": (wide, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }
    weights = {}
    for layer in range(shape["num_hidden_layers"]):
        for name, (wide_in, wide_out) in shapes.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            weights[f"{stem}.lora_A.weight"] = 0.01 * torch.randn(rank, wide_in)
            weights[f"{stem}.lora_B.weight"] = 0.001 * torch.randn(wide_out, rank)
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted(name.partition(".")[2] for name in shapes),
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "shape",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_prompts(name: str, personas: int, questions: int, length: int, share: float) -> list[Any]:
    """Random tokens; half of a prompt is its persona's, half its question's."""
    from personaspace.generation import Prompt

    chance = random.Random(name)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(1000, 150_000) for _ in range(count))

    asked = [tokens(length - length // 2) for _ in range(questions)]
    prompts = []
    for persona in range(personas):
        own = tokens(length // 2)
        for number in range(max(1, round(questions * share))):
            prompts.append(Prompt(f"{persona}/{number}", own + asked[number]))
    return prompts


class _NoText:
    """Stands for the tokenizer: the random model's tokens mean nothing."""

    def decode(self, *_: Any, **__: Any) -> str:
        return ""


def run_way(task: dict[str, Any]) -> None:
    """In a process of its own: one engine, the named work, one JSON line."""
    times = {"interpreter": time.time() - task["began"]}
    from personaspace.generation import Sampling
    from personaspace.generation.vllm_engine import VllmEngine, import_vllm
    from personaspace.generation.vllm_settings import EngineSettings

    import_vllm()
    import torch

    times["imported"] = time.time() - task["began"]

    class Lengths(VllmEngine):
        """Answers as long as told, whatever is in them."""

        def _params(self, sampling: Any, prompt: Any, sample: int) -> Any:
            params = super()._params(sampling, prompt, sample)
            if task["varied"]:
                half = task["tokens"] // 2
                chance = random.Random(sampling.seed_for(prompt, sample))
                params.max_tokens = min(chance.randint(half, 3 * half), sampling.max_new_tokens)
            return params

    merged = task["settings"].get("max_lora_rank") == 0
    options: dict[str, Any] = {
        "max_lora_rank": 64,
        "kv_cache_bytes": task["cache_gib"] << 30,
        "load_format": "dummy",
        "dtype": task["dtype"],
    }
    settings = EngineSettings(task["model"], **(options | task["settings"]))
    engine = Lengths(settings, _NoText(), [END])  # type: ignore[arg-type]
    times["engine"] = time.time() - task["began"]
    done = []
    for name in task["work"]:
        personas, questions, samples, temperature, adapter = WORK[name]
        prompts = make_prompts(name, personas, questions, task["prompt_tokens"], task["share"])
        limit = 256 if name == "greedy" else 512
        sampling = Sampling(
            limit if task["varied"] else task["tokens"], samples, temperature, seed=42, scope=name
        )
        began = time.time()
        folder = None if merged else Path(task["adapters"]) / adapter
        if not merged:
            engine._apply(folder)
        applied = time.time()
        answers = engine.generate(prompts, sampling, adapter=folder)
        tokens = sum(len(answer.token_ids) for drawn in answers for answer in drawn)
        done.append(
            {
                "work": name,
                "answers": len(prompts) * samples,
                "tokens": tokens,
                "applying_s": round(applied - began, 2),
                "answering_s": round(time.time() - applied, 2),
                "last_answer_s": round(time.time() - task["began"], 2),
                "first": list(answers[0][0].token_ids[:8]),
            }
        )
    gpu = torch.cuda.is_available()
    free, total = torch.cuda.mem_get_info() if gpu else (0, 0)
    result = {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "times_s": {name: round(value, 2) for name, value in times.items()},
        "work": done,
        "memory_gib": round((total - free) / 2**30, 1),
    }
    print("RESULT " + json.dumps(result), flush=True)
    os._exit(0)


def start(
    task: dict[str, Any], environment: dict[str, str], limit: float, log: Path | None
) -> dict[str, Any]:
    """Run a way and read its line."""
    began = time.time()
    command = [sys.executable, __file__, "--task", json.dumps({**task, "began": began})]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        output, code = (late.stdout or b"").decode(errors="replace"), -1
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(output)
    for line in output.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    return {"failed": code, "output": output[-3000:], "seconds": round(time.time() - began, 1)}


def measure(way: str, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The way's processes: one, or one a stage for the published way."""
    chosen = dict(WAYS[way])
    environment = {"HF_HUB_OFFLINE": "1", **chosen.pop("environment", {})}
    stages = [[name] for name in arguments.work] if way == "published" else [arguments.work]
    results = []
    for work in stages:
        task = {
            "settings": chosen,
            "model": str(folder / "shape"),
            "adapters": str(folder / "adapters"),
            "work": work,
            "tokens": arguments.tokens,
            "varied": arguments.varied,
            "prompt_tokens": arguments.prompt_tokens,
            "share": arguments.share,
            "cache_gib": arguments.cache_gib,
            "dtype": SHAPES[arguments.shape]["dtype"],
        }
        log = arguments.logs / f"{way}-{'-'.join(work)}.txt" if arguments.logs else None
        result = {"way": way, **start(task, environment, arguments.limit, log)}
        results.append(result)
        print(json.dumps(result), flush=True)
    return results


def table(results: list[dict[str, Any]]) -> None:
    """For people."""
    print(f"{'way':14} {'engine s':>9} {'work':10} {'answers':>8} {'tokens/s':>9} {'until s':>8}")
    for result in results:
        for done in result.get("work", []):
            rate = done["tokens"] / max(done["answering_s"], 1e-9)
            print(
                f"{result['way']:14} {result['times_s']['engine']:9.1f} {done['work']:10} "
                f"{done['answers']:8,} {rate:9,.0f} {done['last_answer_s']:8.1f}"
            )
        if "failed" in result:
            print(f"{result['way']:14} failed ({result['failed']}), see the JSON")
    print(f"ceiling by matrix products: {TFLOPS / 2 / MATMUL_PARAMETERS:,.0f} tokens/s")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--ways", default="folded,request,published")
    parser.add_argument("--work", default="greedy,couple,evaluate")
    parser.add_argument("--tokens", type=int, default=200, help="length of every answer")
    parser.add_argument("--varied", action="store_true", help="lengths from half to 1.5 of that")
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--share", type=float, default=1.0, help="of the questions")
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-7b")
    parser.add_argument("--cache-gib", type=int, default=18, help="keys and values")
    parser.add_argument("--limit", type=float, default=400, help="seconds a process may take")
    parser.add_argument("--folder", type=Path, help="where shape and adapters are kept")
    parser.add_argument("--logs", type=Path, help="folder for what vLLM says")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.task:
        run_way(json.loads(arguments.task))
        return
    arguments.work = arguments.work.split(",")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="personaspace-benchmark-"))
    shape = SHAPES[arguments.shape]
    write_shape(folder / "shape", shape)
    for name, rank in (("own", 32), ("composed", 64)):
        if not (folder / "adapters" / name).is_dir():
            write_adapter(folder / "adapters" / name, shape, rank)
    results = [r for way in arguments.ways.split(",") for r in measure(way, arguments, folder)]
    table(results)
    if arguments.json:
        settings = {k: str(v) for k, v in vars(arguments).items() if k not in ("task", "json")}
        arguments.json.write_text(json.dumps({"settings": settings, "results": results}, indent=1))


if __name__ == "__main__":
    main()
