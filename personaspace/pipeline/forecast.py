"""What a run would do: which nodes, why, and for how long."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from personaspace.pipeline import taking
from personaspace.pipeline.cost import load_of
from personaspace.pipeline.node import Node
from personaspace.pipeline.rows import FIELD as ROWS
from personaspace.pipeline.rows import Left
from personaspace.pipeline.runtime import device_name
from personaspace.pipeline.stages import STAGES
from personaspace.pipeline.states import Standing
from personaspace.pipeline.why import Why, former, reasons, trained_again
from personaspace.pipeline.work import Work
from personaspace.store import Manifest
from personaspace.study.inputs import Dose

#: Ready stages, at most, of which former rows are looked for to say what is left.
_LOOKED_AT = 200


class Basis(StrEnum):
    """What a time is known from."""

    MEASURED = "measured"  # stages of its kind that ran on such a device, as the store tells
    H100 = "h100"  # counted tokens, at the rates of an H100
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Already:
    """What former artifacts have of a node that would run.

    Attributes:
        whole: The artifact that only the order of lists tells from this one; None: there is none.
        left: Rows to compute; None: the whole is taken.
    """

    whole: Manifest | None = None
    left: Left | None = None

    @property
    def share(self) -> float:
        """How much of the work is left, 0 to 1."""
        return 0.0 if self.left is None else self.left.share

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "whole": self.whole is not None,
            "left": None if self.left is None else self.left.to_dict(),
        }

    def __str__(self) -> str:
        if self.left is None:
            return "only the order of lists is another: taken whole, nothing to compute"
        return str(self.left)


@dataclass(frozen=True)
class Forecast:
    """A node that would run.

    Attributes:
        node: The node.
        why: Why it would.
        missing: What it needs, is not complete and would not run: it would fail.
        seconds: For about how long.
        basis: What that is known from.
        already: What is taken from former artifacts; None: nothing, as far as can be known.
    """

    node: Node
    why: Why
    missing: tuple[Node, ...]
    seconds: float | None
    basis: Basis
    already: Already | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "node": self.node.id,
            "why": self.why.to_dict(),
            "missing": [need.id for need in self.missing],
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "basis": self.basis,
            "already": None if self.already is None else self.already.to_dict(),
        }


def forecast(work: Work, nodes: Collection[Node]) -> list[Forecast]:
    """What would run of these nodes, in the graph's order.

    Nothing is written, and the store's folder need not exist.
    """
    pending: list[Node] = []
    known: dict[Node, Manifest] = {}
    why: dict[Node, Why] = {}
    digests: dict[Node, str] = {}  # of what is complete, or will be taken whole
    taken: dict[Node, Already] = {}
    for node, manifest in work.all_complete():
        if manifest is not None:
            known[node], digests[node] = manifest, manifest.digest
        elif node in nodes:
            others = former(work, node)
            why[node] = reasons(work, node, pending, others)
            pending.append(node)
            if others:
                known[node] = others[0]
            inputs = {need.id: digests.get(need) for need in work.graph.needs[node]}
            found = _already(work, node, inputs, others)
            if found is not None:
                taken[node] = found
                if found.whole is not None:
                    digests[node] = found.whole.digest
    times = _times(known)
    copied = {node for node in (*times, *pending) if _is_copied(work, node)}
    return [
        Forecast(
            node,
            why[node],
            _missing(work, node, pending),
            *_seconds(work, node, times, copied, taken.get(node)),
            taken.get(node),
        )
        for node in pending
    ]


def rows_left(work: Work, standings: Mapping[Node, Standing]) -> dict[Node, Already]:
    """What former artifacts have of the nodes that could run now, of stages that have rows.

    Of nodes that wait it cannot be known: their inputs are not there. Nor is it looked for where
    very many are ready: each takes some questions to the store.
    """
    left = {}
    ready = [node for node, standing in standings.items() if standing is Standing.READY]
    ready = [node for node in ready if STAGES[node.stage].rows]
    for node in ready if len(ready) <= _LOOKED_AT else ():
        if not (others := former(work, node)):
            continue
        # All of them are complete, as the node is ready.
        there = {need.id: work.manifest(need) for need in work.graph.needs[node]}
        inputs = {name: found.digest if found else None for name, found in there.items()}
        already = _already(work, node, inputs, others)
        if already is not None:
            left[node] = already
    return left


def _already(
    work: Work, node: Node, inputs: Mapping[str, str | None], others: Sequence[Manifest]
) -> Already | None:
    """What former artifacts have of a node, where its inputs are known."""
    if None in inputs.values():
        return None
    same = taking.whole(work, node, inputs, others)
    if same is not None:
        return Already(whole=same)
    found = taking.offers(work, node, inputs, others)
    return Already(left=found.left) if found.found else None


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
    whole = {
        node: _whole_seconds(manifest)
        for node, manifest in timed.items()
        if manifest.fields.get("device") == here[STAGES[node.stage].uses_model]
    }
    return {node: seconds for node, seconds in whole.items() if seconds is not None}


def _whole_seconds(manifest: Manifest) -> float | None:
    """What all rows would have taken; None: it computed none."""
    rows = manifest.fields.get(ROWS)
    seconds: float = manifest.fields["seconds"]
    if rows is None:
        return seconds
    return seconds * rows["of"] / rows["computed"] if rows["computed"] else None


def _seconds(
    work: Work,
    node: Node,
    times: dict[Node, float],
    copied: Collection[Node],
    already: Already | None,
) -> tuple[float | None, Basis]:
    """Seconds that a node takes, less what is taken from former artifacts."""
    seconds, basis = _all_seconds(work, node, times, copied)
    if already is None or seconds is None:
        return seconds, basis
    return seconds * already.share, basis


def _all_seconds(
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
