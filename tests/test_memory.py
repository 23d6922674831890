"""What stays on a GPU beside what: decided by bytes, tried here without one."""

from __future__ import annotations

from typing import Any

import pytest

from personaspace.errors import UserError
from personaspace.generation.memory import (
    TOKENS_IN_FLIGHT,
    ModelMemory,
    engine_memory,
    model_memory,
    shared_engine_memory,
)
from personaspace.models.footprint import GIB
from personaspace.pipeline import runtime as runtimes
from personaspace.pipeline.runtime import Runtime
from personaspace.study import base_model
from personaspace.study.inputs import Model
from personaspace.study.loaded import Study
from personaspace.study.spec import Experiment

#: Qwen2.5-7B in bfloat16: 28 layers × 2 × 4 heads × 128 × 2 bytes a token.
SEVEN = ModelMemory(weights=15_231_233_024, token=57_344, positions=32_768)
#: SmolLM2-135M: 30 layers × 2 × 3 heads × 64 × 2 bytes a token.
SMALL = ModelMemory(weights=269_030_016, token=23_040, positions=8192)


def test_a_model_is_measured_from_its_folder(tiny_model: Any) -> None:
    memory = model_memory(Model(name=str(tiny_model), dtype="bfloat16"))
    shape = base_model.shape(Model(name=str(tiny_model)))
    assert memory is not None and shape is not None and shape.parameters is not None
    assert memory.weights == 2 * shape.parameters
    assert memory.token == 2 * 4 * 2 * 16 * 2  # keys and values, layers, heads, head size, bytes
    assert memory.positions == 1024


def test_an_engine_takes_what_it_can_use_and_no_more() -> None:
    on_80 = engine_memory(SEVEN, 0.85 * 80 * GIB, 512, 2048)
    assert on_80.cache == 512 * TOKENS_IN_FLIGHT * SEVEN.token
    assert 2 * SEVEN.weights + on_80.cache < on_80.total < 0.85 * 80 * GIB
    # On 40 GiB the copy stays and the cache is cut; on 24 the copy goes to the host first.
    on_40 = engine_memory(SEVEN, 0.9 * 44 * GIB, 512, 2048)
    assert on_80.cache / 2 <= on_40.cache < on_80.cache
    on_24 = engine_memory(SEVEN, 0.9 * 24 * GIB, 512, 2048)
    assert on_24.total <= 0.9 * 24 * GIB and on_24.total < 2 * SEVEN.weights
    with pytest.raises(UserError, match=r"generation\.gpu_memory"):
        engine_memory(SEVEN, 16 * GIB, 512, 2048)


def test_engines_of_several_processes_leave_room_for_training() -> None:
    """Eight processes on 80 GB: each engine and training beside it within an eighth."""
    share = 79 * GIB / 8
    alone = engine_memory(SMALL, 0.85 * share, 512, 2048)
    modest = shared_engine_memory(SMALL, 0.85 * share, share - 4 * GIB, 512, 2048)
    assert modest.total + SMALL.weights + 5 * GIB <= share
    assert 512 * 128 * SMALL.token <= modest.cache < alone.cache
    # Where so little is no engine, or none need be shared with, it takes what it may.
    for beside in (0.0, 4 * GIB):
        assert shared_engine_memory(SMALL, 0.85 * share, beside, 512, 2048) == alone
    assert shared_engine_memory(SMALL, 2.5 * GIB, 70 * GIB, 512, 2048).total <= 2.5 * GIB


class Card:
    """A GPU's memory: the model, an engine once it is open, and whatever else was put there."""

    def __init__(self, total: float) -> None:
        self.total, self.other = total, 0.0
        self.engine: Any = None
        self.runtime: Any = None

    def used(self) -> float:
        opened = self.engine is not None and self.engine.told_to_open
        loaded = self.runtime._model is not None
        memory = self.runtime._model_memory
        weights: float = memory.weights if memory else 0
        engine: float = self.runtime._engine_bytes * opened
        return self.other + weights * loaded + engine


class FakeEngine:
    """Stands for the process: counts what is asked of it."""

    def __init__(self, card: Card, log: list[str]) -> None:
        self.told_to_open = False
        self.opened = self.alive = True
        self._card, self._log = card, log
        log.append("process")

    def open(self) -> None:
        self.told_to_open = True
        self._log.append("open")

    def close(self) -> None:
        self._card.engine = None
        self._log.append("close")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    def build(total: float, memory: ModelMemory | None) -> tuple[Runtime, Card, list[str]]:
        card, log = Card(total), list[str]()
        runtime = Runtime(Study.__new__(Study))
        object.__setattr__(runtime.study, "spec", Experiment())
        card.runtime = runtime
        values = {"_on_gpu": True, "engine_name": "vllm", "_model_memory": memory}
        values["_engine_memory"] = memory and engine_memory(memory, 0.85 * total, 512, 2048)
        runtime.__dict__.update(values)

        def start() -> FakeEngine:
            engine = card.engine = FakeEngine(card, log)
            return engine

        monkeypatch.setattr(runtime, "_start_vllm", start)
        monkeypatch.setattr(Runtime, "_free", lambda self: card.total - card.used())

        def load(_: Model) -> object:
            log.append("model")
            return object()

        monkeypatch.setattr(runtimes, "load_model", load)
        return runtime, card, log

    return build


def test_a_small_model_and_its_engine_stay_beside_each_other(make: Any) -> None:
    runtime, _, log = make(80 * GIB, SMALL)
    runtime.expect_answers()
    assert log == ["process", "open"], "the engine loads while training runs"
    assert runtime.training_model is runtime.model
    runtime.engine()
    assert runtime.training_model is runtime.model
    assert log == ["process", "open", "model"]


def test_training_a_large_model_makes_the_engine_leave(make: Any) -> None:
    runtime, _, log = make(80 * GIB, SEVEN)
    runtime.expect_answers()
    _ = runtime.training_model
    assert log == ["process", "model"], "vLLM is imported meanwhile, and holds nothing"
    runtime.engine()
    _ = runtime.model
    assert log == ["process", "model", "open"], "hidden states need no more than the weights"
    _ = runtime.training_model
    assert log[3:] == ["close", "process"], "another one is made ready for the answers to come"
    runtime.expect_answers(False)
    runtime.engine()
    assert log[5:] == ["open"]


def test_on_a_small_card_model_and_engine_take_turns(make: Any) -> None:
    runtime, _, log = make(24 * GIB, SEVEN)
    runtime.expect_answers()
    _ = runtime.training_model
    runtime.engine()
    assert runtime._model is None and log == ["process", "model", "open"]
    _ = runtime.model
    assert log[3:] == ["close", "process", "model"]


def test_of_unknown_size_one_makes_way_for_the_other(make: Any) -> None:
    runtime, _, log = make(80 * GIB, None)
    runtime.expect_answers()
    _ = runtime.training_model
    runtime.engine()
    assert runtime._model is None
    _ = runtime.model
    assert log == ["process", "model", "open", "close", "process", "model"]


def test_an_engine_that_died_is_replaced(make: Any) -> None:
    runtime, card, log = make(80 * GIB, SMALL)
    runtime.engine()
    card.engine.alive = False
    runtime.engine()
    assert log == ["process", "open", "close", "process", "open"]
