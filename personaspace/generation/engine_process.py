"""A vLLM engine in a process of its own: it starts while others work, and frees all when it ends.

vLLM takes some twenty seconds to import and to set up, which training need not wait for; and what
it holds on a GPU is free for certain only when its process is gone.

The child first imports vLLM, which takes no device memory, then waits to be told to open the
engine. It ends when told so, when its pipe breaks, or with its parent.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace import interrupt
from personaspace.children import LOOK, Child, ChildGoneError, tell_mistake, telling
from personaspace.errors import UserError
from personaspace.generation.base import Advance, Answer, Prompt, Sampling
from personaspace.generation.vllm_settings import EngineSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Seconds that a child may take to leave by itself.
_PATIENCE = 10.0


class EngineProcess:
    """An engine that lives in another process; see `base.Engine`.

    The child starts at once and imports what it needs; `open` makes it load the model, without
    waiting for it.

    Args:
        settings: As for `VllmEngine`.
        tokenizer: As for `VllmEngine`; copied into the child.
        end_token_ids: As for `VllmEngine`.
    """

    name = "vllm"

    def __init__(
        self,
        settings: EngineSettings,
        tokenizer: PreTrainedTokenizerBase,
        end_token_ids: Sequence[int],
    ) -> None:
        args = (settings, tokenizer, tuple(end_token_ids))
        several = settings.tensor_parallel_size > 1  # each in a process that vLLM starts
        self._child = Child(_serve, args, "the vLLM process", may_start_others=several)
        self._told_to_open = False
        self._opened = False

    @property
    def told_to_open(self) -> bool:
        """Whether the engine holds device memory, or is about to."""
        return self._told_to_open

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._child.alive

    @property
    def opened(self) -> bool:
        """Whether it has ended loading, so that all its memory is seen on the device."""
        return self._opened or (self._told_to_open and self._child.has_said)

    def open(self) -> None:
        """Let the child load the model; returns at once."""
        if not self._told_to_open:
            self._told_to_open = True
            self._child.send("open")

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        adapter: Path | None = None,
        advance: Advance | None = None,
    ) -> list[list[Answer]]:
        """See `base.Engine.generate`; waits for the engine if need be.

        Raises:
            UserError: What `VllmEngine` raises, in making it or here.
            Interrupted: Asked to stop; the engine is gone then.
            RuntimeError: The engine failed, or its process died.
        """
        self.open()
        if not self._opened:
            self._await("opened", None)
            self._opened = True
        self._child.send("generate", list(prompts), sampling, adapter)
        answers: list[list[Answer]] = self._await("answers", advance)
        return answers

    def close(self) -> None:
        """End the process, and with it whatever it held. The engine is not used again."""
        self._child.send("close")
        # Loading or answering, it does not listen.
        self._child.end(_PATIENCE if self._opened else 0)

    def _await(self, wanted: str, advance: Advance | None) -> Any:
        """What the child answers, with its progress on the way."""
        while True:
            if interrupt.asked():
                self._child.kill()
                interrupt.check()
            try:
                received = self._child.receive(LOOK)
            except ChildGoneError:
                # A signal to stop may reach all processes of a group, this one's child first.
                interrupt.check()
                raise
            if received is None:
                continue
            kind, value = received
            if kind == "advance":
                self._advance(advance, value)
            else:
                assert kind == wanted
                return value

    def _advance(self, advance: Advance | None, count: int) -> None:
        if advance is None:
            return
        try:
            advance(count)
        except BaseException:
            # Its answers would come in place of the next call's.
            self._child.kill()
            raise


def _serve(
    pipe: Connection,
    settings: EngineSettings,
    tokenizer: PreTrainedTokenizerBase,
    end_token_ids: tuple[int, ...],
) -> None:
    """The child's whole life."""
    with telling(pipe, signal.SIG_DFL):
        from personaspace.generation.vllm_engine import VllmEngine, import_vllm

        import_vllm()
        engine: Any = None
        while True:
            try:
                what, *details = pipe.recv()
            except EOFError:  # the parent is gone
                return
            if what == "close":
                return
            if what == "open":
                engine = VllmEngine(settings, tokenizer, end_token_ids)
                pipe.send(("opened", None))
                continue
            prompts, sampling, adapter = details
            report = _Report(pipe)
            try:
                answers = engine.generate(prompts, sampling, adapter=adapter, advance=report)
            except UserError as error:
                tell_mistake(pipe, error)
                continue
            report.flush()
            pipe.send(("answers", answers))


class _Report:
    """Progress to the parent, not more often than it is looked at."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._count = 0
        self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._last > LOOK:
            self.flush()

    def flush(self) -> None:
        """Tell what was not told yet."""
        if self._count:
            self._pipe.send(("advance", self._count))
        self._count, self._last = 0, time.monotonic()
