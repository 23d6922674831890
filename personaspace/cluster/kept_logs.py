"""Logs that a release's Jobs left in its store: pods are gone with their nodes, or after a time."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from personaspace.cluster.api import Cluster
from personaspace.cluster.installed import installed
from personaspace.cluster.log_lines import for_people
from personaspace.cluster.reachability import check_reachable
from personaspace.cluster.release import store_url
from personaspace.pipeline.job_log import kept
from personaspace.pipeline.node import Node
from personaspace.store import open_store


@dataclass(frozen=True)
class KeptLogs:
    """Where to look, and for what.

    Attributes:
        cluster: Where the release is.
        release: Its name.
        condition: A condition, or `aggregate` or `publish`.
        stage: Only this stage; empty: all.
        seed: Only this seed; None: all.
        store: Where artifacts are; None: as the release says.
        command: What was asked for and how the cluster is named, to be told again.
        where: What names the cluster, as kubectl takes it.
    """

    cluster: Cluster
    release: str
    condition: str
    stage: str = ""
    seed: int | None = None
    store: str | None = None
    command: Sequence[str] = ()
    where: Sequence[str] = ()

    def show(self, but: Collection[str], tail: int, raw: bool) -> bool:
        """Print them; whether there was any.

        Args:
            but: Jobs whose pods have told theirs.
            tail: Last lines of each; -1: all.
            raw: Lines as they were logged; else those that are JSON read as plain ones would.

        Raises:
            UserError: The study cannot be read here, or the store cannot be reached.
        """
        known = installed(self.cluster, self.release)
        if known is None:
            return False
        told = {node for job in but for node in known.jobs.get(job, ())}
        keys = {
            node: key
            for node, key in known.keys().items()
            if self._is_asked(node) and node.id not in told
        }
        if not keys:
            return False
        url = self.store
        if url is None:
            url = store_url(self.cluster, self.release)
            space = self.cluster.namespace
            check_reachable(url, self.release, space, list(self.where), self.command)
        found = False
        with open_store(url) as store:
            for node, key in keys.items():
                for text in kept(store, key):
                    found = True
                    _print(node, text, tail, raw)
        return found

    def _is_asked(self, node: Node) -> bool:
        if self.condition == node.stage and not node.condition:
            return True
        return (
            node.condition == self.condition
            and self.stage in ("", node.stage)
            and self.seed in (None, node.seed)
        )


def _print(node: Node, text: str, tail: int, raw: bool) -> None:
    prefix = f"[{node.stage}{f' s{node.seed}' if node.condition else ''} kept]"
    lines = text.splitlines()
    for line in lines[max(0, len(lines) - tail) :] if tail >= 0 else lines:
        for part in (line if raw else for_people(line)).splitlines() or [""]:
            sys.stdout.write(f"{prefix} {part}\n")
    sys.stdout.flush()
