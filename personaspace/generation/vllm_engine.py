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

A study's engine answers a few thousand prompts and is then started anew in another pod, so what
counts is the time from process start to last answer (`docs/performance-generation.md`):

* Adapters are folded into the weights (`folding`), unless the weights cannot be reached: at the
  shape of a 7B model on an H100 more than twice as fast as a LoRA request beside them.
* Decoding runs from CUDA graphs of a few sizes, without compiling the model.
* vLLM's second model runner, because it draws all rows of a batch in one kernel; the first one
  draws each seeded row by itself.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from personaspace.errors import UserError
from personaspace.generation.base import Advance, Answer, Prompt, Sampling
from personaspace.generation.folding import FoldedAdapter
from personaspace.generation.vllm_settings import EngineSettings, prepare_environment
from personaspace.study.adapters import unsupported

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VllmEngine:
    """One model in vLLM. One such engine may be open in a process at a time.

    vLLM changes the process around it: it seeds the global random generators with `seed`, and its
    CPU build fixes the number of torch's threads (`OMP_NUM_THREADS`).

    Args:
        settings: Model, memory, batches and graphs.
        tokenizer: Turns answers into text. Prompts come as token ids, so vLLM needs none.
        end_token_ids: Tokens that end an answer. No other token does, whatever the model's
            generation configuration says, so that both engines stop alike.

    Raises:
        UserError: vLLM is not installed, or it refuses the model or these settings.
        RuntimeError: Another engine is open in this process.
    """

    name = "vllm"
    _open: ClassVar[VllmEngine | None] = None

    def __init__(
        self,
        settings: EngineSettings,
        tokenizer: PreTrainedTokenizerBase,
        end_token_ids: Sequence[int],
    ) -> None:
        if VllmEngine._open is not None:
            raise RuntimeError("a vLLM engine is already open in this process")
        self._vllm = vllm = import_vllm()
        on_cpu = _on_cpu()
        with _refusals_of(f"model {settings.model}"):
            self._llm = vllm.LLM(**settings.options(on_cpu))
        VllmEngine._open = self
        self._tokenizer = tokenizer
        self._settings = settings
        self._folds = settings.folds(on_cpu)
        self._folded: FoldedAdapter | None = None
        self._folded_digest: str | None = ""
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
            RuntimeError: vLLM gave an answer up, or kept its prefix cache (never seen).
        """
        for prompt in prompts:
            self._check_length(prompt, sampling.max_new_tokens)
        lora_request = self._apply(adapter)
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
        if length + max_new_tokens > self._settings.max_model_len:
            raise UserError(
                f"prompt {prompt.key}: {length} tokens and {max_new_tokens} new ones exceed the "
                f"engine's max_model_len of {self._settings.max_model_len}"
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

    def _apply(self, adapter: Path | None) -> Any:
        """Folds the adapter in, or gives the request that names it; a bad one fails here.

        Adapters are told apart by content: a folder that was rewritten is another adapter.
        """
        digest = ""
        if adapter is not None:
            check_adapter(adapter, self._settings.max_lora_rank)
            digest = _adapter_digest(adapter)
        if self._folds:
            if digest != self._folded_digest:
                self._fold(adapter, digest)
            return None
        return None if adapter is None else self._request(adapter, digest)

    def _fold(self, adapter: Path | None, digest: str) -> None:
        def change(model: Any) -> None:
            self._folded = self._folded or FoldedAdapter(model)
            self._folded.fold(adapter)

        self._folded_digest = None
        self._llm.apply_model(change)
        self._folded_digest = digest
        # Keys and values of the other weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vllm did not empty its prefix cache")

    def _request(self, folder: Path, digest: str) -> Any:
        """Adapters are cached by number and prompt prefixes by name: both stand for content."""
        from vllm.lora.request import LoRARequest

        number = self._adapter_ids.setdefault(digest, len(self._adapter_ids) + 1)
        request = LoRARequest(digest, number, str(folder.resolve()))
        with _refusals_of(f"adapter {folder}"):
            self._llm.llm_engine.add_lora(request)
        return request

    def _run(self, advance: Advance | None) -> list[Any]:
        """Steps the engine until the queue is empty; outputs in the order they were queued."""
        engine = self._llm.llm_engine
        outputs = []
        with _no_collection():
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
    if found := unsupported(config):
        raise UserError(f"adapter {folder}: vllm does not support {', '.join(found)}")


def _adapter_digest(folder: Path) -> str:
    """SHA-256 of the adapter's configuration and weights, in hex."""
    digest = hashlib.sha256()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def import_vllm() -> Any:
    """The vllm package, with the environment that this engine needs around it.

    Raises:
        UserError: It cannot be imported.
    """
    import torch

    prepare_environment(torch.cuda.is_available())
    try:
        import vllm
        from vllm import LLM  # noqa: F401  (a mere folder of that name also imports)
    except ImportError as error:
        raise UserError(
            f"engine vllm cannot be imported ({_one_line(error)}): install personaspace[gpu]"
        ) from error
    return vllm


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection: steps wait for Python, and vLLM's objects take long to walk."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _refusals_of(what: str) -> Iterator[None]:
    """Turns vLLM's refusals into a UserError: a ValueError in 0.24, a type of its own in 0.32."""
    from vllm.exceptions import VLLMValidationError

    try:
        yield
    except (ValueError, VLLMValidationError) as error:
        raise UserError(f"vllm refuses {what}: {_one_line(error)}") from error


def _on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build.

    Raises:
        UserError: It is none, and it sees no GPU.
    """
    from vllm.platforms import current_platform

    if not current_platform.device_type:
        raise UserError("engine vllm sees no GPU here: generation.engine: transformers needs none")
    return bool(current_platform.is_cpu())


def _one_line(error: Exception) -> str:
    """An exception's message without line breaks, at most 300 characters."""
    return " ".join(str(error).split())[:300]
