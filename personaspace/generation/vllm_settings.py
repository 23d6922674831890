"""How vLLM is set up for a study: thousands of prompts, soon answered, then the process ends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from personaspace.errors import UserError

#: Set unless the caller has set them. In-process, because adapters and errors then need no second
#: process; loopback, because one process needs no network and a pod may have none; the log on
#: stderr, because stdout carries results; no FlashInfer sampler, because it draws rows without
#: their seeds and is compiled at every start.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
#: On a GPU only. 0.24 takes its second runner by itself for some architectures, later ones for all.
GPU_ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "1"}

#: Rows in flight to capture CUDA graphs for; a batch runs in the next larger one.
GRAPH_SIZES = (1, 8, 32, 64, 128, 192, 256, 320, 384, 448, 512)


@dataclass(frozen=True)
class EngineSettings:
    """What a vLLM engine is made from; goes to another process as it is.

    Attributes:
        model: Folder of a model in safetensors, or its hub name.
        revision: Hub revision; None for a folder.
        dtype: `float32`, `bfloat16` or `float16`, of weights, adapters and cache.
        seed: Engine seed. Answers have their own; this covers whatever else vLLM draws.
        max_model_len: Longest prompt with its answer, in tokens.
        max_lora_rank: Highest rank of any adapter (for composed adapters the sum), 0 for none.
        adapters: `fold` changes the weights, at no cost in speed; `request` serves the adapter
            beside them, in vLLM's own kernels. By default folded on a GPU; vLLM's CPU build packs
            the weights away, so that they cannot be changed.
        gpu_memory_utilization: Share of the device's memory for weights and cache; None is
            vLLM's default.
        kv_cache_bytes: Size of the cache in bytes, instead of what the share above leaves. vLLM
            then neither measures nor minds what else is on the device.
        max_num_seqs: Answers in flight at once.
        max_num_batched_tokens: Tokens of one step, prompts cut to fit.
        enforce_eager: No CUDA graphs and no compilation.
        compiled: Compile the model (`torch.compile`) as well as capturing graphs.
        graph_sizes: Numbers of rows to capture CUDA graphs for; None is vLLM's own long list.
        tensor_parallel_size: GPUs that each hold a part of every layer. Adapters are then served
            beside the weights: those of one process alone cannot be folded into.
        load_format: `dummy` fills the model with random weights, for benchmarks.
    """

    model: str
    revision: str | None = None
    dtype: str = "bfloat16"
    seed: int = 0
    max_model_len: int = 2048
    max_lora_rank: int = 0
    adapters: Literal["fold", "request"] | None = None
    gpu_memory_utilization: float | None = None
    kv_cache_bytes: int | None = None
    max_num_seqs: int = 512
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    compiled: bool = False
    graph_sizes: Sequence[int] | None = GRAPH_SIZES
    tensor_parallel_size: int = 1
    load_format: Literal["auto", "dummy"] = "auto"

    def folds(self, on_cpu: bool) -> bool:
        """Whether adapters are folded into the weights."""
        several = self.tensor_parallel_size > 1
        return (self.adapters or ("request" if on_cpu or several else "fold")) == "fold"

    def options(self, on_cpu: bool) -> dict[str, Any]:
        """Keyword arguments of `vllm.LLM`.

        Raises:
            UserError: Adapters of that rank or type cannot be served.
        """
        if self.tensor_parallel_size > 1 and self.folds(on_cpu):
            raise UserError("vllm on several GPUs cannot fold adapters into its weights")
        chosen: dict[str, Any] = {
            "model": self.model,
            "revision": self.revision,
            "dtype": self.dtype,
            "seed": self.seed,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "kv_cache_memory_bytes": self.kv_cache_bytes,
            "enforce_eager": self.enforce_eager,
            "load_format": self.load_format,
            "tensor_parallel_size": self.tensor_parallel_size,
            "enable_prefix_caching": True,
            "skip_tokenizer_init": True,
            # Nothing from the model's own generation configuration: the spec says it all.
            "generation_config": "vllm",
            "use_tqdm_on_load": False,
        }
        if on_cpu:
            # A prompt cut in two makes vLLM rewind the answer's random numbers, which a CPU
            # generator cannot do: "CPU Generator does not use offset" (seen in 0.32).
            chosen["enable_chunked_prefill"] = False
        else:
            chosen |= self._gpu_options()
        if self.max_lora_rank > 0 and not self.folds(on_cpu):
            if not on_cpu and self.dtype == "float32":
                raise UserError(
                    "vllm on a GPU applies adapters in float16 or bfloat16, not in float32"
                )
            rank = smallest_allowed_rank(self.max_lora_rank, allowed_ranks())
            # One adapter a call: more slots would only take memory.
            chosen |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        return {name: value for name, value in chosen.items() if value is not None}

    def _gpu_options(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        if self.kv_cache_bytes is not None and self.gpu_memory_utilization is None:
            # The share is then only what must be free at the start.
            chosen["gpu_memory_utilization"] = 0.01
        if self.enforce_eager:
            return chosen
        graphs: dict[str, Any] = {}
        if not self.compiled:
            # Steps that only decode run from a graph, others as they are: no compiler needed.
            graphs |= {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
        if self.graph_sizes:
            sizes = [size for size in self.graph_sizes if size < self.max_num_seqs]
            graphs["cudagraph_capture_sizes"] = [*sizes, self.max_num_seqs]
        if graphs:
            chosen["compilation_config"] = graphs
        # Attention over a prefix common to all rows has no graph, and would run without one.
        chosen["disable_cascade_attn"] = True
        return chosen


def prepare_environment(on_gpu: bool) -> None:
    """Set what vLLM reads from the environment, where the user has not.

    With $PERSONASPACE_CACHE set (a volume, say) whatever vLLM and Triton compile is kept there.
    """
    wanted = {**ENVIRONMENT, **(GPU_ENVIRONMENT if on_gpu else {})}
    cache = os.environ.get("PERSONASPACE_CACHE")
    if cache:
        wanted |= {"VLLM_CACHE_ROOT": f"{cache}/vllm", "TRITON_CACHE_DIR": f"{cache}/triton"}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def smallest_allowed_rank(needed: int, allowed: Sequence[int]) -> int:
    """The smallest rank that vLLM has kernels' buffers for and that holds `needed`.

    Raises:
        UserError: No allowed rank is that large.
    """
    fitting = [rank for rank in allowed if rank >= needed]
    if not fitting:
        raise UserError(f"vllm allows adapters of rank {max(allowed)} at most, not {needed}")
    return min(fitting)


def allowed_ranks() -> tuple[int, ...]:
    """The ranks that the installed vLLM accepts as `max_lora_rank`."""
    from vllm.config import lora

    return get_args(lora.MaxLoRARanks)
