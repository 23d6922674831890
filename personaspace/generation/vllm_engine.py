"""The vLLM engine: fast answers on a GPU, with LoRA adapters applied to the base weights.

Works with vLLM 0.24 (CUDA) to 0.32 (also its CPU build). vLLM is imported when an engine is
made, so that this module can be imported where it is not installed.

What vLLM promises about reproducibility, and what it does not:

* Every answer has a seed of its own (`Sampling.seed_for`), so two answers never share random
  numbers, whatever their order, and the draw itself depends on nothing but seed and logits.
* The logits do depend on the batch: kernels sum in another order for another batch shape, and
  prefix caching changes which part of a prompt is computed together. A token whose rivals lie
  within rounding can then fall differently, and the rest of that answer differs with it. So a
  second run gives the same *distribution*, and the same *answers* only if the batches happen to
  round alike. They did whenever a call was repeated, reordered or split on a small model
  (float32 on a CPU, float16 on an H100; tests/vllm_engine); vLLM does not promise it, and another
  GPU, version or compilation rounds differently.
* `VLLM_BATCH_INVARIANT=1` (beta, some GPUs only) asks vLLM for kernels whose sums do not depend
  on the batch. It is left to whoever sets the variable; nothing here relies on it.

Hence answers are kept as artifacts and never drawn again to be compared. Where answers must be
repeatable, use the transformers engine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

from personaspace.errors import UserError
from personaspace.generation.base import Advance, Answer, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Set unless the caller has set them. In-process, because adapters and errors then need no second
#: process; loopback, because one process needs no network and a pod may have none; the log on
#: stderr, because stdout carries results.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}

#: Fields of a PEFT LoRA configuration that change what the adapter means and that vLLM 0.24 either
#: refuses late or ignores (rank_pattern and alpha_pattern: wrong answers without a word).
UNSUPPORTED_FIELDS = (
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "layer_replication",
)


class VllmEngine:
    """One model in vLLM. One such engine may be open in a process at a time.

    vLLM changes the process around it: it seeds the global random generators with `seed`, and its
    CPU build fixes the number of torch's threads (`OMP_NUM_THREADS`).

    Args:
        model: Folder of a model in safetensors, or its hub name.
        revision: Hub revision; None for a folder.
        dtype: `float32`, `bfloat16` or `float16`, of weights, adapters and cache. On a GPU,
            adapters need one of the last two.
        tokenizer: Turns answers into text. Prompts come as token ids, so vLLM needs none.
        seed: Engine seed. Answers have their own; this covers whatever else vLLM draws.
        max_model_len: Longest prompt with its answer, in tokens.
        max_lora_rank: Highest rank of any adapter (for composed adapters the sum), 0 for none.
        gpu_memory_utilization: Share of the device's memory for weights and cache; None is
            vLLM's default.
        end_token_ids: Tokens that end an answer. No other token does, whatever the model's
            generation configuration says, so that both engines stop alike.
        kv_cache_bytes: Size of the cache in bytes, instead of what the share above leaves.
        max_num_seqs: Answers in flight at once. vLLM's default for an H100 is 1,024, more than it
            captures CUDA graphs for: 3,360 answers of a 7B shape then took a third longer (17 s
            against 13 s; with an adapter 24 s against 17 s).
        enforce_eager: Skip compilation and CUDA graphs: starts in a fifth of the time and answers
            at about a third to half of the speed.
        graph_sizes: Batch sizes to capture CUDA graphs for, up to `max_num_seqs`; None is vLLM's
            long list. Fewer sizes take less time to capture.
        load_format: `dummy` fills the model with random weights, for benchmarks.

    Raises:
        UserError: vLLM is not installed, or it refuses the model or these settings.
        RuntimeError: Another engine is open in this process.
    """

    name = "vllm"
    _open: ClassVar[VllmEngine | None] = None

    def __init__(
        self,
        model: str,
        *,
        revision: str | None,
        dtype: str,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        max_model_len: int,
        max_lora_rank: int,
        gpu_memory_utilization: float | None,
        end_token_ids: Sequence[int],
        kv_cache_bytes: int | None = None,
        max_num_seqs: int = 256,
        enforce_eager: bool = False,
        graph_sizes: Sequence[int] | None = None,
        load_format: Literal["auto", "dummy"] = "auto",
    ) -> None:
        if VllmEngine._open is not None:
            raise RuntimeError("a vLLM engine is already open in this process")
        self._vllm = vllm = _import_vllm()
        options: dict[str, Any] = {
            "gpu_memory_utilization": gpu_memory_utilization,
            "kv_cache_memory_bytes": kv_cache_bytes,
            "max_num_seqs": max_num_seqs,
            "compilation_config": (
                {"cudagraph_capture_sizes": list(graph_sizes)} if graph_sizes else None
            ),
        }
        if _on_cpu():
            # A prompt cut in two makes vLLM rewind the answer's random numbers, which a CPU
            # generator cannot do: "CPU Generator does not use offset" (seen in 0.32).
            options["enable_chunked_prefill"] = False
        elif max_lora_rank > 0 and dtype == "float32":
            raise UserError("vllm on a GPU applies adapters in float16 or bfloat16, not in float32")
        if max_lora_rank > 0:
            rank = smallest_allowed_rank(max_lora_rank, _allowed_ranks())
            # One adapter a call: more slots would only take memory.
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        with _refusals_of(f"model {model}"):
            self._llm = vllm.LLM(
                model=model,
                revision=revision,
                dtype=dtype,
                seed=seed,
                max_model_len=max_model_len,
                enable_prefix_caching=True,
                enforce_eager=enforce_eager,
                load_format=load_format,
                skip_tokenizer_init=True,
                # Nothing from the model's own generation configuration: the spec says it all.
                generation_config="vllm",
                use_tqdm_on_load=False,
                **{name: value for name, value in options.items() if value is not None},
            )
        VllmEngine._open = self
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._max_lora_rank = max_lora_rank
        self._end_token_ids = tuple(end_token_ids)
        self._adapter_ids: dict[str, int] = {}

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        adapter: Path | None = None,
        advance: Advance | None = None,
    ) -> list[list[Answer]]:
        """Answers, `[prompt][sample]`, in the order of `prompts`.

        All answers are queued at once; vLLM batches them as its cache allows. Samples of a prompt
        are neighbours in the queue, so its prefix is computed once.

        Args:
            prompts: Tokenised prompts.
            sampling: How answers are drawn.
            adapter: A PEFT LoRA folder, or none. Told apart by content, not by path.
            advance: Called with the number of answers finished since the last call. If it raises,
                what is queued is dropped and the engine stays usable.

        Raises:
            UserError: A prompt is too long, vLLM cannot apply the adapter, or it refuses the
                sampling (temperatures above 2 in 0.32).
            RuntimeError: vLLM gave an answer up (never seen).
        """
        for prompt in prompts:
            self._check_length(prompt, sampling.max_new_tokens)
        lora_request = None if adapter is None else self._load_adapter(adapter)
        if not prompts:
            return []
        queued = [(prompt, i) for prompt in prompts for i in range(sampling.samples)]
        with _refusals_of("this sampling"):
            params = [self._params(sampling, prompt, i) for prompt, i in queued]
        request_ids = self._llm.enqueue(
            [{"prompt_token_ids": list(prompt.token_ids)} for prompt, _ in queued],
            params,
            lora_request=lora_request,
            use_tqdm=False,
        )
        try:
            outputs = self._run(advance)
        except BaseException:
            self._llm.llm_engine.abort_request(request_ids, internal=True)
            raise
        answers = [
            self._answer(prompt, output)
            for (prompt, _), output in zip(queued, outputs, strict=True)
        ]
        n = sampling.samples
        return [answers[start : start + n] for start in range(0, len(answers), n)]

    def close(self) -> None:
        """Free the model's memory. The engine is not used again."""
        if VllmEngine._open is not self:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        VllmEngine._open = None
        cleanup_dist_env_and_memory()

    def _check_length(self, prompt: Prompt, max_new_tokens: int) -> None:
        """Refuses what vLLM would cut short without a word, which reads as `length`."""
        length = len(prompt.token_ids)
        if length + max_new_tokens > self._max_model_len:
            raise UserError(
                f"prompt {prompt.key}: {length} tokens and {max_new_tokens} new ones exceed the "
                f"engine's max_model_len of {self._max_model_len}"
            )

    def _params(self, sampling: Sampling, prompt: Prompt, sample: int) -> Any:
        """The parameters of one answer, with a seed of its own."""
        return self._vllm.SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed_for(prompt, sample),
            max_tokens=sampling.max_new_tokens,
            ignore_eos=True,
            stop_token_ids=list(self._end_token_ids),
            detokenize=False,
        )

    def _load_adapter(self, folder: Path) -> Any:
        """The request that names an adapter, loaded now so that a bad one fails before answers.

        vLLM caches adapters by number and prompt prefixes by name, so both stand for the
        adapter's content: a folder that was rewritten is another adapter.
        """
        from vllm.lora.request import LoRARequest

        check_adapter(folder, self._max_lora_rank)
        digest = _adapter_digest(folder)
        number = self._adapter_ids.setdefault(digest, len(self._adapter_ids) + 1)
        request = LoRARequest(digest, number, str(folder.resolve()))
        with _refusals_of(f"adapter {folder}"):
            self._llm.llm_engine.add_lora(request)
        return request

    def _run(self, advance: Advance | None) -> list[Any]:
        """Steps the engine until the queue is empty; outputs in the order they were queued."""
        engine = self._llm.llm_engine
        outputs = []
        while engine.has_unfinished_requests():
            finished = [output for output in engine.step() if output.finished]
            outputs.extend(finished)
            if finished and advance is not None:
                advance(len(finished))
        # `LLM` numbers its requests in the order of the queue.
        return sorted(outputs, key=lambda output: int(output.request_id))

    def _answer(self, prompt: Prompt, output: Any) -> Answer:
        """The output of one request as an answer, without the token that ended it."""
        completion = output.outputs[0]
        if tuple(output.prompt_token_ids) != prompt.token_ids:
            raise RuntimeError(f"vllm answered another prompt than {prompt.key}")
        finish = completion.finish_reason
        if finish not in ("stop", "length"):
            raise RuntimeError(f"vllm gave up on prompt {prompt.key}: {finish}")
        token_ids = tuple(completion.token_ids)
        if finish == "stop" and token_ids and token_ids[-1] in self._end_token_ids:
            token_ids = token_ids[:-1]
        text = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return Answer(text=cast(str, text), token_ids=token_ids, finish=finish)


