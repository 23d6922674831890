"""How much of a GPU an engine needs, beside whatever else is on it."""

from __future__ import annotations

from dataclasses import dataclass

from personaspace.errors import UserError
from personaspace.models.footprint import GIB, engine_workspace
from personaspace.study import base_model
from personaspace.study.inputs import Model

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: Tokens of each answer in flight that the cache is made for: prompt and half of a long answer.
#: Where they do not suffice, answers wait their turn.
TOKENS_IN_FLIGHT = 512
#: The same where memory is shared: with a cache for less, the model makes way for the engine.
LEAST_TOKENS_IN_FLIGHT = 128
#: What a process takes on a GPU before it does anything.
PROCESS = 1 * GIB


@dataclass(frozen=True)
class ModelMemory:
    """What a model takes on a device.

    Attributes:
        weights: Bytes of all weights.
        token: Bytes of one token's keys and values, all layers.
        positions: Tokens that a text may have.
    """

    weights: int
    token: int
    positions: int

    def part(self, gpus: int) -> ModelMemory:
        """What each of so many GPUs takes of it, where vLLM spreads it."""
        return ModelMemory(-(-self.weights // gpus), -(-self.token // gpus), self.positions)


@dataclass(frozen=True)
class EngineMemory:
    """What an engine takes on a device.

    Attributes:
        cache: Bytes for keys and values.
        total: Bytes in all: weights, the unchanged weights beside folded ones, cache, workspace.
    """

    cache: int
    total: int


def model_memory(model: Model) -> ModelMemory | None:
    """From the model's configuration; None where its size is not known before it is loaded."""
    from transformers import AutoConfig

    shape = base_model.shape(model)
    if shape is None or shape.parameters is None:
        return None
    folder = base_model.local_folder(model)
    whole = AutoConfig.from_pretrained(
        str(folder or model.name),
        revision=None if folder else base_model.commit_of(model),
        trust_remote_code=False,
    )
    config = whole.get_text_config()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = 2 * config.num_hidden_layers * getattr(config, "num_key_value_heads", heads) * head_size
    size = _BYTES[model.dtype]
    positions = getattr(config, "max_position_embeddings", None) or 1 << 20
    return ModelMemory(shape.parameters * size, kept * size, positions)


def engine_memory(model: ModelMemory, allowed: float, rows: int, longest: int) -> EngineMemory:
    """An engine within `allowed` bytes.

    The cache is as large as answers in flight can use. Only where that and a second copy of the
    weights do not both fit is the copy left to the host's memory (`folding`), then the cache cut.

    Args:
        allowed: Bytes that it may take.
        rows: Answers in flight.
        longest: Tokens of the longest prompt with its answer.

    Raises:
        UserError: Not even a few of the longest answers would fit.
    """
    workspace = engine_workspace(model.weights)
    wanted = rows * min(TOKENS_IN_FLIGHT, longest) * model.token
    left = allowed - model.weights - workspace
    copy = model.weights if left - model.weights >= wanted // 2 else 0
    cache = int(min(wanted, left - copy))
    if cache < 2 * longest * model.token:
        raise UserError(
            f"generation.gpu_memory: {allowed / GIB:.1f} GiB of the GPU do not hold vLLM's "
            f"{model.weights / GIB:.1f} GiB of weights and a cache for answers"
        )
    return EngineMemory(cache=cache, total=model.weights + copy + cache + workspace)


def shared_engine_memory(
    model: ModelMemory, allowed: float, beside: float, rows: int, longest: int
) -> EngineMemory:
    """An engine that leaves room for a model beside it, if it can do with little; see above.

    Args:
        allowed: Bytes that it may take if need be.
        beside: Bytes that it may share with the model and its process; 0 if it need not.
        rows: Answers in flight.
        longest: Tokens of the longest prompt with its answer.

    Raises:
        UserError: As `engine_memory`, of `allowed`.
    """
    modest = min(allowed, beside - model.weights - PROCESS)
    least = max(rows * LEAST_TOKENS_IN_FLIGHT, 2 * longest) * model.token
    if modest > 2 * model.weights + engine_workspace(model.weights) + least:
        return engine_memory(model, modest, rows, longest)
    return engine_memory(model, allowed, rows, longest)
