"""What a process keeps loaded between stages: tokenizer, base model, generation engine."""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import platform
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

from personaspace import interrupt
from personaspace.generation.base import Engine
from personaspace.generation.choice import EngineName, engine_here
from personaspace.generation.memory import (
    EngineMemory,
    ModelMemory,
    engine_memory,
    model_memory,
    shared_engine_memory,
)
from personaspace.logs import quiet_libraries
from personaspace.models import preflight
from personaspace.models.footprint import GIB, Footprint, Use
from personaspace.models.load import load_model, load_tokenizer
from personaspace.models.preflight import Prompted
from personaspace.pipeline import spreading
from personaspace.pipeline.stages import STAGES
from personaspace.study import base_model
from personaspace.study.loaded import Study

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from personaspace.generation.engine_process import EngineProcess
    from personaspace.generation.vllm_settings import EngineSettings

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


def device_name(uses_model: bool = True) -> str:
    """The device in words: the GPU's name, or the processor with its threads.

    Args:
        uses_model: Of what runs the model; all else runs on the processor, whatever is beside it.
    """
    if importlib.util.find_spec("torch") is None:  # statistics and report do without
        return f"CPU, {os.cpu_count()} threads"
    import torch

    if uses_model and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} threads"


class Runtime:
    """Loads the base model once and lends it to stages.

    On a GPU with vLLM the engine lives in a process of its own. Model and engine stay loaded beside
    each other while both fit, by the memory that is free; else one makes way for the other.

    Args:
        study: Whose model.
        processes: Processes that share this one's GPU, each with a runtime like this.
    """

    def __init__(self, study: Study, processes: int = 1) -> None:
        self.study = study
        self.processes = processes
        self._model: PreTrainedModel | None = None
        self._vllm: EngineProcess | None = None
        self._answers_expected = False

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base model's tokenizer."""
        return load_tokenizer(self.study.spec.model)

    @cached_property
    def prompted(self) -> Prompted:
        """How chats are put to the model; what cannot be is refused here."""
        return preflight.prompted(self.study.spec.model, self.tokenizer)

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end an answer."""
        return self.prompted.ends

    @property
    def model(self) -> PreTrainedModel:
        """The base model in evaluation mode, for passes without gradients."""
        if self._model is None:
            quiet_libraries()
            self._make_room(spare=2 * GIB)
            with interrupt.breakable():
                self._model = load_model(self.study.spec.model)
        return self._model

    @property
    def training_model(self) -> PreTrainedModel:
        """The same model where gradients and activations must find room as well."""
        self._make_room(spare=self._training_bytes)
        return self.model

    @cached_property
    def engine_name(self) -> EngineName:
        """The engine that `generation.engine` comes to on this machine."""
        return engine_here(self.study.spec.generation.engine)

    def expect_answers(self, expected: bool = True) -> None:
        """Answers will be asked for, now or in a later stage: begin with what takes long.

        vLLM's process starts, and loads the model if training will find room beside it.
        """
        self._answers_expected = expected and self.engine_name == "vllm"
        if not self._answers_expected or self._vllm is not None:
            return
        self._vllm = self._start_vllm()
        memory = self._model_memory
        if memory is None:
            return
        if self._free() >= self._engine_bytes + memory.weights + self._training_bytes:
            self._vllm.open()

    def engine(self) -> Engine:
        """The engine, loaded or about to be."""
        if self.engine_name == "transformers":
            from personaspace.generation.transformers_engine import TransformersEngine

            return TransformersEngine(
                self.model,
                self.tokenizer,
                self.end_token_ids,
                self.study.spec.generation.batch_size,
            )
        if self._vllm is not None and not self._vllm.alive:
            self._close_vllm()  # it failed in a stage before
        if self._vllm is None:
            self._vllm = self._start_vllm()
        if not self._vllm.told_to_open:
            # Of a model of unknown size only this is sure: without the other, it has all the room.
            if self._on_gpu and (self._model_memory is None or self._free() < self._engine_bytes):
                self._release_model()
            self._vllm.open()
        return self._vllm

    def _start_vllm(self) -> EngineProcess:
        from personaspace.generation.engine_process import EngineProcess

        # vLLM's warnings are its own; what fails is told by the stage.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        return EngineProcess(self._engine_settings, self.tokenizer, self.end_token_ids)

    @cached_property
    def _engine_settings(self) -> EngineSettings:
        from personaspace.generation.vllm_settings import EngineSettings

        spec = self.study.spec
        folder = base_model.local_folder(spec.model)
        memory = self._engine_memory
        unknown = memory is None and self._on_gpu
        return EngineSettings(
            str(folder or spec.model.name),
            revision=None if folder else base_model.commit_of(spec.model),
            dtype=spec.model.dtype,
            seed=spec.seeds[0],
            max_model_len=self._longest,
            max_num_seqs=EngineSettings.max_num_seqs if self._on_gpu else _CPU_ROWS,
            max_lora_rank=max(spec.recipe_of(c).rank for c in spec.conditions)
            + spec.coupling.recipe.rank,
            tensor_parallel_size=self._engine_gpus,
            kv_cache_bytes=memory.cache if memory else None,
            gpu_memory_utilization=(
                spec.generation.gpu_memory / self.processes if unknown else None
            ),
        )

    @property
    def _longest(self) -> int:
        spec = self.study.spec
        limits = [stage.longest_answer for stage in STAGES.values()]
        wanted = _PROMPT_ROOM + max(limit(spec) for limit in limits if limit is not None)
        memory = self._model_memory
        return min(wanted, memory.positions) if memory else wanted

    def spread(self, use: Use, wanted: int = 1) -> list[str]:
        """Devices that a stage spreads the model over; empty: it has it whole. Others make way.

        Args:
            use: What the model is for.
            wanted: GPUs that the training shares its examples out to.

        Raises:
            UserError: There are too few.
        """
        found = self._devices(use, wanted)
        if found:
            self.make_way()
        return found

    def _devices(self, use: Use, wanted: int = 1) -> list[str]:
        return spreading.devices(
            self.study.spec.hardware, use, lambda: self._footprint, spreading.here(), wanted
        )

    @cached_property
    def _footprint(self) -> Footprint | None:
        """What the model takes; None where its weights are small, or of unknown size."""
        spec, memory = self.study.spec, self._model_memory
        # Of one that fills no third of the card nothing need be counted, which takes a second.
        if memory is None or memory.weights * 3 < spreading.here().bytes:
            return None
        return preflight.memory_of(spec)

    # --- memory of the GPU -----------------------------------------------------------------------

    @cached_property
    def _on_gpu(self) -> bool:
        import torch

        return torch.cuda.is_available()

    @cached_property
    def _model_memory(self) -> ModelMemory | None:
        return model_memory(self.study.spec.model)

    @cached_property
    def _engine_memory(self) -> EngineMemory | None:
        if self._model_memory is None:
            return None
        import torch

        from personaspace.generation.vllm_settings import EngineSettings

        if not self._on_gpu:
            return engine_memory(self._model_memory, math.inf, _CPU_ROWS, self._longest)
        part = self._model_memory.part(self._engine_gpus)
        share = torch.cuda.mem_get_info()[1] / self.processes
        return shared_engine_memory(
            part,
            self.study.spec.generation.gpu_memory * share,
            # Several processes each have a small share: a smaller cache costs less than an engine
            # that leaves for every training.
            share - self._training_bytes if self.processes > 1 else 0,
            EngineSettings.max_num_seqs,
            self._longest,
        )

    @cached_property
    def _engine_gpus(self) -> int:
        """GPUs that vLLM spreads the model over: where one does not hold it, as many as do."""
        return max(1, len(self._devices(Use.ANSWERING)))

    @property
    def _training_bytes(self) -> int:
        """Room that gradients and activations are given beside the weights."""
        # Rows become as long as memory allows (`fastlora`), so less would do.
        least = 4 * GIB if self.processes > 1 else 8 * GIB
        return max(least, 3 * self._model_memory.weights if self._model_memory else 0)

    @property
    def _engine_bytes(self) -> int:
        return self._engine_memory.total if self._engine_memory else 0

    def _free(self) -> float:
        """Bytes that this process may still take, those promised to the engine not counted."""
        if not self._on_gpu:
            return math.inf
        import torch

        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        engine = self._engine_bytes if self._vllm is not None and self._vllm.told_to_open else 0
        loading = self._vllm is not None and not self._vllm.opened
        share = total / self.processes - torch.cuda.memory_reserved() - engine
        # Alone, a process minds whatever else there is; among its like, it has its share.
        return min(free - (engine if loading else 0), share if self.processes > 1 else math.inf)

    def _make_room(self, spare: int) -> None:
        """End vLLM's process unless the model and so many bytes more find room beside it."""
        if self._vllm is None or not self._vllm.told_to_open or not self._on_gpu:
            return
        memory = self._model_memory
        needed = spare + (memory.weights if memory and self._model is None else 0)
        if memory is None or self._free() < needed:
            self._close_vllm()
            self.expect_answers(self._answers_expected)

    def _release_model(self) -> None:
        if self._model is None:
            return
        self._model = None
        gc.collect()
        if self._on_gpu:
            import torch

            torch.cuda.empty_cache()

    def _close_vllm(self) -> None:
        if self._vllm is not None:
            self._vllm.close()
            self._vllm = None

    def make_way(self) -> None:
        """Leave a GPU to another model; what was loaded is loaded again when it is needed."""
        if self._on_gpu:
            self.close()

    def close(self) -> None:
        """Free everything."""
        self._close_vllm()
        self._release_model()

    def describe(self, uses_model: bool = True) -> dict[str, Any]:
        """Device (see `device_name`) and versions, for manifests."""
        return {"device": device_name(uses_model), "versions": versions()}


#: Answers in flight in vLLM's CPU build.
_CPU_ROWS = 64
#: Tokens that a persona's prompt and a question may take together.
_PROMPT_ROOM = 1536