def smallest_allowed_rank(needed: int, allowed: Sequence[int]) -> int:
    """The smallest rank that vLLM has kernels' buffers for and that holds `needed`.

    Raises:
        UserError: No allowed rank is that large.
    """
    fitting = [rank for rank in allowed if rank >= needed]
    if not fitting:
        raise UserError(f"vllm allows adapters of rank {max(allowed)} at most, not {needed}")
    return min(fitting)


def check_adapter(folder: Path, max_rank: int) -> None:
    """Refuses what vLLM would load wrongly, load from a pickle, or not load at all.

    Raises:
        UserError: Names the folder and what is wrong with it.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank = int(config["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"adapter {folder}: adapter_config.json is missing or not a LoRA's"
        ) from error
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"adapter {folder}: adapter_model.safetensors is missing")
    if rank > max_rank:
        raise UserError(
            f"adapter {folder}: rank {rank} exceeds the engine's max_lora_rank {max_rank}"
        )
    used = [name for name in UNSUPPORTED_FIELDS if config.get(name)]
    if config.get("bias", "none") != "none":
        used.append("bias")
    if used:
        raise UserError(f"adapter {folder}: vllm does not support {', '.join(used)}")


def _adapter_digest(folder: Path) -> str:
    """SHA-256 of the adapter's configuration and weights, in hex."""
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _import_vllm() -> Any:
    """The vllm package, with the environment that this engine needs around it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        from vllm import LLM  # noqa: F401  (a mere folder of that name also imports)
    except ImportError as error:
        raise UserError(
            f"engine vllm cannot be imported ({_one_line(error)}): install personaspace[gpu]"
        ) from error
    return vllm


@contextmanager
def _refusals_of(what: str) -> Iterator[None]:
    """Turns vLLM's refusals into a UserError: a ValueError in 0.24, a type of its own in 0.32."""
    from vllm.exceptions import VLLMValidationError

    try:
        yield
    except (ValueError, VLLMValidationError) as error:
        raise UserError(f"vllm refuses {what}: {_one_line(error)}") from error


def _on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _allowed_ranks() -> tuple[int, ...]:
    """The ranks that the installed vLLM accepts as `max_lora_rank`."""
    from vllm.config import lora

    return get_args(lora.MaxLoRARanks)


def _one_line(error: Exception) -> str:
    """An exception's message without line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]
