"""What a release's ConfigMaps say of it: they stay when its Jobs and pods are gone."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from personaspace.cluster import names
from personaspace.cluster.api import Cluster
from personaspace.errors import UserError
from personaspace.pipeline.node import Node

_STUDY, _JOBS = "study", "jobs"


@dataclass(frozen=True)
class Installed:
    """A release as it was installed.

    Attributes:
        jobs: Nodes of each Job of the study, by the Job's name.
        study: The study, as YAML.
        store: Where artifacts are; empty: the secret says.
        secret: Name of the bucket's secret; empty: there is none.
    """

    jobs: dict[str, list[str]]
    study: str
    store: str
    secret: str

    def artifact_keys(self) -> dict[str, str]:
        """Keys of the study's aggregate and report, by stage.

        Raises:
            UserError: As `keys`.
        """
        found = {node.id: key for node, key in self.keys().items()}
        return {stage: found[stage] for stage in ("aggregate", "report") if stage in found}

    def keys(self) -> dict[Node, str]:
        """Where the artifact of each node lies.

        Raises:
            UserError: The study cannot be read here (it may name files that only pods see).
        """
        from personaspace.pipeline import graph as graphs
        from personaspace.study.load import load_study

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "experiment.yaml"
            path.write_text(self.study, encoding="utf-8")
            loaded = load_study(path)
            graph = graphs.build(loaded)
            prints = graphs.fingerprints(loaded, graph)
        return {node: graphs.key(node, prints[node]) for node in graph.nodes}


def installed(cluster: Cluster, release: str) -> Installed | None:
    """The release as it was installed; None: it is not, or one may not look."""
    selector = f"{names.APP}=personaspace,{names.INSTANCE}={release}"
    newest: dict[str, dict[str, Any]] = {}
    try:
        found = list(
            cluster.items(
                "configmaps", label_selector=f"{selector},{names.COMPONENT} in ({_STUDY},{_JOBS})"
            )
        )
    except ApiException:
        return None
    # An upgrade that was cut off leaves those of before.
    for raw in sorted(found, key=lambda raw: str(raw["metadata"]["creationTimestamp"])):
        newest[raw["metadata"]["labels"][names.COMPONENT]] = raw
    if newest.keys() != {_STUDY, _JOBS}:
        return None
    notes = newest[_STUDY]["metadata"].get("annotations", {})
    return Installed(
        json.loads(newest[_JOBS]["data"]["jobs.json"]),
        newest[_STUDY]["data"]["experiment.yaml"],
        notes.get(names.STORE, ""),
        notes.get(names.STORE_SECRET, ""),
    )


def gone(release: str) -> UserError:
    """What to say where a release is installed and has no Jobs."""
    return UserError(
        f"{release}: its Jobs are gone: it was cancelled, or they were removed some time after "
        "their end; `helm upgrade` brings them back, and what is complete ends at once"
    )
