"""Folding into real vLLM weights, and the engine in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from peft import PeftModel
from test_vllm_engine import (
    AGREEMENT,
    DRAWN,
    DTYPE,
    GREEDY,
    MAX_LORA_RANK,
    MAX_MODEL_LEN,
    ON_GPU,
    REPEATED,
    World,
    agree,
    ids,
)

from personaspace import interrupt
from personaspace.errors import Interrupted, UserError
from personaspace.generation.engine_process import EngineProcess
from personaspace.generation.vllm_engine import VllmEngine
from personaspace.generation.vllm_settings import EngineSettings


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("vllm-process"))


def settings_of(world: World) -> EngineSettings:
    return EngineSettings(
        str(world.model_folder),
        dtype=DTYPE,
        max_model_len=MAX_MODEL_LEN,
        max_lora_rank=MAX_LORA_RANK,
        kv_cache_bytes=256 << 20,
        max_num_seqs=256,
        enforce_eager=True,
    )


@pytest.fixture
def started(world: World) -> Iterator[EngineProcess]:
    engine = EngineProcess(settings_of(world), world.tokenizer, [world.end])
    yield engine
    engine.close()
    assert not engine._child.process.is_alive()


def test_folded_answers_are_those_of_a_merge(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    if VllmEngine._open is not None:
        VllmEngine._open.close()
    if not ON_GPU:
        # The CPU build packs the weights for oneDNN and drops them; its plain way keeps them.
        from vllm import _custom_ops

        monkeypatch.setattr(_custom_ops, "_supports_onednn", False)
    engine = world.open_engine(adapters="fold")
    try:
        base = ids(engine.generate(world.prompts, GREEDY))
        assert agree("greedy, base", base, world.reference) >= AGREEMENT
        for rank, folder in world.adapters.items():
            model = PeftModel.from_pretrained(world.load(), folder).merge_and_unload().eval()
            expected = tiny.greedy(model, world.prompts, world.end)
            answers = ids(engine.generate(world.prompts, GREEDY, adapter=folder))
            assert agree(f"folded, rank {rank}", answers, expected) >= AGREEMENT
            assert agree(f"rank {rank} and base", answers, base) < 0.5
        # Neither weights nor prefixes of the adapter stay behind.
        assert agree("base again", ids(engine.generate(world.prompts, GREEDY)), base) >= REPEATED
        with pytest.raises(UserError, match="exceeds"):
            wide = world.model_folder.parent / "wide"
            tiny.make_adapter(wide, world.model_folder, rank=MAX_LORA_RANK + 1, seed=1)
            engine.generate(world.prompts, GREEDY, adapter=wide)
    finally:
        engine.close()


def test_another_process_answers_alike(world: World, started: EngineProcess) -> None:
    assert not started.told_to_open and not started.opened
    counts: list[int] = []
    answers = started.generate(world.prompts, GREEDY, advance=counts.append)
    assert started.opened
    assert agree("greedy, base", ids(answers), world.reference) >= AGREEMENT
    assert sum(counts) == len(world.prompts)
    drawn = started.generate(world.prompts, DRAWN, adapter=world.adapters[8])
    again = started.generate(world.prompts, DRAWN, adapter=world.adapters[8])
    assert agree("drawn again", ids(again), ids(drawn)) >= REPEATED
    # A mistake is told in one line, and the engine goes on.
    with pytest.raises(UserError, match="missing"):
        started.generate(world.prompts, GREEDY, adapter=Path("absent"))
    assert len(started.generate(world.prompts[:2], GREEDY)) == 2


def test_a_model_that_vllm_refuses(world: World, tmp_path: Path) -> None:
    engine = EngineProcess(EngineSettings(str(tmp_path)), world.tokenizer, [world.end])
    with pytest.raises(UserError, match="vllm refuses model") as caught:
        engine.generate(world.prompts, GREEDY)
    assert "\n" not in str(caught.value)
    engine.close()


def test_a_process_that_is_killed(world: World, started: EngineProcess) -> None:
    assert started._child.process.pid is not None
    os.kill(started._child.process.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="exit code -9"):
        started.generate(world.prompts, GREEDY)


def test_stopping_ends_the_process(world: World, started: EngineProcess) -> None:
    interrupt._asked.set()
    try:
        with pytest.raises(Interrupted):
            started.generate(world.prompts, GREEDY)
    finally:
        interrupt.reset()
    started._child.process.join(5)
    assert not started._child.process.is_alive()
