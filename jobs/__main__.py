"""Runs one stage, as a container or Job does.

python -m jobs train --spec examples/tiny.yaml --store /tmp/store --condition benign --seed 42
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personaspace.commands.stage import run_stage
from personaspace.graph import STAGES

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

Spec = Annotated[Path, typer.Option(help="The study (YAML).", envvar="PERSONASPACE_SPEC")]
Store = Annotated[str, typer.Option(help="Artifact store.", envvar="PERSONASPACE_STORE")]
Condition = Annotated[str, typer.Option(help="Condition of the study.")]
Seed = Annotated[int, typer.Option(help="Seed of the study.")]


def _of_condition(stage: str) -> None:
    def command(spec: Spec, store: Store, condition: Condition, seed: Seed) -> None:
        run_stage(stage, spec, store, condition, seed)

    app.command(stage, help=f"Run {stage} for one condition and seed.")(command)


def _of_study(stage: str) -> None:
    def command(spec: Spec, store: Store) -> None:
        run_stage(stage, spec, store)

    app.command(stage, help=f"Run {stage} for the whole study.")(command)


for name in STAGES:
    (_of_study if name in ("aggregate", "report") else _of_condition)(name)

if __name__ == "__main__":
    app()
