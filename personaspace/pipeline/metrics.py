"""Numbers for Prometheus: how far a pod's stages are, served while they run.

PERSONASPACE_METRICS_PORT names the port; without it nothing is served. What is served is read when
Prometheus asks. Nothing here can stop a stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from personaspace.errors import one_line
from personaspace.extras import missing
from personaspace.files import environment_number
from personaspace.pipeline.progress import Board, NodeProgress
from personaspace.pipeline.states import NodeState

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector

PORT = "PERSONASPACE_METRICS_PORT"
#: Labels of every number of a stage.
LABELS = ("study", "condition", "seed", "stage")


@dataclass(frozen=True)
class _Number:
    """One of a stage's numbers.

    Attributes:
        name: As Prometheus has it.
        what: What it is.
        of: Its value, given the node's progress and the time; None: it has none.
    """

    name: str
    what: str
    of: Callable[[NodeProgress, float], float | None]


def _of_step(name: str) -> Callable[[NodeProgress, float], float | None]:
    """A number of the training's last step; none before it made one."""
    return lambda state, _: None if state.measured is None else getattr(state.measured, name)


_NUMBERS = (
    _Number(
        "personaspace_stage_running",
        "Whether the stage runs.",
        lambda state, _: float(state.state is NodeState.RUNNING),
    ),
    _Number(
        "personaspace_stage_seconds",
        "For how long the stage has run, or ran.",
        lambda state, now: now - state.since if state.took is None else state.took,
    ),
    _Number(
        "personaspace_stage_done",
        "Finished units of the stage's phase: steps, prompts, answers.",
        lambda state, _: float(state.done),
    ),
    _Number(
        "personaspace_stage_units",
        "All units of the stage's phase.",
        lambda state, _: float(state.total),
    ),
    _Number(
        "personaspace_training_loss",
        "Mean cross-entropy over the tokens of the last step that carry loss, nats.",
        _of_step("loss"),
    ),
    _Number(
        "personaspace_training_learning_rate",
        "Learning rate of the last step.",
        _of_step("learning_rate"),
    ),
    _Number(
        "personaspace_training_gradient_norm",
        "Norm of the last step's gradient before it is clipped.",
        _of_step("gradient_norm"),
    ),
    _Number(
        "personaspace_training_tokens_per_second",
        "Tokens of the last step, by the seconds since the one before.",
        _of_step("tokens_per_second"),
    ),
    _Number(
        "personaspace_training_gpu_memory_bytes",
        "The most GPU memory that was reserved so far.",
        _of_step("gpu_memory"),
    ),
)


class Stages:
    """Reads a board for Prometheus: what of its nodes has begun.

    Args:
        study: Its name.
        board: Of the nodes that run here.
    """

    def __init__(self, study: str, board: Board) -> None:
        self._study, self._board = study, board

    def collect(self) -> Iterator[Metric]:
        """Each number, with one value for each node that has it."""
        from prometheus_client.core import GaugeMetricFamily

        now = time.monotonic()
        begun = [(node, state) for node, state in self._board.states.items() if state.since]
        for number in _NUMBERS:
            family = GaugeMetricFamily(number.name, number.what, labels=LABELS)
            for node, state in begun:
                value = number.of(state, now)
                if value is not None:
                    seed = str(node.seed) if node.condition else ""
                    family.add_metric([self._study, node.condition, seed, node.stage], value)
            yield family


@contextmanager
def served(say: Callable[[str], None], *collectors: Collector, port: int = 0) -> Iterator[int]:
    """Serve numbers, and those of this process, at /metrics.

    Args:
        say: Told why they cannot be served; whoever asked for them goes on without.
        collectors: Of our own.
        port: Where; 0: as the environment says.

    Yields:
        The port; 0: nothing is served.
    """
    port = port or int(environment_number(PORT, 0))
    stop = _start(say, collectors, port) if port else None
    try:
        yield port if stop else 0
    finally:
        if stop:
            stop()


def _start(
    say: Callable[[str], None], collectors: Sequence[Collector], port: int
) -> Callable[[], None] | None:
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        for collector in collectors:
            registry.register(collector)
        server, thread = start_http_server(port, registry=registry)
    except ModuleNotFoundError as error:
        say(f"metrics: not served: {one_line(missing(error))}")
        return None
    except OSError as error:  # somebody has the port
        say(f"metrics: not served on port {port}: {one_line(error)}")
        return None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
