"""What a run would do: which nodes, why, and for how long."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from personaspace.pipeline.cost import load_of
from personaspace.pipeline.node import Node
from personaspace.pipeline.runtime import device_name
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.why import Why, former, reasons, trained_again
from personaspace.pipeline.work import Work
from personaspace.store import Manifest
from personaspace.study.inputs import Dose


class Basis(StrEnum):
    """What a time is known from."""

    MEASURED = "measured"  # stages of its kind that ran on such a device, as the store tells
    H100 = "h100"  # counted tokens, at the rates of an H100
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Forecast:
    """A node that would run.

    Attributes:
        node: The node.
        why: Why it would.
        missing: What it needs, is not complete and would not run: it would fail.
        seconds: For about how long.
        basis: What that is known from.
    """

    node: Node
    why: Why
    missing: tuple[Node, ...]
    seconds: float | None
    basis: Basis

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "node": self.node.id,
            "why": self.why.to_dict(),
            "missing": [need.id for need in self.missing],
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "basis": self.basis,
        }


def forecast(work: Work, nodes: Collection[Node]) -> list[Forecast]:
    """What would run of these nodes, in the graph's order.

    Nothing is written, and the store's folder need not exist.
    """
    pending: list[Node] = []
    known: dict[Node, Manifest] = {}
    why: dict[Node, Why] = {}
    for node in work.graph.nodes:
        manifest = work.complete(node)
        if manifest is not None:
            known[node] = manifest
        elif node in nodes:
            others = former(work, node)
            why[node] = reasons(work, node, pending, others)
            pending.append(node)
            if others:
                known[node] = others[0]
    times = _times(known)
    copied = {node for node in (*times, *pending) if _is_copied(work, node)}
    return [
        Forecast(
            node, why[node], _missing(work, node, pending), *_seconds(work, node, times, copied)
        )
        for node in pending
    ]


def _missing(work: Work, node: Node, pending: Collection[Node]) -> tuple[Node, ...]:
    needs = work.graph.needs[node]
    gone = [need for need in needs if need not in pending and work.manifest(need) is None]
    tolerant = STAGES[node.stage].tolerates_loss(work.study) and len(gone) < len(needs)
    return () if tolerant else tuple(gone)


def _times(known: dict[Node, Manifest]) -> dict[Node, float]:
    """Seconds that artifacts took on a device such as this."""
    timed = {n: m for n, m in known.items() if m.fields.get("seconds") is not None}
    if not timed:
        return {}
    here = {uses_model: device_name(uses_model) for uses_model in (True, False)}
    return {
        node: manifest.fields["seconds"]
        for node, manifest in timed.items()
        if manifest.fields.get("device") == here[STAGES[node.stage].uses_model]
    }


def _seconds(
    work: Work, node: Node, times: dict[Node, float], copied: Collection[Node]
) -> tuple[float | None, Basis]:
    """As long as it took before, or as the mean of its like; else as counted for an H100."""
    alike = [
        seconds
        for other, seconds in times.items()
        if other.stage == node.stage and (other in copied) == (node in copied)
    ]
    if node in times:
        return times[node], Basis.MEASURED
    if alike:
        return sum(alike) / len(alike), Basis.MEASURED
    load = load_of(work.study, node, kept=node in copied)
    seconds = None if load is None else load.gpu_seconds(work.study.spec.model)
    return seconds, Basis.UNKNOWN if seconds is None else Basis.H100


def _is_copied(work: Work, node: Node) -> bool:
    """Whether it is a dose's adapter that the whole training keeps, and no training."""
    condition = work.study.spec.condition(node.condition) if node.condition else None
    dose = STAGES[node.stage].of_whole is not None and isinstance(condition, Dose)
    return dose and not trained_again(work, node)
