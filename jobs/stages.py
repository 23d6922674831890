"""The commands of `python -m jobs`: one stage, or what belongs together."""

from pathlib import Path
from typing import Annotated

import typer

from personaspace.cli.guard import as_job
from personaspace.cli.usage import Commands
from personaspace.pipeline import job
from personaspace.pipeline.stage import Scope, Stage
from personaspace.pipeline.stages import STAGES

app = typer.Typer(
    cls=Commands, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)

Spec = Annotated[Path, typer.Option(help="The study (YAML).", envvar="PERSONASPACE_SPEC")]
Store = Annotated[str, typer.Option(help="Artifact store.", envvar="PERSONASPACE_STORE")]
Condition = Annotated[str, typer.Option(help="Condition of the study.")]
Seed = Annotated[int, typer.Option(help="Seed of the study.")]


def _add(stage: Stage) -> None:
    def of_condition(spec: Spec, condition: Condition, seed: Seed, store: Store = "") -> None:
        as_job(job.run_stage)(stage.name, spec, store, condition, seed)

    def of_study(spec: Spec, store: Store = "") -> None:
        as_job(job.run_stage)(stage.name, spec, store)

    command = of_study if stage.scope is Scope.STUDY else of_condition
    app.command(stage.name, help=f"Run {stage.name} alone.")(command)


for stage in STAGES.values():
    _add(stage)


@app.command()
def condition(spec: Spec, condition: Condition, seed: Seed, store: Store = "") -> None:
    """Run all stages of one condition and seed, the model loaded once."""
    as_job(job.run_condition)(spec, store, condition, seed)


@app.command()
def conclude(spec: Spec, store: Store = "") -> None:
    """Run aggregate and report."""
    as_job(job.conclude)(spec, store)


@app.command()
def check(spec: Spec, store: Store = "", gpu: bool = False) -> None:
    """Check store, credentials, code and GPU, as `helm test` does."""
    from personaspace.cluster.check import run_check

    as_job(run_check)(spec, store, gpu)
