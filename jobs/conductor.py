"""Lets a release's pods start in order: one per release, on a CPU.

PERSONASPACE_RELEASE=em205 PERSONASPACE_JOBS=jobs.json PERSONASPACE_SPEC=study.yaml \
    PERSONASPACE_STORE=/tmp/store python -m jobs.conductor
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personaspace import interrupt

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    release: Annotated[str, typer.Option(envvar="PERSONASPACE_RELEASE")],
    jobs: Annotated[Path, typer.Option(help="Nodes by Job.", envvar="PERSONASPACE_JOBS")],
    spec: Annotated[Path, typer.Option(envvar="PERSONASPACE_SPEC")],
    store: Annotated[str, typer.Option(envvar="PERSONASPACE_STORE")] = "",
    namespace: Annotated[str, typer.Option(envvar="PERSONASPACE_NAMESPACE")] = "",
    queue: Annotated[str, typer.Option(envvar="PERSONASPACE_QUEUE")] = "",
    queue_gate: Annotated[str, typer.Option(envvar="PERSONASPACE_QUEUE_GATE")] = "annotation",
    patience: Annotated[float, typer.Option(envvar="PERSONASPACE_PATIENCE")] = 600.0,
    pod: Annotated[str, typer.Option(envvar="PERSONASPACE_POD")] = "",
) -> None:
    """Release pods whose inputs are complete until the study has ended."""
    from personaspace.cli.guard import as_job
    from personaspace.cluster.conductor.process import Settings, conduct

    settings = (release, jobs, spec, store, namespace, queue, queue_gate, patience)
    as_job(conduct)(Settings(*settings, pod))


if __name__ == "__main__":
    interrupt.begin()
    app()
