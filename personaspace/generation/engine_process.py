"""A vLLM engine in a process of its own: it starts while others work, and frees all when it ends.

vLLM takes some twenty seconds to import and to set up, which training need not wait for; and what
it holds on a GPU is free for certain only when its process is gone.

The child first imports vLLM, which takes no device memory, then waits to be told to open the
engine. It ends when told so, when its pipe breaks, or with its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personaspace import interrupt
from personaspace.errors import UserError
from personaspace.generation.base import Advance, Answer, Prompt, Sampling
from personaspace.generation.vllm_settings import EngineSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Seconds between looks at whether the run was asked to stop.
_LOOK = 0.2
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
        context = multiprocessing.get_context("spawn")
        self._pipe, childs_end = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(childs_end, settings, tokenizer, tuple(end_token_ids)),
            name="vllm",
            daemon=True,
        )
        self._process.start()
        childs_end.close()
        self._told_to_open = False
        self._opened = False
        self._pending: tuple[str, Any] | None = None

    @property
    def told_to_open(self) -> bool:
        """Whether the engine holds device memory, or is about to."""
        return self._told_to_open

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    @property
    def opened(self) -> bool:
        """Whether it has ended loading, so that all its memory is seen on the device."""
        if self._told_to_open and not self._opened and self._pending is None and self._pipe.poll(0):
            with suppress(EOFError, OSError):
                self._pending = self._pipe.recv()
        return self._opened or self._pending is not None

    def open(self) -> None:
        """Let the child load the model; returns at once."""
        if not self._told_to_open:
            self._told_to_open = True
            self._send(("open",))

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
        self._send(("generate", list(prompts), sampling, adapter))
        answers: list[list[Answer]] = self._await("answers", advance)
        return answers

    def close(self) -> None:
        """End the process, and with it whatever it held. The engine is not used again."""
        self._send(("close",))
        self._pipe.close()
        # Loading or answering, it does not listen.
        self._process.join(_PATIENCE if self._opened else 0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _send(self, message: tuple[Any, ...]) -> None:
        # A child that is gone may have said why: whoever waits for its answer reads that.
        with suppress(OSError):
            self._pipe.send(message)

    def _await(self, wanted: str, advance: Advance | None) -> Any:
        """What the child answers, with its progress on the way."""
        while True:
            if interrupt.asked():
                self._process.kill()
                interrupt.check()
            received = self._receive()
            if received is None:
                continue
            kind, value = received
            if kind == "advance":
                self._advance(advance, value)
            elif kind == "mistake":
                raise UserError(value)
            elif kind == "failure":
                raise RuntimeError(value)
            else:
                assert kind == wanted
                return value

    def _receive(self) -> tuple[str, Any] | None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return pending
        try:
            if not self._pipe.poll(_LOOK):
                return None
            received: tuple[str, Any] = self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None
        return received

    def _advance(self, advance: Advance | None, count: int) -> None:
        if advance is None:
            return
        try:
            advance(count)
        except BaseException:
            # Its answers would come in place of the next call's.
            self._process.kill()
            raise

    def _death(self) -> RuntimeError:
        self._process.join(_PATIENCE)
        # A signal to stop may reach all processes of a group, this one's child first.
        interrupt.check()
        return RuntimeError(
            f"the vLLM process ended with exit code {self._process.exitcode} (its log says why; "
            "negative: killed by that signal, 9 mostly for want of memory)"
        )


def _serve(
    pipe: Connection,
    settings: EngineSettings,
    tokenizer: PreTrainedTokenizerBase,
    end_token_ids: tuple[int, ...],
) -> None:
    """The child's whole life."""
    # Ctrl-C reaches all processes of a terminal; the parent says what is to happen.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    engine: Any = None
    code = 0
    try:
        from personaspace.generation.vllm_engine import VllmEngine, import_vllm

        import_vllm()
        while True:
            what, *details = pipe.recv()
            if what == "close":
                break
            if what == "open":
                engine = VllmEngine(settings, tokenizer, end_token_ids)
                pipe.send(("opened", None))
                continue
            prompts, sampling, adapter = details
            report = _Report(pipe)
            try:
                answers = engine.generate(prompts, sampling, adapter=adapter, advance=report)
            except UserError as error:
                pipe.send(("mistake", str(error)))
                continue
            report.flush()
            pipe.send(("answers", answers))
    except (EOFError, BrokenPipeError):
        pass
    except UserError as error:
        pipe.send(("mistake", str(error)))
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        pipe.send(("failure", f"vLLM: {type(error).__name__}: {text}"))
        traceback.print_exc()
        code = 1
    finally:
        # Nothing is left to tidy that the end of the process does not free, and vLLM's own way
        # down can hang on its threads.
        sys.stderr.flush()
        os._exit(code)


class _Report:
    """Progress to the parent, not more often than it is looked at."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._count = 0
        self._last = time.monotonic()

    def __call__(self, count: int) -> None:
        self._count += count
        if time.monotonic() - self._last > _LOOK:
            self.flush()

    def flush(self) -> None:
        """Tell what was not told yet."""
        if self._count:
            self._pipe.send(("advance", self._count))
        self._count, self._last = 0, time.monotonic()
