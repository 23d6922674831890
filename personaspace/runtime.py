"""What a process keeps loaded between stages: tokenizer, base model, generation engine."""

from __future__ import annotations

import gc
import importlib.util
import os
import platform
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from personaspace import chat, models
from personaspace.generation.base import Engine
from personaspace.study import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LIBRARIES = ("personaspace", "torch", "transformers", "peft", "vllm", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of what computes results."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name() -> str:
    """The device in words: the GPU's name, or the processor with its threads."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} threads"


class Runtime:
    """Loads the base model once and lends it to stages.

    Args:
        study: Whose model.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._model: PreTrainedModel | None = None
        self._vllm: Engine | None = None

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        models.quiet_libraries()
        return models.load_tokenizer(self.study.spec.model)

    @cached_property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return chat.end_token_ids(self.tokenizer)

    @property
    def model(self) -> PreTrainedModel:
        """The base model in evaluation mode. On a GPU this closes vLLM, which holds the memory."""
        if self._model is None:
            models.quiet_libraries()
            self._close_vllm()
            self._model = models.load_model(self.study.spec.model)
        return self._model

    @cached_property
    def engine_name(self) -> Literal["transformers", "vllm"]:
        """The engine that `generation.engine` comes to on this machine."""
        wanted = self.study.spec.generation.engine
        if wanted != "auto":
            return wanted
        import torch

        present = importlib.util.find_spec("vllm") is not None
        return "vllm" if present and torch.cuda.is_available() else "transformers"

    def engine(self) -> Engine:
        """The engine, loaded."""
        spec = self.study.spec
        if self.engine_name == "transformers":
            from personaspace.generation.transformers_engine import TransformersEngine

            return TransformersEngine(
                self.model, self.tokenizer, self.end_token_ids, spec.generation.batch_size
            )
        if self._vllm is None:
            self._release_model()
            self._vllm = self._start_vllm()
        return self._vllm

    def _start_vllm(self) -> Engine:
        import torch

        from personaspace.generation.vllm_engine import VllmEngine

        spec = self.study.spec
        folder = models.local_folder(spec.model)
        longest = max(
            spec.extraction.max_new_tokens,
            spec.coupling.max_new_tokens,
            spec.evaluation.max_new_tokens,
        )
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        return VllmEngine(
            str(folder or spec.model.name),
            revision=None if folder else spec.model.revision,
            dtype=spec.model.dtype,
            tokenizer=self.tokenizer,
            seed=spec.seeds[0],
            max_model_len=_PROMPT_ROOM + longest,
            max_lora_rank=spec.training.rank + spec.coupling.recipe.rank,
            gpu_memory_utilization=(
                spec.generation.gpu_memory if torch.cuda.is_available() else None
            ),
            end_token_ids=self.end_token_ids,
        )

    def _release_model(self) -> None:
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _close_vllm(self) -> None:
        if self._vllm is not None:
            self._vllm.close()
            self._vllm = None

    def close(self) -> None:
        """Free everything."""
        self._close_vllm()
        self._release_model()

    def describe(self) -> dict[str, Any]:
        """Device and versions, for manifests."""
        return {"device": device_name(), "versions": versions()}


#: Tokens that a persona's prompt and a question may take together.
_PROMPT_ROOM = 1536
